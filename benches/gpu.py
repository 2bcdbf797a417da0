"""Times medgemma on a card with random weights of the true shapes, beside the floor of each work:

    python3 benches/gpu.py MEDGEMMA [OUT.json] [--only 4b-q4,...] [--runs N] [--start FILE.gguf]

One process for each row of the table, so that nothing is warm that a user wouldn't have. The floor of decoding is the
bytes of weights (and keys and values) over the copy bandwidth that torch reads on the card; that of prefill and of the
image the multiplications over the rate of a large bf16 product. `--start` times the whole life of a process that answers a
prompt of about 32 tokens with one, with a model's file (`cargo run -p medgemma-gemma --example synthetic` writes one).
"""

import argparse
import json
import os
import statistics
import subprocess
import time

SHAPES = {
    "4b": dict(variant="4b-it", layers=34, hidden=2560, ffn=10240, heads=8, kv=4, dim=256, vocab=262208, globals=5),
    "27b": dict(variant="27b-text-it", layers=62, hidden=5376, ffn=21504, heads=32, kv=16, dim=128, vocab=262144, globals=10),
}
# Of a layer's weights, of the output matrix.
BITS = {"bf16": (16, 16), "q8": (8.5, 8.5), "fp8": (8, 8.5), "q4": (4.5, 8.5)}


def weights(s):
    q, kv = s["heads"] * s["dim"], s["kv"] * s["dim"]
    return s["layers"] * s["hidden"] * (2 * q + 2 * kv + 3 * s["ffn"]), s["vocab"] * s["hidden"]


def peaks():
    """Copy bandwidth (bytes/s, read and written) and bf16 rate (operations/s), by torch, or nothing without it."""
    try:
        import torch
    except ImportError:
        return None, None

    def best(call, repeat):
        call()
        times = []
        for _ in range(repeat):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            call()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        return sorted(times)[repeat // 2]

    x = torch.empty(1 << 30, dtype=torch.int32, device="cuda")
    y = torch.empty_like(x)
    bandwidth = 2 * x.nbytes / best(lambda: y.copy_(x), 5)
    a = torch.randn(8192, 8192, device="cuda").bfloat16()
    rate = 2 * 8192**3 / best(lambda: a @ a, 10)
    del x, y, a
    torch.cuda.empty_cache()
    return bandwidth, rate


def works():
    for model in SHAPES:
        for quant in BITS:
            for batch in (1, 8, 32):
                if model == "4b" or batch != 8:
                    yield f"{model}-{quant}-decode-{batch}", model, quant, dict(prompt=512, generate=64, batch=batch)
            yield f"{model}-{quant}-prefill-8192", model, quant, dict(prompt=8192, generate=0, batch=1)
    for depth in (32, 128):
        for model in SHAPES:
            # The last rows of so many.
            before = (depth << 10) - 2048 - 64 - 1
            for kv in ("bf16", "fp8"):
                name = f"{model}-q4-at-{depth}k" + ("" if kv == "bf16" else "-kv8")
                yield name, model, "q4", dict(prompt=2048, generate=64, batch=1, depth=before, kv=kv)
    for quant in ("bf16", "fp8"):
        for batch in (1, 8, 32):
            yield f"4b-{quant}-kv8-decode-{batch}", "4b", quant, dict(prompt=512, generate=64, batch=batch, kv="fp8")
        yield f"4b-{quant}-kv8-prefill-8192", "4b", quant, dict(prompt=8192, generate=0, batch=1, kv="fp8")
    yield "4b-bf16-image", "4b", "bf16", dict(prompt=0, generate=0, batch=1, image=True)


def floor(model, quant, work, bandwidth, rate):
    """Tokens a second (seconds of an image) that the card's memory and arithmetic allow."""
    s = SHAPES[model]
    layers, head = weights(s)
    if work.get("image"):
        flops = 4096 * 27 * 2 * (4 * 1152 * 1152 + 2 * 1152 * 4304) + 27 * 4 * 4096 * 4096 * 1152
        return flops / rate
    depth = work.get("depth", 0) + work["prompt"]
    if work["generate"]:
        bits, head_bits = BITS[quant]
        seen = s["globals"] * depth + (s["layers"] - s["globals"]) * min(depth, 1024)
        cache = work["batch"] * seen * s["kv"] * s["dim"] * (2 if work.get("kv") == "fp8" else 4)
        return work["batch"] * bandwidth / (layers * bits / 8 + head * head_bits / 8 + cache)
    return rate / (2 * layers)


def start(medgemma, file, device, runs=7):
    """Seconds from the start of a process to its end with one token, the file in the page cache; and its bytes."""
    question = " ".join(f"finding {at}" for at in range(7))
    ask = [medgemma, "--quiet", "run", file, question, "--max-tokens", "1", "--plain", "--device", device, "--no-pack-cache"]
    times = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        subprocess.run(ask, capture_output=True, check=True)
        times.append(time.perf_counter() - begin)
    return {"first": times[0], "median": statistics.median(times[1:]), "least": min(times[1:]), "runs": runs, "bytes": os.path.getsize(file)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("medgemma")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--only", default="")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--start")
    args = parser.parse_args()
    bandwidth, rate = peaks()
    report = {"bandwidth": bandwidth, "bf16": rate, "works": {}}
    if args.start:
        report["start"] = start(args.medgemma, args.start, "cuda")
        print("start", report["start"], flush=True)
    print(f"copy {(bandwidth or 0) / 1e9:.0f} GB/s, bf16 {(rate or 0) / 1e12:.0f} TFLOP/s", flush=True)
    chosen = [w for w in works() if not args.only or any(w[0].startswith(only) for only in args.only.split(","))]
    if args.only:  # in the order that was asked for
        chosen.sort(key=lambda w: [w[0].startswith(only) for only in args.only.split(",")].index(True))
    for name, model, quant, work in chosen:
        command = [args.medgemma, "bench", "--synthetic", SHAPES[model]["variant"], "--quant", quant, "--device", "cuda", "--json"]
        command += ["--runs", str(args.runs), "--prompt", str(work["prompt"]), "--generate", str(work["generate"])]
        command += ["--batch", str(work["batch"]), "--depth", str(work.get("depth", 0))]
        command += ["--image"] if work.get("image") else []
        command += ["--kv", work["kv"]] if "kv" in work else []
        begin = time.time()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            report["works"][name] = {"error": done.stderr.strip()[-400:]}
            print(name, "failed:", done.stderr.strip()[:300], flush=True)
            continue
        found = json.loads(done.stdout)
        limit = floor(model, quant, work, bandwidth, rate) if bandwidth else None
        report["works"][name] = {"floor": limit, "wall_s": time.time() - begin, "found": found}
        if args.out:  # after each work: a stay on a card may end early
            with open(args.out, "w") as file:
                json.dump(report, file, indent=1)
        print(name, json.dumps(found)[:600], f"floor {limit}", f"{time.time() - begin:.0f} s", flush=True)


main()
