"""bitsandbytes NF4 checkpoints, saved by transformers and bitsandbytes themselves, and their values in float32."""

import json
import pathlib

import numpy as np
import torch
from safetensors import safe_open
from transformers import BitsAndBytesConfig, Gemma3ForCausalLM

STATE = ".quant_state.bitsandbytes__nf4"


def quantize(base: pathlib.Path, out: pathlib.Path, nested: bool) -> None:
    """Writes the weights of the bf16 folder `base` to `out`, all linear layers in NF4."""
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=nested,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = Gemma3ForCausalLM.from_pretrained(base, quantization_config=how, dtype=torch.bfloat16, device_map="cpu")
    model.save_pretrained(out)


def values(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Every weight in float32, by the formula of the format; float32 arithmetic in its order."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        raw = {k: file.get_tensor(k) for k in file.keys()}
    out = {}
    for name in raw:
        if any(mark in name for mark in (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.")):
            continue
        if name + STATE not in raw:
            out[name] = raw[name].float().numpy()
            continue
        state = json.loads(bytes(raw[name + STATE].tolist()))
        absmax = raw[name + ".absmax"].numpy()
        if name + ".nested_absmax" in raw:
            groups = np.repeat(raw[name + ".nested_absmax"].numpy(), state["nested_blocksize"])[: absmax.size]
            absmax = raw[name + ".nested_quant_map"].numpy()[absmax] * groups + np.float32(state["nested_offset"])
        packed = raw[name].numpy().reshape(-1)
        nibbles = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)
        scales = np.repeat(absmax.astype(np.float32), state["blocksize"])[: nibbles.size]
        out[name] = (raw[name + ".quant_map"].numpy()[nibbles] * scales).reshape(state["shape"])
    return out
