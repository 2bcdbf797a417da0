"""Checkpoints in quantized formats. Their reference is transformers in float32 on the dequantized weights."""

import json
import pathlib
import shutil
import tempfile

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors import safe_open

import cases
import ggufs
import models
import nf4
import reference
import seeds
from reference import CloseCall, Reference


def float_folder(parent: pathlib.Path, config: dict, tensors: dict[str, np.ndarray]) -> pathlib.Path:
    """A folder of float32 weights under `parent`, for the reference to read."""
    folder, _ = models.write_folder("float32", config, parent=parent)
    models.save(folder, {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in tensors.items()})
    return folder


def nf4_folder(name: str, nested: bool, seed: int) -> None:
    """A folder as transformers and bitsandbytes save it."""
    config = models.tiny_nf4()
    folder, tokens = models.write_folder(name, config)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        base, _ = models.write_folder("base", config, parent=work)

        def prepare(seed: int) -> Reference:
            models.save(base, models.build(base, tokens, seed))
            nf4.quantize(base, work / "nf4", nested)
            for file in ("config.json", "model.safetensors"):
                shutil.copy(work / "nf4" / file, folder / file)
                (folder / file).chmod(0o644)
            return Reference(float_folder(work, config, nf4.values(folder)))

        seed, made = seeds.first(name, seed, cases.TEXT, prepare)
    reference.write(folder / "goldens.json", {"checkpoint": name, "seed": seed}, made)


def tensors_of(folder: pathlib.Path, prefix: str) -> dict[str, np.ndarray]:
    """A folder's tensors under `prefix` in float32, without the prefix (and without transformers 4's vision_model)."""
    out = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as f:
            for key in f.keys():
                if key.startswith(prefix):
                    name = key[len(prefix) :].replace("vision_tower.vision_model.", "vision_tower.")
                    out[name] = f.get_tensor(key).float().numpy()
    return out


def parts(folder: pathlib.Path) -> tuple[dict, dict]:
    """config.json and tokenizer.json."""
    return json.loads((folder / "config.json").read_text()), json.loads((folder / "tokenizer.json").read_text())


def fresh(name: str) -> pathlib.Path:
    folder = models.TESTDATA / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def text_gguf() -> None:
    """tiny-text in F32: exact, so its goldens hold for it."""
    base = models.TESTDATA / "tiny-text"
    config, built = parts(base)
    path = fresh("tiny-text-gguf") / "tiny-text-f32.gguf"
    ggufs.write_text(path, "tiny-text", config, tensors_of(base, "model."), built, models.TEMPLATE, lambda _: Type.F32)
    ref = Reference(base)
    for p in ref.model.parameters():
        p.data.zero_()
    ggufs.load_text(ref.model, path)
    known = json.loads((base / "goldens.json").read_text())["cases"]
    for case in known[:3]:
        # (1 + w) - 1 in float32 moves a norm weight by 6e-8, so the last digit may turn.
        got = ref.run({k: case[k] for k in ("name", "messages")})
        assert got["greedy"] == case["greedy"]
        assert np.allclose(got["prompt_logprobs"], case["prompt_logprobs"], atol=1e-4)
    print("tiny-text-gguf: as tiny-text")


def mm16_gguf() -> None:
    """tiny-mm16 in Q8_0, its image encoder in a second file in F16."""
    base = models.TESTDATA / "tiny-mm16"
    config, built = parts(base)
    folder = fresh("tiny-mm16-gguf")
    path, mmproj = folder / "tiny-mm16-q8_0.gguf", folder / "mmproj-tiny-mm16-f16.gguf"
    text = tensors_of(base, "model.language_model.")
    ggufs.write_text(path, "tiny-mm16", config["text_config"], text, built, models.TEMPLATE, lambda _: Type.Q8_0)
    ggufs.write_mmproj(mmproj, "tiny-mm16", config, tensors_of(base, "model."))
    ref = Reference(base)
    for p in ref.model.parameters():
        p.data.zero_()
    ggufs.load_text(ref.model, path, "model.language_model.")
    ggufs.load_mmproj(ref.model, mmproj)
    made = []
    for case in cases.TEXT + cases.IMAGES:
        # The weights are tiny-mm16's, so a case that is too close to call with them is left out.
        try:
            made.append(ref.run(case))
        except CloseCall as why:
            print(f"tiny-mm16-gguf: {case['name']} left out ({why})")
    reference.write(folder / "goldens.json", {"checkpoint": path.name, "mmproj": mmproj.name}, made)
    print(f"tiny-mm16-gguf: {len(made)} cases")


# Each type once; attention's output has rows of 128, which the types with blocks of 256 don't fit.
KINDS = {
    "token_embd": [Type.Q6_K],
    "attn_q": [Type.Q4_K, Type.IQ4_XS],
    "attn_k": [Type.Q6_K, Type.F16],
    "attn_v": [Type.Q8_0, Type.BF16],
    "attn_output": [Type.IQ4_NL, Type.Q4_0],
    "ffn_gate": [Type.Q2_K, Type.Q5_K],
    "ffn_up": [Type.Q3_K, Type.Q4_1],
    "ffn_down": [Type.Q5_0, Type.Q5_1],
}


def kq_kind(name: str) -> Type:
    words = name.split(".")
    return KINDS[words[-2]][int(words[1]) if words[0] == "blk" else 0]


def kq_gguf(seed: int) -> None:
    """Every block type that published files mix, in one file."""
    config = models.tiny_kq()
    folder = fresh("tiny-kq-gguf")
    path = folder / "tiny-kq.gguf"
    with tempfile.TemporaryDirectory() as work:
        base, tokens = models.write_folder("base", config, parent=pathlib.Path(work))
        _, built = parts(base)

        def prepare(seed: int) -> Reference:
            models.save(base, models.build(base, tokens, seed))
            text = tensors_of(base, "model.")
            ggufs.write_text(path, "tiny-kq", config, text, built, models.TEMPLATE, kq_kind)
            ref = Reference(base)
            ggufs.load_text(ref.model, path)
            return ref

        seed, made = seeds.first("tiny-kq-gguf", seed, cases.TEXT, prepare)
    reference.write(folder / "goldens.json", {"checkpoint": path.name, "seed": seed}, made)

