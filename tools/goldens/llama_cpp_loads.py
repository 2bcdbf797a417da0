"""Does llama.cpp load what `medgemma quantize` writes, and compute the same? Results: tools/goldens/llama_cpp_loads.json.

    cargo build --release
    scripts/fetch-gemma3-270m.sh
    python tools/goldens/llama_cpp_loads.py

It converts the tiny checkpoints and Gemma 3 270M to every type, loads each file with llama.cpp and compares

- the tokens of every prompt with the goldens' (tiny) or with medgemma's (270M);
- log-probabilities and greedy tokens with the goldens (tiny, float types) or with `medgemma score` on the same file
  (270M): llama.cpp keeps keys and values in F32 here, rounds activations as each type's kernels do (BF16: to bfloat16,
  the quantized ones: to 8 bits) and computes attention partly in F16;
- the image encoder's features of one picture with the goldens'.

It fails when a file doesn't load, a token differs or a distance is beyond LIMITS. Not part of the CI, which has no
llama.cpp.
"""

import ctypes
import json
import pathlib
import subprocess
import tempfile

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp as mtmd
from PIL import Image

from models import TESTDATA

HERE = pathlib.Path(__file__).resolve().parent
MEDGEMMA = HERE.parent.parent / "target" / "release" / "medgemma"
SOURCE_270M = TESTDATA / "fetched" / "gemma-3-270m-Q4_K_M.gguf"
TYPES = ["f32", "bf16", "q8_0", "q4_k_m", "q4_0"]
TINY = {"tiny-text": False, "tiny-mm": True, "tiny-mm16": True, "tiny-nf4": False}
# Mean distance of a log-probability: from the reference for the tiny ones, from medgemma for the 270M.
LIMITS = {"tiny f32": 0.005, "270m f32": 0.005, "270m bf16": 0.05, "270m": 0.12, "features": 0.02}


def quantize(source: pathlib.Path, out: pathlib.Path, kind: str) -> None:
    command = [MEDGEMMA, "--quiet", "quantize", source, out, "--type", kind, "--force"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def load(path: pathlib.Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(
        str(path), n_ctx=2048, n_batch=512, n_threads=2, logits_all=True, verbose=False, type_k=0, type_v=0
    )


def logprobs(llm: llama_cpp.Llama, ids: list[int]) -> np.ndarray:
    """Of each token but the first."""
    llm.reset()
    llm.eval(ids)
    scores = llm.scores[: len(ids)].astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return scores[range(len(ids) - 1), ids[1:]]


def greedy(llm: llama_cpp.Llama, ids: list[int], steps: int) -> list[int]:
    llm.reset()
    llm.eval(ids)
    new = []
    for _ in range(steps):
        new.append(int(llm.scores[llm.n_tokens - 1].argmax()))
        llm.eval(new[-1:])
    return new


def distance(values: list[float]) -> dict:
    return {"mean": round(float(np.mean(values)), 5), "most": round(float(np.max(values)), 5)}


def within(what: str, value: float, limit: float) -> None:
    if value > limit:
        raise SystemExit(f"{what}: {value} is more than {limit}")


def tiny(name: str, kind: str, folder: pathlib.Path) -> dict:
    path = folder / f"{name}-{kind}.gguf"
    quantize(TESTDATA / name, path, kind)
    llm = load(path)
    cases = [c for c in json.loads((TESTDATA / name / "goldens.json").read_text())["cases"] if not c.get("images")]
    distances, same = [], 0
    for case in cases:
        raw = "text" in case
        ids = llm.tokenize(case["prompt"].encode(), add_bos=raw, special=not raw)
        if ids != case["input_ids"]:
            raise SystemExit(f"{path.name}: other tokens for {case['prompt']!r}")
        distances += list(abs(logprobs(llm, ids) - case["prompt_logprobs"]))
        same += greedy(llm, ids, len(case["greedy"])) == case["greedy"]
    out = {"prompts": len(cases), "same_greedy_tokens": same, "distance_from_reference": distance(distances)}
    if kind == "f32":
        within(path.name, out["distance_from_reference"]["mean"], LIMITS["tiny f32"])
        if same != len(cases):
            raise SystemExit(f"{path.name}: other greedy tokens")
    if TINY[name]:
        out["image_features"] = features(llm, path, name)
        within(path.name, out["image_features"]["most"], LIMITS["features"])
    return out


def features(llm: llama_cpp.Llama, path: pathlib.Path, name: str) -> dict:
    """The distance of one picture's features, first and last row, from the goldens', which are about 1 in size."""
    params = mtmd.mtmd_context_params_default()
    params.use_gpu, params.n_threads, params.warmup, params.print_timings = False, 2, False, False
    context = mtmd.mtmd_init_from_file(str(path.with_name(f"mmproj-{path.name}")).encode(), llm.model, params)
    assert context and mtmd.mtmd_support_vision(context)
    size = json.loads((TESTDATA / name / "preprocessor_config.json").read_text())["size"]
    cases = json.loads((TESTDATA / name / "goldens.json").read_text())["cases"]
    case = next(c for c in cases if len(c.get("images", [])) == 1 and not c.get("pan_and_scan"))
    # Resized by Pillow, as the reference does: llama.cpp's own resize isn't the question.
    picture = Image.open(TESTDATA / "images" / case["images"][0]).convert("RGB")
    pixels = picture.resize((size["width"], size["height"]), Image.BILINEAR).tobytes()
    bitmap = mtmd.mtmd_bitmap_init(
        size["width"], size["height"], (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
    )
    marker = mtmd.mtmd_default_marker()
    text = mtmd.mtmd_input_text(marker, len(marker), False, True)
    chunks = mtmd.mtmd_input_chunks_init()
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    assert mtmd.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) == 0
    each = (mtmd.mtmd_input_chunks_get(chunks, i) for i in range(mtmd.mtmd_input_chunks_size(chunks)))
    image = next(chunk for chunk in each if mtmd.mtmd_input_chunk_get_type(chunk) == 1)
    assert mtmd.mtmd_encode_chunk(context, image) == 0
    rows, width = mtmd.mtmd_input_chunk_get_n_tokens(image), llm.n_embd()
    values = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(context), (rows * width,)).reshape(rows, width)
    golden = case["image_features"][0]
    out = distance(abs(np.concatenate([values[0] - golden["first"], values[-1] - golden["last"]])))
    mtmd.mtmd_free(context)
    return out


def real(kind: str, folder: pathlib.Path) -> dict:
    path = folder / f"270m-{kind}.gguf"
    quantize(SOURCE_270M, path, kind)
    passage = TESTDATA / "passage.txt"
    report = subprocess.run(
        [MEDGEMMA, "--quiet", "score", path, passage, "--json"], check=True, capture_output=True, text=True
    )
    report = json.loads(report.stdout)
    llm = load(path)
    ids = llm.tokenize(passage.read_bytes(), add_bos=True, special=False)
    if ids != [token["id"] for token in report["tokens"]]:
        raise SystemExit(f"{path.name}: other tokens")
    ours = np.array([token["logprob"] for token in report["tokens"][1:]])
    theirs = logprobs(llm, ids)
    out = {
        "perplexity_medgemma": round(report["perplexity"], 4),
        "perplexity_llama_cpp": round(float(np.exp(-theirs.mean())), 4),
        "distance": distance(abs(ours - theirs)),
    }
    within(path.name, out["distance"]["mean"], LIMITS.get(f"270m {kind}", LIMITS["270m"]))
    prompts = json.loads((TESTDATA / "gemma3-270m.json").read_text())["prompts"]
    same = 0
    for prompt in prompts:
        command = [MEDGEMMA, "--quiet", "run", path, prompt["text"], "--json", "--max-tokens", "24"]
        made = subprocess.run(command, check=True, capture_output=True, text=True)
        made = json.loads(made.stdout)["choices"][0]["message"]["content"]
        tokens = greedy(llm, prompt["input_ids"], 24)
        last = {llm.token_eos(), *llm.tokenize(b"<end_of_turn>", add_bos=False, special=True)}
        ends = [i for i, token in enumerate(tokens) if token in last]
        wanted = llm.detokenize(tokens[: min(ends, default=24)]).decode(errors="ignore")
        same += made.strip() == wanted.strip()
    out["same_greedy_text"] = f"{same} of {len(prompts)}"
    return out


def main() -> None:
    result = {"llama-cpp-python": llama_cpp.__version__, "tiny": {}, "gemma-3-270m": {}}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name in TINY:
            result["tiny"][name] = {kind: tiny(name, kind, folder) for kind in TYPES}
            print(name, json.dumps(result["tiny"][name]))
        for kind in TYPES:
            result["gemma-3-270m"][kind] = real(kind, folder)
            print(kind, json.dumps(result["gemma-3-270m"][kind]))
    lines = json.dumps(result, indent=1)
    (HERE / "llama_cpp_loads.json").write_text(lines + "\n")


if __name__ == "__main__":
    main()
