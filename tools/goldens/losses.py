"""What a type of weights or of the cache loses, measured on Gemma 3 270M: what quantization.py and fp8.py share.

The only published weights to be had here are in Q4_K_M already, and values on a type's grid lose nothing when they are
quantized again. So the weights are first taken off it, without changing what the model computes: each column of a matrix
is multiplied by a number between 0.7 and 1.4 and what makes the column's input is divided by it (the norm before q, k,
v, gate and up; the rows of v before the output matrix; the rows of up before down). The embedding table stays as it is.
That F32 model is the one to lose from.
"""

import json
import pathlib
import subprocess

import gguf
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTDATA = ROOT / "testdata"
MEDGEMMA = ROOT / "target" / "release" / "medgemma"
SOURCE_270M = TESTDATA / "fetched" / "gemma-3-270m-Q4_K_M.gguf"
STEPS = 40


def distance(values: np.ndarray) -> dict:
    """Of log-probabilities: the mean, the 99th percentile and the largest."""
    return {
        "mean": round(float(np.mean(values)), 5),
        "p99": round(float(np.percentile(values, 99)), 5),
        "most": round(float(np.max(values)), 5),
    }


def values_of(tensor) -> np.ndarray:
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


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


def times(tensors: dict[str, np.ndarray], layers: int, factor: float) -> None:
    """Multiplies keys and values by a power of two, in place; what reads them divides by it, so that the function stays."""
    for layer in range(layers):
        for name, by in (("attn_k_norm", factor), ("attn_q_norm", 1 / factor), ("attn_v", factor), ("attn_output", 1 / factor)):
            tensors[f"blk.{layer}.{name}.weight"] *= np.float32(by)


def write_f32(out: pathlib.Path, factor: float = 1.0) -> None:
    """The model to lose from, its keys and values `factor` times as large."""
    reader = gguf.GGUFReader(SOURCE_270M)

    def number(name: str) -> int:
        return reader.fields[f"gemma3.{name}"].contents()

    tensors = {tensor.name: values_of(tensor) for tensor in reader.tensors}
    off_the_grid(tensors, number("block_count"), number("attention.head_count"), number("attention.head_count_kv"))
    times(tensors, number("block_count"), factor)
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


def medgemma(*args) -> dict:
    made = subprocess.run([MEDGEMMA, "--quiet", *args, "--json"], check=True, capture_output=True, text=True)
    return json.loads(made.stdout)


def measure(path: pathlib.Path, *options: str) -> dict:
    """Log-probabilities of the passage, and the tokens (their bytes) of each continuation; `options` say how it is loaded."""
    scored = medgemma("score", path, TESTDATA / "passage.txt", *options)
    prompts = json.loads((TESTDATA / "gemma3-270m.json").read_text())["prompts"]
    greedy = []
    for prompt in prompts:
        made = medgemma("run", path, prompt["text"], "--max-tokens", str(STEPS), "--logprobs", "0", *options)
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
