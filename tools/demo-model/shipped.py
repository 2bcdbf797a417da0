"""Asks the shipped files the shipped test set, on the CPU in float32 from the dequantized weights.

    python shipped.py ../../demo-model OUT.json [--first N] [--tasks presence side ...]

Slow beside the engine, which answers the whole set; this is what the engine can be compared with.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from PIL import Image
from tokenizers import Tokenizer

import export
from chat import SPAN
from generate import answer_batch
from model import Gemma
from score import score, table


def prompt(template, case: dict) -> str:
    return template.render(messages=case["messages"], bos_token="<bos>", add_generation_prompt=True)


def pictures(case: dict, folder: pathlib.Path) -> torch.Tensor:
    """8-bit RGB `[images, 3, 224, 224]`, in order."""
    parts = [p for m in case["messages"] if isinstance(m["content"], list) for p in m["content"]]
    names = [p["image"] for p in parts if p["type"] == "image"]
    drawn = [np.asarray(Image.open(folder / n).convert("RGB")).transpose(2, 0, 1) for n in names]
    return torch.from_numpy(np.stack(drawn)) if drawn else torch.empty((0, 3, 224, 224), dtype=torch.uint8)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--first", type=int, default=10**6, help="cases of each task")
    p.add_argument("--tasks", nargs="*")
    p.add_argument("--batch", type=int, default=4)
    args = p.parse_args()
    heldout = args.folder / "heldout"
    model = Gemma().eval()
    model.load_state_dict(export.read_pair(args.folder))
    tokenizer = Tokenizer.from_file(str(export.HERE / "tokenizer.json"))
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(export.models.TEMPLATE)
    groups: dict[str, list[dict]] = {}
    for line in open(heldout / "cases.jsonl"):
        case = json.loads(line)
        groups.setdefault(case["task"], []).append(case)
    scored, rows = [], []
    for task in args.tasks or groups:
        cases = groups[task][: args.first]
        asked = [prompt(template, c).replace("<start_of_image>", SPAN) for c in cases]
        ids = [tokenizer.encode(t, add_special_tokens=False).ids for t in asked]
        order = sorted(range(len(cases)), key=lambda i: len(ids[i]))
        for at in range(0, len(order), args.batch):
            part = order[at : at + args.batch]
            images = torch.cat([pictures(cases[i], heldout / "images") for i in part])
            longest = max(len(tokenizer.encode(cases[i]["answer"], add_special_tokens=False).ids) for i in part)
            for i, tokens in zip(part, answer_batch(model, [ids[i] for i in part], images, longest + 24), strict=True):
                reply = tokenizer.decode(tokens, skip_special_tokens=False)
                scored.append((task, score(cases[i]["expected"], reply)))
                rows.append({"id": cases[i]["id"], "reply": reply} | scored[-1][1])
                if not scored[-1][1]["right"]:
                    print(cases[i]["id"], repr(cases[i]["answer"][-160:]), repr(reply[-160:]), flush=True)
        print(task, table(scored)[task], flush=True)
        args.out.write_text(json.dumps({"tasks": table(scored), "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
