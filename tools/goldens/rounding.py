"""How far transformers itself is from its float32 when it computes in bf16: what a card's rounding is judged beside.

    python tools/goldens/rounding.py [--device cuda] tiny-text tiny-mm tiny-mm16

For every checkpoint it prints, over all cases, the mean and the largest distance of a prompt token's log-probability from
the golden's, and at how many greedy steps (each with the reference's tokens before it) another token was the likeliest,
with the largest margin that the reference had there.
"""

import argparse
import json

import torch

from models import TESTDATA
from reference import Reference


def move(value, device):
    value = value.to(device)
    return value.bfloat16() if value.is_floating_point() else value


@torch.no_grad()
def measure(name: str, attention: str, device: str) -> None:
    folder = TESTDATA / name
    ref = Reference(folder)
    ref.model.set_attn_implementation(attention)
    ref.model.to(device, torch.bfloat16)
    off, turned, steps, margin = [], 0, 0, 0.0
    for case in json.loads((folder / "goldens.json").read_text())["cases"]:
        _, inputs, _ = ref.inputs(case)
        prompt = inputs["input_ids"][0].tolist()
        assert prompt == case["input_ids"], "the processor gives another prompt"
        greedy = case["greedy"]
        ids = torch.tensor([prompt + greedy[:-1]])
        more = {}
        if "pixel_values" in inputs:
            zeros = torch.zeros((1, len(greedy) - 1), dtype=torch.long)
            types = torch.cat([inputs["token_type_ids"], zeros], dim=1)
            more = {"pixel_values": move(inputs["pixel_values"], device), "token_type_ids": types.to(device)}
        logits = ref.model(input_ids=ids.to(device), use_cache=False, **more).logits[0].double().cpu()
        logprobs = torch.log_softmax(logits, dim=-1)
        got = logprobs[range(len(prompt) - 1), prompt[1:]]
        off += (got - torch.tensor(case["prompt_logprobs"])).abs().tolist()
        for step, wanted in enumerate(greedy):
            steps += 1
            if int(logprobs[len(prompt) - 1 + step].argmax()) != wanted:
                best = case["top5"][step]
                turned, margin = turned + 1, max(margin, best[0][1] - best[1][1])
    mean = sum(off) / len(off)
    print(
        f"{name} {attention} on {device}: mean {mean:.4f}, most {max(off):.3f}; another token at {turned} of {steps} "
        f"steps, margin there at most {margin:.3f}",
        flush=True,
    )


parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cpu")
parser.add_argument("names", nargs="+")
args = parser.parse_args()
for name in args.names:
    for attention in ("eager", "sdpa"):
        measure(name, attention, args.device)
