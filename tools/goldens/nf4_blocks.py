"""Writes crates/formats/tests/data/nf4.safetensors: a weight as bitsandbytes quantizes and serializes it to NF4, with
and without nested scales, and what it dequantizes the nested one to.

    python tools/goldens/nf4_blocks.py        (in the environment of requirements.txt)

Tensors: `input` (values), `flat` and `nested` (with bitsandbytes' parts beside them), `nested.f32`.
"""

from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[2] / "crates/formats/tests/data/nf4.safetensors"


def main():
    generator = torch.Generator().manual_seed(7)
    # Rows that aren't whole blocks of 64; more than 256 scales. Rounded to bf16, so that it is stored in half the space.
    values = (torch.randn(130, 130, generator=generator) * 0.02).to(torch.bfloat16)
    values[3] = 0
    tensors = {"input": values}
    values = values.float()
    for name, nested in (("flat", False), ("nested", True)):
        packed, state = quantize_4bit(values, blocksize=64, quant_type="nf4", compress_statistics=nested)
        tensors[name] = packed
        for part, tensor in state.as_dict(packed=True).items():
            tensors[f"{name}.{part}"] = tensor
        if nested:
            tensors[f"{name}.f32"] = dequantize_4bit(packed, state)
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, OUT)


main()
