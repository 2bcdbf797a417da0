"""Finds random weights whose goldens have clear winners."""

from collections.abc import Callable

import cases
from reference import CloseCall, Reference


def stopping(ref: Reference) -> dict:
    for question in cases.STOPPING:
        case = {"name": "stops", "stop": True, "messages": [cases.user(question)]}
        _, inputs, _ = ref.inputs(case)
        greedy = ref.greedy(inputs, stop=True)["greedy"]
        if greedy[-1] in ref.stops and len(greedy) >= 3:
            return case
    raise CloseCall("no question ends by itself")


def first(name: str, seed: int, asked: list[dict], prepare: Callable[[int], Reference]) -> tuple[int, list[dict]]:
    """From `seed` on, the first whose every greedy choice is clear, and its goldens. `prepare` makes a checkpoint."""
    for seed in range(seed, seed + 100):
        ref = prepare(seed)
        try:
            made = [ref.run(case) for case in asked + [stopping(ref)]]
        except CloseCall as why:
            print(f"{name}: seed {seed} given up ({why})", flush=True)
            continue
        print(f"{name}: seed {seed}, {len(made)} cases", flush=True)
        return seed, made
    raise SystemExit(f"{name}: no seed works")
