"""What each type of `medgemma quantize` loses, measured on Gemma 3 270M: tools/goldens/quantization.json, from which
the table of docs/quantization.md is.

    cargo build --release
    scripts/fetch-gemma3-270m.sh
    python tools/goldens/quantization.py

The only published weights to be had here are in Q4_K_M already, and values on a type's grid lose nothing when they are
quantized again. So the weights are first taken off it, without changing what the model computes: each column of a matrix
is multiplied by a number between 0.7 and 1.4 and what makes the column's input is divided by it (the norm before q, k,
v, gate and up; the rows of v before the output matrix; the rows of up before down). The embedding table stays as it is.
That F32 model is the one to lose from. Its figures are checked against the original's.

Each type is made by medgemma and by llama.cpp (llama_model_quantize), and all files are read by medgemma: the
log-probabilities of testdata/passage.txt and how far ten greedy continuations agree. medgemma rounds activations to 8
bits where the weights are quantized; that is part of the loss, but for `weights_alone`, where the file is converted to
F32 again and read then.
"""

import ctypes
import json
import pathlib
import subprocess
import tempfile

import gguf
import llama_cpp
import numpy as np

from ggufs import values_of
from llama_cpp_loads import MEDGEMMA, SOURCE_270M, distance, quantize
from models import TESTDATA

HERE = pathlib.Path(__file__).resolve().parent
STEPS = 40
# medgemma's names and llama.cpp's numbers (enum llama_ftype).
TYPES = {"bf16": None, "q8_0": 7, "q4_k_m": 15, "q4_0": 2}


def off_the_grid(tensors: dict[str, np.ndarray], layers: int, heads: int, kv_heads: int) -> None:
    """Rescales columns in place; the function stays."""
    random = np.random.default_rng(1)

    def factors(n: int) -> np.ndarray:
        return np.exp(random.uniform(np.log(0.7), np.log(1.4), n)).astype(np.float32)

    for layer in range(layers):
        t = {name: f"blk.{layer}.{name}.weight" for name in (
            "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"
        )}  # fmt: skip
        for norm, matrices in (("attn_norm", ("attn_q", "attn_k", "attn_v")), ("ffn_norm", ("ffn_gate", "ffn_up"))):
            s = factors(tensors[t[norm]].shape[0])
            tensors[t[norm]] /= s
            for matrix in matrices:
                tensors[t[matrix]] *= s
        s = factors(tensors[t["attn_v"]].shape[0])
        tensors[t["attn_v"]] *= s[:, None]
        # Query heads that share a value head read the same values.
        tensors[t["attn_output"]] /= np.repeat(s.reshape(kv_heads, -1), heads // kv_heads, axis=0).reshape(-1)
        s = factors(tensors[t["ffn_up"]].shape[0])
        tensors[t["ffn_up"]] *= s[:, None]
        tensors[t["ffn_down"]] /= s


def write_f32(out: pathlib.Path) -> None:
    reader = gguf.GGUFReader(SOURCE_270M)

    def number(name: str) -> int:
        return reader.fields[f"gemma3.{name}"].contents()

    tensors = {tensor.name: values_of(tensor) for tensor in reader.tensors}
    off_the_grid(tensors, number("block_count"), number("attention.head_count"), number("attention.head_count_kv"))
    writer = gguf.GGUFWriter(out, "gemma3")
    for field in reader.fields.values():
        if field.name.startswith(("GGUF.", "general.architecture", "general.file_type", "general.quantization")):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub)
    writer.add_file_type(0)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_quantize(source: pathlib.Path, out: pathlib.Path, file_type: int) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 2
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) == 0


def medgemma(*args) -> dict:
    made = subprocess.run([MEDGEMMA, "--quiet", *args, "--json"], check=True, capture_output=True, text=True)
    return json.loads(made.stdout)


def measure(path: pathlib.Path) -> dict:
    """Log-probabilities of the passage, and the tokens (their bytes) of each continuation."""
    scored = medgemma("score", path, TESTDATA / "passage.txt")
    prompts = json.loads((TESTDATA / "gemma3-270m.json").read_text())["prompts"]
    greedy = []
    for prompt in prompts:
        made = medgemma("run", path, prompt["text"], "--max-tokens", str(STEPS), "--logprobs", "0")
        greedy.append([token["bytes"] for token in made["choices"][0]["logprobs"]["content"]])
    return {
        "bytes": path.stat().st_size,
        "perplexity": scored["perplexity"],
        "logprobs": np.array([token["logprob"] for token in scored["tokens"][1:]]),
        "greedy": greedy,
    }


def agreement(found: list, wanted: list) -> float:
    """The mean share of a continuation before its first token that differs."""
    shares = []
    for a, b in zip(found, wanted):
        same = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        shares.append(same / max(len(a), len(b), 1))
    return float(np.mean(shares))


def loss(found: dict, exact: dict) -> dict:
    return {
        "bytes": found["bytes"],
        "perplexity": round(found["perplexity"], 3),
        "perplexity_ratio": round(found["perplexity"] / exact["perplexity"], 4),
        "distance": distance(abs(found["logprobs"] - exact["logprobs"])),
        "greedy_agreement": round(agreement(found["greedy"], exact["greedy"]), 3),
    }


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
