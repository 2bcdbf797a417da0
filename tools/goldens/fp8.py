"""What 8-bit floats lose, of weights (`--quant fp8`) and of keys and values (`--kv fp8`), measured on Gemma 3 270M beside the
other types that weights are held in when they are loaded: benches/results/fp8-loss.json, from which a table of
docs/quantization.md is.

    pip install gguf==0.19.0 numpy
    cargo build --release
    scripts/fetch-gemma3-270m.sh
    python tools/goldens/fp8.py [OUT.json]

losses.py says which model they lose from. Everything runs on the processor; it computes with the values that a card holds,
but for its operands, which a card rounds to bf16.
"""

import json
import pathlib
import sys
import tempfile

from losses import ROOT, loss, measure, write_f32

ALWAYS = ["--device", "cpu", "--no-pack-cache"]
WORKS = {
    "bf16": ["--quant", "bf16"],
    "fp8": ["--quant", "fp8"],
    "q8": ["--quant", "q8"],
    "q4": ["--quant", "q4"],
    "kv bf16": ["--kv", "bf16"],
    "kv fp8": ["--kv", "fp8"],
    "fp8, kv fp8": ["--quant", "fp8", "--kv", "fp8"],
    "q8, kv fp8": ["--quant", "q8", "--kv", "fp8"],
}


# Keys and values so many times as large: whether a scale would lose less than none.
FACTORS = [1 / 64, 1 / 16, 1 / 4, 4.0, 16.0, 64.0]


def main() -> None:
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "benches" / "results" / "fp8-loss.json"
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder) / "off-the-grid-f32.gguf"
        write_f32(base)
        exact = measure(base, *ALWAYS)
        result = {"model": "Gemma 3 270M, off the grid", "f32": {"perplexity": round(exact["perplexity"], 3)}}
        for work, options in WORKS.items():
            found = loss(measure(base, *ALWAYS, *options), exact)
            del found["bytes"]  # of the file, which is the same
            result[work] = found
            print(work, json.dumps(found), flush=True)
        for factor in FACTORS:
            write_f32(base, factor)
            found = loss(measure(base, *ALWAYS, "--kv", "fp8"), exact)
            del found["bytes"]
            result[f"kv fp8, keys and values times {factor:g}"] = found
            print(factor, json.dumps(found), flush=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
