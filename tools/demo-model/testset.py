"""Writes the held-out test set that is shipped: cases.jsonl and images/.

    python testset.py ../../demo-model/heldout

A line of cases.jsonl has `id`, `task`, `messages` (images by file name), `expected` (see score.py) and `answer`, the
words that training would have taught. Several cases ask about one picture: pictures are most of the bytes.
"""

import argparse
import json
import pathlib
import random

import torch
from PIL import Image

import heldout
import render
from chat import THINK, Conversation, Turn, system_text
from chest import FINDINGS, chest, pair
from image_tasks import SINGLE, ChestQuestions, change_turn, kind_turn, series_turns, single_turn, with_image
from scenes import KINDS, Scene, head_series

SEED = "heldout shipped"
CHESTS, PAIRS, SERIES, SINGLES = 60, 10, 3, 4
TEXTS = {
    "record": 60, "not in record": 25, "trend": 40, "compare": 20, "lab": 15, "choice": 60, "fact": 8, "talk": 20,
}  # fmt: skip


def about_chest(rng: random.Random, i: int) -> list[tuple[str, Turn]]:
    """Questions about one radiograph: two on presence, and about each finding what there is to ask."""
    wanted = [] if i % 7 == 6 else [FINDINGS[i % 6], *heldout.others(rng, FINDINGS[i % 6], 1)]
    scene = chest(rng, wanted)
    q = ChestQuestions(rng, scene.facts)
    found = scene.facts["findings"]
    out = []
    absent = rng.choice([f for f in FINDINGS if f not in found])
    asked = [absent, rng.choice(list(found) or [f for f in FINDINGS if f != absent])]
    out += [("presence", q.presence(f)) for f in asked]
    for finding, what in found.items():
        out.append(("box", q.box(finding)))
        out += [(key, q.detail(key, finding)) for key in ("side", "zone", "size") if key in what]
    if i % 2 == 0:
        out.append(("report", q.report()))
    if i % 4 == 1:
        out.append(("anatomy", q.box(rng.choice(list(scene.facts["anatomy"])))))
    if i % 4 == 3:
        out.append(("boxes", q.boxes()))
    if i % 6 == 0:
        out.append(("inverted", q.inverted()))
    if i % 12 == 0:
        out.append(("kind", kind_turn(rng, "cxr")))
    return [(task, with_image(rng, turn, scene)) for task, turn in out]


def about_pictures() -> list[tuple[str, Turn]]:
    out: list[tuple[str, Turn]] = []
    for i in range(CHESTS):
        out += about_chest(random.Random(f"{SEED} chest {i}"), i)
    for i in range(PAIRS):
        rng = random.Random(f"{SEED} pair {i}")
        a, b, fact = pair(rng, change=("improved", "stable", "worsened")[i % 3])
        out.append(("change", change_turn(rng, fact, a, b)))
    for i in range(SERIES):
        rng = random.Random(f"{SEED} series {i}")
        scenes = head_series(rng, 3, ("haemorrhage", "infarct", "none")[i])
        turns = {}
        while len(turns) < 3:
            turn = series_turns(rng, scenes)[0]
            turns[turn.task] = turn
        out += turns.items()
    for kind, (make, names) in SINGLE.items():
        for i in range(SINGLES):
            rng = random.Random(f"{SEED} {kind} {i}")
            scene = make(rng, names[i % len(names)])
            turns = {}
            while len(turns) < (3 if kind == "fundus" else 2 if kind == "skin" else 1):
                turn = single_turn(rng, kind, scene.facts, scene.boxes)
                if turn.task in (kind, "eye", "box"):
                    turns[turn.task] = turn
            out += [(task, with_image(rng, turn, scene)) for task, turn in turns.items()]
    rng = random.Random(f"{SEED} other")
    out.append(("unknown picture", heldout.CASES["unknown picture"](rng, 0)))
    return out


def write_images(scenes: list[Scene], folder: pathlib.Path) -> dict[int, str]:
    """Draws each scene once, on the CPU with a fixed seed; returns file names by the scene's identity."""
    names: dict[int, str] = {}
    torch.manual_seed(20251124)
    for scene in scenes:
        if id(scene) in names:
            continue
        name = f"{scene.kind}-{sum(n.startswith(scene.kind + '-') for n in names.values()):03}.png"
        kinds, rows = torch.tensor([KINDS.index(scene.kind)]), torch.tensor([scene.row()])
        pixels = render.draw(kinds, rows)[0].permute(1, 2, 0).numpy()
        picture = Image.fromarray(pixels[..., 0] if scene.kind == "cxr" else pixels)
        picture.save(folder / name, optimize=True)
        names[id(scene)] = name
    return names


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("out", type=pathlib.Path)
    args = p.parse_args()
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    turns = about_pictures()
    for task, count in TEXTS.items():
        for i in range(count):
            turns.append((task, heldout.CASES[task](random.Random(f"{SEED} {task} {i}"), i)))
    names = write_images([p for _, t in turns for p in t.parts if isinstance(p, Scene)], args.out / "images")
    counts: dict[str, int] = {}
    with open(args.out / "cases.jsonl", "w") as f:
        for task, turn in turns:
            number = counts[task] = counts.get(task, 0) + 1
            rng = random.Random(f"{SEED} system {task} {number}")
            system = system_text(rng)
            thinks = system is not None and system.startswith(THINK)
            case = Conversation([turn], system)
            line = {"id": f"{task.replace(' ', '-')}-{number:03}", "task": task}
            line |= {"messages": case.messages(lambda s: names[id(s)]), "expected": turn.expected | {"thinks": thinks}}
            f.write(json.dumps(line | {"answer": case.reply(turn)}, ensure_ascii=False) + "\n")
    print(counts, sum(counts.values()), len(names))


if __name__ == "__main__":
    main()
