"""Makes every tiny checkpoint of testdata and its goldens.

    pip install -r tools/goldens/requirements.txt
    python tools/goldens/pictures.py        first: the pictures
    python tools/goldens/make.py            all checkpoints, or those named: make.py tiny-mm tiny-text

Seeds are fixed. A seed is given up, and the next one taken, when a greedy choice in one of its goldens is too close to
call (reference.MARGIN).
"""

import sys

import torch

import cases
import models
import quantized
import reference
import seeds
from reference import Reference


def golden(name, config, asked, seed, names=lambda n: n, shards=1, template_file=False) -> None:
    """A folder of bf16 weights. What runs is what the reference reads back from it, in float32."""
    folder, tokens = models.write_folder(name, config, template_file)

    def prepare(seed: int) -> Reference:
        models.save(folder, {names(k): v for k, v in models.build(folder, tokens, seed).items()}, shards)
        return Reference(folder)

    seed, made = seeds.first(name, seed, asked, prepare)
    reference.write(folder / "goldens.json", {"checkpoint": name, "seed": seed}, made)


EVERYTHING = cases.TEXT + cases.IMAGES
MAKERS = {
    "tiny-mm": lambda: golden("tiny-mm", models.tiny_mm(), EVERYTHING, 100, models.legacy_name),
    "tiny-mm16": lambda: golden("tiny-mm16", models.tiny_mm16(), EVERYTHING, 200, models.new_name, 2, True),
    "tiny-text": lambda: golden("tiny-text", models.tiny_text(), cases.TEXT, 300),
    "tiny-nf4": lambda: quantized.nf4_folder("tiny-nf4", nested=True, seed=400),
    "tiny-nf4-flat": lambda: quantized.nf4_folder("tiny-nf4-flat", nested=False, seed=400),
    "tiny-text-gguf": quantized.text_gguf,
    "tiny-mm16-gguf": quantized.mm16_gguf,
    "tiny-kq-gguf": lambda: quantized.kq_gguf(seed=500),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or MAKERS:
        MAKERS[name]()
