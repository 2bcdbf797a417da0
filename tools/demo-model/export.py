"""The trained weights as files.

python export.py RUN OUT          RUN has weights-*.pt of train.py; OUT gets the GGUF pair that is shipped
python export.py RUN OUT --hf     OUT gets a Hugging Face folder in bf16 (or another type: --hf float32)
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import torch

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "goldens"))

import gguf  # noqa: E402
import ggufs  # noqa: E402
import models  # noqa: E402
import tokenizer as layout  # noqa: E402
from gguf import GGMLQuantizationType as Type  # noqa: E402

from settings import CONFIG  # noqa: E402

NAME = "medgemma demo"
TEXT_FILE, VISION_FILE = "medgemma-demo-q8_0.gguf", "mmproj-medgemma-demo-q8_0.gguf"
_LANGUAGE, _VISION = "language_model.model.", "vision_tower.vision_model."


def built_tokenizer() -> dict:
    return json.loads((HERE / "tokenizer.json").read_text())


def hugging_face(folder: pathlib.Path, state: dict[str, torch.Tensor], dtype=torch.bfloat16) -> None:
    """A checkpoint folder with the hub's names."""
    folder.mkdir(parents=True, exist_ok=True)
    models.write_json(folder / "config.json", CONFIG | {"torch_dtype": str(dtype).removeprefix("torch.")})
    (folder / "tokenizer.json").write_text((HERE / "tokenizer.json").read_text())
    models.write_json(folder / "tokenizer_config.json", layout.config("full", built_tokenizer(), models.TEMPLATE))
    models.write_json(folder / "special_tokens_map.json", layout.special_tokens_map("full"))
    models.write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": 2,
            "do_sample": False,
            "eos_token_id": [1, 106],
            "pad_token_id": 0,
            "transformers_version": "4.52.0.dev0",
        },
    )
    size, count = CONFIG["vision_config"]["image_size"], CONFIG["mm_tokens_per_image"]
    models.write_json(
        folder / "preprocessor_config.json",
        {
            "do_convert_rgb": None, "do_normalize": True, "do_pan_and_scan": None, "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5], "image_processor_type": "Gemma3ImageProcessor", "image_seq_length": count,
            "image_std": [0.5, 0.5, 0.5], "processor_class": "Gemma3Processor", "resample": 2,
            "rescale_factor": 0.00392156862745098, "size": {"height": size, "width": size},
        },
    )  # fmt: skip
    models.write_json(
        folder / "processor_config.json", {"image_seq_length": count, "processor_class": "Gemma3Processor"}
    )
    models.save(folder, {k: v.detach().to(dtype).contiguous() for k, v in state.items()})


def gguf_pair(
    folder: pathlib.Path, state: dict[str, torch.Tensor], text=lambda name: Type.Q8_0, vision: Type = Type.Q8_0
) -> None:
    """Decoder and image encoder as llama.cpp's converter lays them out; `text(name)` is the type of a matrix."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {k: v.detach().float().numpy() for k, v in state.items()}
    decoder = {k.removeprefix(_LANGUAGE): v for k, v in values.items() if k.startswith(_LANGUAGE)}
    config = CONFIG["text_config"] | {"rope_parameters": {"full_attention": CONFIG["text_config"]["rope_scaling"]}}
    ggufs.write_text(folder / TEXT_FILE, NAME, config, decoder, built_tokenizer(), models.TEMPLATE, text)
    rest = {k.replace(_VISION, "vision_tower."): v for k, v in values.items() if not k.startswith(_LANGUAGE)}
    ggufs.write_mmproj(folder / VISION_FILE, NAME, CONFIG, rest, vision)


def read_pair(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    """The pair's values in float32 under the hub's names."""
    out: dict[str, np.ndarray] = {}
    for tensor in gguf.GGUFReader(folder / TEXT_FILE).tensors:
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            name = f"layers.{parts[1]}.{ggufs.NAMES[parts[2]]}.weight"
        else:
            name = {"token_embd": "embed_tokens", "output_norm": "norm"}[parts[0]] + ".weight"
        out[_LANGUAGE + name] = ggufs.values_of(tensor) - (1 if "norm" in parts[-2] else 0)
    names = ggufs.mmproj_names(CONFIG["vision_config"]["num_hidden_layers"])
    for tensor in gguf.GGUFReader(folder / VISION_FILE).tensors:
        name = names[tensor.name].replace("vision_tower.", _VISION)
        out[name] = ggufs.values_of(tensor) - (1 if "soft_emb_norm" in tensor.name else 0)
    dim, patch = CONFIG["vision_config"]["hidden_size"], CONFIG["vision_config"]["patch_size"]
    weight = _VISION + "embeddings.patch_embedding.weight"
    out[weight] = out[weight].reshape(dim, 3, patch, patch)
    return {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in out.items()}


def main() -> None:
    from train import load

    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("run", type=pathlib.Path)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--hf", nargs="?", const="bfloat16", choices=("bfloat16", "float16", "float32"))
    args = p.parse_args()
    state = load(args.run)
    if args.hf:
        hugging_face(args.out, state, getattr(torch, args.hf))
    else:
        gguf_pair(args.out, state)
    for file in sorted(args.out.iterdir()):
        print(f"{file.stat().st_size:>10} {file}")


if __name__ == "__main__":
    main()
