"""Batches, made by many processes: conversations drawn, encoded and packed into rows."""

import multiprocessing as mp
import os
import pathlib
import queue
import random
from collections import Counter
from dataclasses import dataclass

import numpy as np

from chat import IMAGE_TOKENS, encode
from chest import chest
from mixture import draw_conversation
from scenes import LABELS, WIDTH, fundus, head_series, other, skin, tissue
from settings import IMAGE_TOKEN

HERE = pathlib.Path(__file__).resolve().parent


@dataclass
class Shape:
    rows: int
    tokens: int
    images: int  # pictures in a batch: those of the conversations, and more for the auxiliary losses alone

    @property
    def learnt(self) -> int:
        """Tokens that a batch teaches, at most."""
        return self.rows * self.tokens * 2 // 5

    @property
    def slots(self) -> dict[str, int]:
        """How many pictures of each kind a batch holds, always: so they can be drawn within the captured graph."""
        share = {"skin": 0.05, "fundus": 0.05, "tissue": 0.04, "ct": 0.14, "other": 0.02}
        few = {kind: max(1, round(part * self.images)) for kind, part in share.items()}
        return {"cxr": self.images - sum(few.values())} | few


EXTRA = {
    "cxr": chest,
    "skin": skin,
    "fundus": fundus,
    "tissue": tissue,
    "ct": lambda rng: head_series(rng, 1)[0],
    "other": other,
}


def padded(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    return np.concatenate([values[:size], np.full(max(size - len(values), 0), fill, values.dtype)])


def make_batch(tokenizer, rng: random.Random, shape: Shape, weights: dict | None = None) -> dict[str, np.ndarray]:
    """One batch, always of the same shapes.

    `targets` are learnt at the flat positions `learn` (-100 pads). A token sees those from `first` (where its
    conversation begins) to `last` (itself, or the end of its image). Pictures stand in the order of the kinds; `where` is the flat position
    at which a picture's tokens begin, one past the end for pictures that no conversation holds.
    """
    ids = np.zeros((shape.rows, shape.tokens), np.int16)
    first = np.tile(np.arange(shape.tokens, dtype=np.int16), (shape.rows, 1))
    last = first.copy()
    used = [0] * shape.rows
    learn, targets = [], []
    free = {}
    for kind, size in shape.slots.items():
        start = sum(len(f) for f in free.values())
        free[kind] = list(range(start, start + size))
    scenes: list = [None] * shape.images
    where = np.full(shape.images, shape.rows * shape.tokens, np.int32)
    misses = 0
    while misses < 24:
        conversation = draw_conversation(rng, weights)
        pictures = conversation.scenes()
        need = Counter(p.kind for p in pictures)
        if any(n > len(free[kind]) for kind, n in need.items()):
            misses += 1
            continue
        tokens, learnt = encode(tokenizer, conversation)
        row = next((r for r in range(shape.rows) if used[r] + len(tokens) <= shape.tokens), None)
        if row is None:
            misses += 1
            continue
        start = used[row]
        used[row] += len(tokens)
        here = np.asarray(tokens, np.int16)
        ids[row, start : used[row]] = here
        first[row, start : used[row]] = start
        flat = row * shape.tokens + start
        at = np.flatnonzero(np.asarray(learnt))
        learn.append(flat + at - 1)
        targets.append(here[at])
        spans = np.flatnonzero(here == IMAGE_TOKEN).reshape(-1, IMAGE_TOKENS)
        for scene, span in zip(pictures, spans):
            last[row, start + span[0] : start + span[-1] + 1] = start + span[-1]
            slot = free[scene.kind].pop(0)
            scenes[slot], where[slot] = scene, flat + span[0]
    for kind, slots in free.items():
        for slot in slots:
            scenes[slot] = EXTRA[kind](rng)
    labels = np.zeros((shape.images, len(LABELS)), np.uint8)
    for i, scene in enumerate(scenes):
        labels[i, scene.label_ids()] = 1
    return {
        "ids": ids,
        "first": first,
        "last": last,
        "learn": padded(np.concatenate(learn), shape.learnt, 0).astype(np.int32),
        "targets": padded(np.concatenate(targets), shape.learnt, -100),
        "where": where,
        "rows": np.asarray([s.row() for s in scenes], np.float32).reshape(-1, WIDTH),
        "boxes": np.asarray([s.box_rows() for s in scenes], np.float32),
        "labels": labels,
    }


def _work(out, seed: str, shape: Shape, weights: dict | None) -> None:
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    rng = random.Random(seed)
    while True:
        out.put(make_batch(tokenizer, rng, shape, weights))


class Loader:
    """Batches without end. When the processes fall behind, an earlier batch is shown again (its pictures redrawn)."""

    def __init__(self, seed: str, shape: Shape, processes: int, weights: dict | None = None):
        context = mp.get_context("fork")  # before the GPU is touched
        self.out = context.Queue(maxsize=4 * processes)
        self.kept: list = []
        self.fresh = self.again = 0
        self.rng = random.Random(0)
        self.workers = [
            context.Process(target=_work, args=(self.out, f"train {seed} {i}", shape, weights), daemon=True)
            for i in range(processes)
        ]
        for worker in self.workers:
            worker.start()

    def next(self) -> dict[str, np.ndarray]:
        try:
            batch = self.out.get(block=len(self.kept) < 32)
        except queue.Empty:
            self.again += 1
            return self.rng.choice(self.kept)
        self.fresh += 1
        self.kept.append(batch)
        del self.kept[:-400]
        return batch

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
