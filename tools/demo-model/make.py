"""Makes the demo model, on one GPU: `python make.py OUT` trains it in two stages, examines it and writes its files.

    python make.py OUT --parts stage-1              one part alone: each goes on from what those before it left in OUT
    python make.py OUT --quick                      a few steps and questions, to see that all parts run

OUT/stage-1, OUT/stage-2: weights in float16 and log.json of train.py. OUT/examined.json: answers to held-out questions
by evaluate.py. OUT/files: the GGUF pair. OUT/curves.png: how the stages went. No part takes ten minutes. Training needs
torch, numpy and tokenizers alone, the files gguf and llama-cpp-python, the curves matplotlib.
"""

import argparse
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
WAY = ("--exam-every", "95", "--exam", "9", "--reserve", "2", "--final", "0")
PARTS = {
    "stage-1": ("train.py", "--out", "{out}/stage-1", "--seed", "1", "--seconds", "480", *WAY),
    "stage-2": (
        "train.py", "--out", "{out}/stage-2", "--init", "{out}/stage-1", "--seed", "2", "--seconds", "240", *WAY,
        "--matrix-rate", "0.01", "--rate", "0.0015", "--hold", "0.3", "--aux", "0.1",
    ),
    "examine": (
        "evaluate.py", "{out}/stage-2", "{out}/examined.json", "--kinds", "q8_0", "f32", "q4_0", "--cases", "100",
    ),
    "export": ("export.py", "{out}/stage-2", "{out}/files"),
    "curves": ("curves.py", "{out}/curves.png", "{out}/stage-1/log.json", "{out}/stage-2/log.json"),
}  # fmt: skip
QUICK = {"train.py": ("--steps", "6", "--exam", "1"), "evaluate.py": ("--cases", "1")}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    p.add_argument("--quick", action="store_true")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    out = args.out.resolve()
    for part in args.parts:
        script, *options = (word.format(out=out) for word in PARTS[part])
        command = [sys.executable, script, *options, *(QUICK.get(script, ()) if args.quick else ())]
        print(f"{part}: {' '.join(command[1:])}", flush=True)
        subprocess.run(command, cwd=HERE, check=True)


if __name__ == "__main__":
    main()
