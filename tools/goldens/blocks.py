"""Writes crates/formats/tests/data/blocks.gguf: random blocks of every ggml type and what they decode to, values and
their encodings, and metadata of every type, all by the `gguf` Python package.

    pip install gguf==0.19.0    # in a virtual environment
    python tools/goldens/blocks.py

Tensors: `NAME` (blocks), `NAME.f32` (their values); `input` (values), `NAME.of_input` (their encoding).
"""

from pathlib import Path

import numpy as np
from gguf import GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

OUT = Path(__file__).resolve().parents[2] / "crates/formats/tests/data/blocks.gguf"

# Where a block keeps its half-precision scales: random bytes there could be infinite or no number.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0],
}  # fmt: skip
ENCODED = [T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0]


def blocks(rng, kind):
    elements, size = GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (1024 // elements, size), dtype=np.uint8)
    for at in HALVES[kind]:
        halves = rng.normal(0, 0.05, (len(data), 1)).astype(np.float16)
        halves[0] = 2.0**-20  # subnormal
        data[:, at : at + 2] = halves.view(np.uint8)
    return data.reshape(2, -1)


def main():
    rng = np.random.default_rng(7)
    writer = GGUFWriter(OUT, "gemma3")
    writer.add_key_value("t.u8", 200, GGUFValueType.UINT8)
    writer.add_key_value("t.i8", -100, GGUFValueType.INT8)
    writer.add_key_value("t.u16", 60000, GGUFValueType.UINT16)
    writer.add_key_value("t.i16", -30000, GGUFValueType.INT16)
    writer.add_key_value("t.u32", 4_000_000_000, GGUFValueType.UINT32)
    writer.add_key_value("t.i32", -2_000_000_000, GGUFValueType.INT32)
    writer.add_key_value("t.u64", 2**63, GGUFValueType.UINT64)
    writer.add_key_value("t.i64", -(2**62), GGUFValueType.INT64)
    writer.add_key_value("t.f32", 0.1, GGUFValueType.FLOAT32)
    writer.add_key_value("t.f64", 1e300, GGUFValueType.FLOAT64)
    writer.add_key_value("t.bool", True, GGUFValueType.BOOL)
    writer.add_key_value("t.string", "Grüße, 世界", GGUFValueType.STRING)
    writer.add_array("t.strings", ["<pad>", "", "▁the"])
    writer.add_array("t.f32s", [0.5, -1.5])
    writer.add_array("t.i32s", [1, -2, 3])
    writer.add_array("t.bools", [True, False])
    writer.add_array("t.nested", [[1, 2], [3]])

    for kind in HALVES:
        data = blocks(rng, kind)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        writer.add_tensor(kind.name + ".f32", dequantize(data, kind).astype(np.float32))

    values = rng.normal(0, 0.02, (4, 256)).astype(np.float32)
    values[1] = np.abs(values[1])  # no negative minimum
    values[2, :64] = 0
    values[3, 7] = 3.0  # an outlier
    writer.add_tensor("input", values)
    for kind in ENCODED:
        writer.add_tensor(kind.name + ".of_input", quantize(values, kind), raw_dtype=kind)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
