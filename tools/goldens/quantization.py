"""What each type of `medgemma quantize` loses, measured on Gemma 3 270M: tools/goldens/quantization.json, from which
the table of docs/quantization.md is.

    cargo build --release
    scripts/fetch-gemma3-270m.sh
    python tools/goldens/quantization.py

losses.py says which model they lose from. Its figures are checked against the original's.

Each type is made by medgemma and by llama.cpp (llama_model_quantize), and all files are read by medgemma: the
log-probabilities of testdata/passage.txt and how far ten greedy continuations agree. medgemma rounds activations to 8
bits where the weights are quantized; that is part of the loss, but for `weights_alone`, where the file is converted to
F32 again and read then.
"""

import ctypes
import json
import pathlib
import tempfile

import llama_cpp

from llama_cpp_loads import quantize
from losses import TESTDATA, distance, loss, measure, write_f32

HERE = pathlib.Path(__file__).resolve().parent
# medgemma's names and llama.cpp's numbers (enum llama_ftype).
TYPES = {"bf16": None, "q8_0": 7, "q4_k_m": 15, "q4_0": 2}


def llama_quantize(source: pathlib.Path, out: pathlib.Path, file_type: int) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 2
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) == 0


def main() -> None:
    original = json.loads((TESTDATA / "gemma3-270m.json").read_text())["passage"]["float32"]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        base = folder / "off-the-grid-f32.gguf"
        write_f32(base)
        exact = measure(base)
        drift = distance(abs(exact["logprobs"] - original["logprobs"]))
        assert drift["mean"] < 1e-3, drift
        result = {
            "llama-cpp-python": llama_cpp.__version__,
            "f32": {"bytes": exact["bytes"], "perplexity": round(exact["perplexity"], 3), "distance_original": drift},
        }
        for kind, file_type in TYPES.items():
            path = folder / f"{kind}.gguf"
            quantize(base, path, kind)
            result[kind] = {"medgemma": loss(measure(path), exact)}
            if kind != "bf16":
                back = folder / "back-f32.gguf"
                quantize(path, back, "f32")
                result[kind]["weights_alone"] = loss(measure(back), exact)
            if file_type is not None:
                llama_quantize(base, path, file_type)
                result[kind]["llama_cpp"] = loss(measure(path), exact)
            print(kind, json.dumps(result[kind]), flush=True)
    (HERE / "quantization.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
