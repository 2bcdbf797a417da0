"""Asks a trained model held-out questions, in float32, as trained or with its matrices quantized and back.

    python evaluate.py RUN OUT.json --kinds f32 q8_0 q4_0 --cases 300

RUN has the weights-*.pt of train.py. The rounding is ggml's (blocks of 32 along a row); export.py writes the files.
"""

import argparse
import json
import pathlib

import torch
from tokenizers import Tokenizer

import heldout
from model import Gemma
from train import HERE, Exam, load, short


def q8_0(rows: torch.Tensor) -> torch.Tensor:
    blocks = rows.view(-1, 32)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    whole = (blocks / scale.clamp(min=1e-30)).round()
    return (whole * scale.half().float()).view_as(rows)


def q4_0(rows: torch.Tensor) -> torch.Tensor:
    blocks = rows.view(-1, 32)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = largest / -8
    whole = (torch.where(scale == 0, 0.0, blocks / scale) + 8.5).floor().clamp(0, 15) - 8
    return (whole * scale.half().float()).view_as(rows)


ROUND = {"f32": None, "q8_0": q8_0, "q4_0": q4_0}


def quantized(state: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """Matrices rounded; norms, biases, positions, patch embedding and projection kept, as the files keep them."""
    kept = ("norm", "bias", "position_embedding", "patch_embedding", "mm_input_projection")
    change = ROUND[kind]
    return {k: v if change is None or any(n in k for n in kept) else change(v) for k, v in state.items()}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("run", type=pathlib.Path)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--kinds", nargs="+", default=["f32", "q8_0"], choices=ROUND)
    p.add_argument("--cases", type=int, default=200)
    p.add_argument("--seed", default="final")
    args = p.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    exam = Exam(
        {t: args.cases for t in heldout.CASES}, args.seed, device, Tokenizer.from_file(str(HERE / "tokenizer.json"))
    )
    out = {}
    for kind in args.kinds:
        model = Gemma().to(device)
        model.load_state_dict(quantized(load(args.run), kind))
        out[kind], rows = exam.take(model, False)
        print(kind, short(out[kind]), flush=True)
        args.out.write_text(json.dumps(out))
        with open(args.out.with_suffix(f".{kind}.jsonl"), "w") as f:
            f.writelines(json.dumps(r) + "\n" for r in rows)


if __name__ == "__main__":
    main()
