"""The tiny checkpoints: configurations as the hub's files spell them, random weights, and how each is written.

Every number is chosen to make a mistake visible: heads · head_dim differs from the hidden size, query_pre_attn_scalar
from head_dim, windows are shorter than the prompts, norm weights are far from zero.
"""

import json
import math
import pathlib
import shutil

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, Gemma3ForCausalLM, Gemma3ForConditionalGeneration

import tokenizer

HERE = pathlib.Path(__file__).resolve().parent
TESTDATA = HERE.parents[1] / "testdata"
TEMPLATE = (HERE / "chat_template.jinja").read_text()

FULL, COMPACT = 1000, 700  # tokens of the two tokenizer layouts


def tiny_mm() -> dict:
    """Legacy names, defaults left out, 4 tokens an image."""
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": FULL - 3,
        "eoi_token_index": FULL - 2,
        "eos_token_id": [1, 106],
        "image_token_index": FULL,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 4,
        "model_type": "gemma3",
        "text_config": {
            "head_dim": 24,
            "hidden_size": 64,
            "intermediate_size": 96,
            "model_type": "gemma3_text",
            "num_attention_heads": 4,
            "num_hidden_layers": 12,
            "num_key_value_heads": 2,
            "query_pre_attn_scalar": 20,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 12,
            "vocab_size": FULL + 24,
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.0.dev0",
        "vision_config": {
            "hidden_size": 48,
            "image_size": 56,
            "intermediate_size": 80,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "patch_size": 14,
            "vision_use_head": False,
        },
    }


def tiny_mm16() -> dict:
    """New names and new spellings, two shards, 16 tokens an image, a window that an image doesn't fit in."""
    layers = 7
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": FULL - 3,
        "dtype": "bfloat16",
        "eoi_token_index": FULL - 2,
        "eos_token_id": [1, 106],
        "image_token_index": FULL,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 16,
        "model_type": "gemma3",
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_logit_softcapping": None,
            "bos_token_id": 2,
            "dtype": "bfloat16",
            "eos_token_id": 1,
            "final_logit_softcapping": None,
            "head_dim": 24,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 96,
            "initializer_range": 0.02,
            "intermediate_size": 64,
            "layer_types": ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)],
            "max_position_embeddings": 131072,
            "model_type": "gemma3_text",
            "num_attention_heads": 4,
            "num_hidden_layers": layers,
            "num_key_value_heads": 2,
            "pad_token_id": 0,
            "query_pre_attn_scalar": 24,
            "rms_norm_eps": 1e-06,
            "rope_parameters": {
                "full_attention": {"factor": 8.0, "rope_theta": 1000000.0, "rope_type": "linear"},
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            },
            "sliding_window": 10,
            "tie_word_embeddings": True,
            "use_bidirectional_attention": False,
            "use_cache": True,
            "vocab_size": FULL + 24,
        },
        "tie_word_embeddings": True,
        "transformers_version": "5.0.0",
        "vision_config": {
            "attention_dropout": 0.0,
            "dtype": "bfloat16",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 48,
            "image_size": 112,
            "intermediate_size": 80,
            "layer_norm_eps": 1e-06,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 4,
            "num_channels": 3,
            "num_hidden_layers": 2,
            "patch_size": 14,
            "vision_use_head": False,
        },
    }


def tiny_text(**changes) -> dict:
    """Text only, as the 270m and 1b files are written: every key there, no RoPE scaling, other token ids."""
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "bos_token_id": 3,
        "cache_implementation": "hybrid",
        "eos_token_id": [5, 4],
        "final_logit_softcapping": None,
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 64,
        "max_position_embeddings": 32768,
        "model_type": "gemma3_text",
        "num_attention_heads": 4,
        "num_hidden_layers": 7,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "query_pre_attn_scalar": 32,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 16,
        "sliding_window_pattern": 6,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0.dev0",
        "use_cache": True,
        "vocab_size": COMPACT,
    } | changes


def tiny_nf4() -> dict:
    """Matrices of more than 256 blocks of 64, so that nested scales come in several groups; every other layer global."""
    return tiny_text(num_hidden_layers=3, hidden_size=64, intermediate_size=288, sliding_window_pattern=2)


def tiny_kq() -> dict:
    """Rows of 256 for the K-quants, but for attention's output, whose 128 only fit blocks of 32."""
    return tiny_text(
        hidden_size=256, head_dim=64, num_attention_heads=2, query_pre_attn_scalar=64, intermediate_size=256, num_hidden_layers=2
    )  # fmt: skip


def layout_of(config: dict) -> str:
    return "compact" if config["model_type"] == "gemma3_text" else "full"


def fill(model: torch.nn.Module, tokens: dict[str, int], seed: int) -> None:
    """Random weights, rounded to bf16, that give lively attention and clear winners.

    Rows of tokens that a reply can't hold (images, padding, rows past the vocabulary) are small, so that greedy
    decoding doesn't choose them; <end_of_turn> is large, so that it sometimes does.
    """
    rng = np.random.default_rng(seed)
    quiet = ["<pad>", "<bos>", "<unk>", "<start_of_image>", "<end_of_image>", "<image_soft_token>", "<start_of_turn>"]
    for name, p in model.named_parameters():
        normal = rng.standard_normal(tuple(p.shape))
        leaf = name.split(".")[-2]
        if "embed_tokens" in name:
            w = 0.1 * normal
            w[len(tokens) :] *= 0.05
            w[[tokens[t] for t in quiet if t in tokens]] *= 0.05
            w[[i for t, i in tokens.items() if t.startswith("<unused")]] *= 0.3
            w[tokens["<end_of_turn>"]] *= 1.4
        elif "vision_tower" in name or "vision_model" in name:
            if "layer_norm" in leaf or "layernorm" in leaf:
                w = 1 + 0.2 * normal if name.endswith("weight") else 0.1 * normal
            elif name.endswith("bias"):
                w = 0.1 * normal
            elif "position" in name:
                w = 0.4 * normal
            elif "patch" in name:
                w = 2 * normal / math.sqrt(np.prod(p.shape[1:]))
            else:
                w = 1.4 * normal / math.sqrt(p.shape[-1])
        elif "mm_input_projection_weight" in name:
            w = 1.2 * normal / math.sqrt(p.shape[0])
        elif leaf in ("q_norm", "k_norm"):
            w = 0.4 + 0.2 * normal
        elif leaf == "post_attention_layernorm":
            w = 0.2 * normal
        elif leaf == "post_feedforward_layernorm":
            w = -0.4 + 0.2 * normal
        elif leaf == "norm":
            w = -1 + 4 * normal  # both signs: the tied embeddings would have every token repeat itself otherwise
        elif "norm" in leaf:
            w = 0.3 * normal
        else:
            w = normal / math.sqrt(p.shape[-1])
        with torch.no_grad():
            p.copy_(torch.from_numpy(w).to(torch.bfloat16).to(p.dtype))


def legacy_name(name: str) -> str:
    for new, old in (
        ("model.language_model.", "language_model.model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
        ("model.vision_tower.", "vision_tower.vision_model."),
    ):
        if name.startswith(new):
            return old + name[len(new) :]
    return name


def new_name(name: str) -> str:
    """What transformers 5.0 saved: the vision tower still had its inner `vision_model`."""
    if name.startswith("model.vision_tower.") and not name.startswith("model.vision_tower.vision_model."):
        return name.replace("model.vision_tower.", "model.vision_tower.vision_model.", 1)
    return name


def state(model: torch.nn.Module, dtype=torch.bfloat16) -> dict[str, torch.Tensor]:
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", True)
    return {
        k: v.detach().to(dtype).contiguous()
        for k, v in model.state_dict().items()
        if not (tied and k == "lm_head.weight")
    }


def build(folder, tokens: dict[str, int], seed: int) -> dict[str, torch.Tensor]:
    """Random weights for the folder's config, in bf16, under the names of the installed transformers."""
    config = AutoConfig.from_pretrained(folder)
    kind = Gemma3ForConditionalGeneration if config.model_type == "gemma3" else Gemma3ForCausalLM
    model = kind(config)
    fill(model, tokens, seed)
    return state(model)


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tokenizer(folder: pathlib.Path, layout: str, template_file: bool) -> dict:
    built = tokenizer.build(layout, FULL if layout == "full" else COMPACT)
    compact = json.dumps(built, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(compact + "\n")
    write_json(folder / "tokenizer_config.json", tokenizer.config(layout, built, None if template_file else TEMPLATE))
    write_json(folder / "special_tokens_map.json", tokenizer.special_tokens_map(layout))
    if template_file:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    return built


def write_folder(
    name: str, config: dict, template_file: bool = False, parent: pathlib.Path = TESTDATA
) -> tuple[pathlib.Path, dict[str, int]]:
    """Writes everything but the weights; returns the folder and the token ids."""
    folder = parent / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    layout = layout_of(config)
    built = write_tokenizer(folder, layout, template_file)
    write_json(folder / "config.json", config)
    full = layout == "full"
    write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": 2 if full else 3,
            "cache_implementation": "hybrid",
            "do_sample": True,
            "eos_token_id": [1, 106] if full else [5, 4],
            "pad_token_id": 0,
            "top_k": 64,
            "top_p": 0.95,
            "transformers_version": "4.52.0.dev0",
        },
    )
    if full:
        size, count = config["vision_config"]["image_size"], config["mm_tokens_per_image"]
        write_json(
            folder / "preprocessor_config.json",
            {
                "do_convert_rgb": None,
                "do_normalize": True,
                "do_pan_and_scan": None,
                "do_rescale": True,
                "do_resize": True,
                "image_mean": [0.5, 0.5, 0.5],
                "image_processor_type": "Gemma3ImageProcessor",
                "image_seq_length": count,
                "image_std": [0.5, 0.5, 0.5],
                "pan_and_scan_max_num_crops": None,
                "pan_and_scan_min_crop_size": None,
                "pan_and_scan_min_ratio_to_activate": None,
                "processor_class": "Gemma3Processor",
                "resample": 2,
                "rescale_factor": 0.00392156862745098,
                "size": {"height": size, "width": size},
            },
        )
        write_json(
            folder / "processor_config.json", {"image_seq_length": count, "processor_class": "Gemma3Processor"}
        )
    ids = dict(built["model"]["vocab"])
    ids |= {t["content"]: t["id"] for t in built["added_tokens"]}
    return folder, ids


def save(folder: pathlib.Path, tensors: dict[str, torch.Tensor], shards: int = 1) -> None:
    """model.safetensors, or shards with their index, tensors in the order of their names."""
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)
        return
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    weight_map, size, shard = {}, 0, 0
    for name in names:
        shard = min(size * shards // total, shards - 1)
        weight_map[name] = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        size += tensors[name].numel() * tensors[name].element_size()
    for file in sorted(set(weight_map.values())):
        part = {n: tensors[n] for n in names if weight_map[n] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)
    write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )
