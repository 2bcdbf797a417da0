"""Makes every tiny checkpoint of testdata and its goldens.

    pip install -r tools/goldens/requirements.txt
    python tools/goldens/pictures.py        first: the pictures
    python tools/goldens/make.py            all checkpoints, or those named: make.py tiny-mm tiny-text

Seeds are fixed. A seed is given up, and the next one taken, when a greedy choice in one of its goldens is too close to
call (reference.MARGIN).
"""

import sys

import torch
from transformers import AutoConfig, Gemma3ForCausalLM, Gemma3ForConditionalGeneration

import cases
import models
import reference
from reference import CloseCall, Reference


def build(folder, tokens: dict[str, int], seed: int) -> dict[str, torch.Tensor]:
    """Random weights for the folder's config, in bf16, under the names of the installed transformers."""
    config = AutoConfig.from_pretrained(folder)
    kind = Gemma3ForConditionalGeneration if config.model_type == "gemma3" else Gemma3ForCausalLM
    model = kind(config)
    models.fill(model, tokens, seed)
    return models.state(model)


def stopping(ref: Reference) -> dict:
    for question in cases.STOPPING:
        case = {"name": "stops", "stop": True, "messages": [cases.user(question)]}
        _, inputs, _ = ref.inputs(case)
        greedy = ref.greedy(inputs, stop=True)["greedy"]
        if greedy[-1] in ref.stops and len(greedy) >= 3:
            return case
    raise CloseCall("no question ends by itself")


def golden(name, config, asked, first_seed, names=lambda n: n, shards=1, template_file=False) -> None:
    """Writes the checkpoint of the first seed whose goldens all have clear winners.

    What runs is what the reference reads back from the folder, in float32.
    """
    folder, tokens = models.write_folder(name, config, template_file)
    for seed in range(first_seed, first_seed + 100):
        models.save(folder, {names(k): v for k, v in build(folder, tokens, seed).items()}, shards)
        ref = Reference(folder)
        try:
            made = [ref.run(case) for case in asked + [stopping(ref)]]
            break
        except CloseCall as why:
            print(f"{name}: seed {seed} given up ({why})", flush=True)
    else:
        raise SystemExit(f"{name}: no seed works")
    reference.write(folder / "goldens.json", {"checkpoint": name, "seed": seed}, made)
    print(f"{name}: seed {seed}, {len(made)} cases", flush=True)


MAKERS = {
    "tiny-mm": lambda: golden("tiny-mm", models.tiny_mm(), cases.TEXT + cases.IMAGES, 100, models.legacy_name),
    "tiny-mm16": lambda: golden(
        "tiny-mm16", models.tiny_mm16(), cases.TEXT + cases.IMAGES, 200, models.new_name, shards=2, template_file=True
    ),
    "tiny-text": lambda: golden("tiny-text", models.tiny_text(), cases.TEXT, 300),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or MAKERS:
        MAKERS[name]()
