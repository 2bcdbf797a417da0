"""Held-out questions: drawn from seeds that training never uses, one question each, with what a right answer holds.

Multiple choice over the made-up facts is put in phrasings that training never shows; so are the questions of the task
`rephrased`. Everything else about a case (the scene, the record) is new in any case.
"""

import random
from collections.abc import Callable

from chat import THINK, Conversation, Turn, system_text
from chest import FINDINGS, chest, pair
from image_tasks import (
    SINGLE,
    ChestQuestions,
    change_turn,
    kind_turn,
    other_conversation,
    series_turns,
    single_turn,
    with_image,
)
from records import record_turns
from scenes import SIDES, head_series
from text_tasks import compare_turn, fact_turn, lab_turn, talk_turn

LABELLED = tuple(f for f in FINDINGS if f != "big heart")


def others(rng: random.Random, finding: str, most: int = 2) -> list[str]:
    return rng.sample([f for f in FINDINGS if f != finding], rng.randint(0, most))


def with_finding(rng: random.Random, finding: str, present: bool = True):
    """A chest that surely has the finding, or surely not."""
    while True:
        scene = chest(rng, ([finding] if present else []) + others(rng, finding))
        if (finding in scene.facts["findings"]) == present:
            return scene


def about_chest(ask: Callable, choose=FINDINGS, present=lambda rng: True, unseen: bool = False):
    def case(rng: random.Random, i: int) -> Turn:
        finding = choose[i % len(choose)]
        scene = with_finding(rng, finding, present(rng))
        return with_image(rng, ask(ChestQuestions(rng, scene.facts, unseen), finding), scene)

    return case


def any_chest(ask: Callable):
    def case(rng: random.Random, i: int) -> Turn:
        scene = chest(rng)
        return with_image(rng, ask(ChestQuestions(rng, scene.facts)), scene)

    return case


def until(make: Callable[[random.Random, int], Turn], *tasks: str):
    """Draws until the turn is of the task."""

    def case(rng: random.Random, i: int) -> Turn:
        while True:
            turn = make(rng, i)
            if turn.task in tasks:
                return turn

    return case


def single(kind: str):
    def case(rng: random.Random, i: int) -> Turn:
        scene = SINGLE[kind][0](rng, SINGLE[kind][1][i % 4])
        return with_image(rng, single_turn(rng, kind, scene.facts, scene.boxes), scene)

    return case


def change(rng: random.Random, i: int) -> Turn:
    a, b, fact = pair(rng, change=("improved", "stable", "worsened")[i % 3])
    return change_turn(rng, fact, a, b)


def series(rng: random.Random, i: int) -> Turn:
    return series_turns(rng, head_series(rng, rng.choice((2, 3, 4, 5)), ("none", "haemorrhage", "infarct")[i % 3]))[0]


def kind(rng: random.Random, i: int) -> Turn:
    scene = chest(rng) if i % 2 else SINGLE[("skin", "fundus", "tissue")[i // 2 % 3]][0](rng)
    return with_image(rng, kind_turn(rng, scene.kind), scene)


def record(rng: random.Random, i: int) -> Turn:
    return record_turns(rng, rng.choice((0.6, 1.0, 1.5)), 1)[0]


def rephrased(rng: random.Random, i: int) -> Turn:
    ask = (
        lambda q, f: q.presence(f),
        lambda q, f: q.detail("side", f if f != "big heart" else "nodule"),
        lambda q, f: q.box(f),
        lambda q, f: q.report(),
    )[i % 4]
    if i % 2:
        finding = rng.choice(LABELLED)
        scene = with_finding(rng, finding)
        turn = with_image(rng, ask(ChestQuestions(rng, scene.facts, True), finding), scene)
    else:
        turn = record_turns(rng, 1.0, 1, True)[0]
    turn.expected["scored as"] = turn.task
    turn.task = "rephrased"
    return turn


half = lambda rng: rng.random() < 0.5  # noqa: E731

CASES = {
    "presence": about_chest(lambda q, f: q.presence(f), present=half),
    "side": about_chest(lambda q, f: q.detail("side", f), LABELLED),
    "size": about_chest(lambda q, f: q.detail("size", f), ("effusion", "pneumothorax")),
    "zone": about_chest(lambda q, f: q.detail("zone", f), ("opacity", "nodule")),
    "box": about_chest(lambda q, f: q.box(f)),
    "anatomy": any_chest(lambda q: q.box(q.rng.choice(("heart", *(f"{s} lung" for s in SIDES))))),
    "boxes": any_chest(lambda q: q.boxes()),
    "report": any_chest(lambda q: q.report()),
    "inverted": any_chest(lambda q: q.inverted()),
    "change": change,
    "series": until(series, "series"),
    "slices": until(series, "slices"),
    "ct side": until(series, "ct side"),
    "skin": until(single("skin"), "skin"),
    "fundus": until(single("fundus"), "fundus"),
    "tissue": until(single("tissue"), "tissue"),
    "eye": until(single("fundus"), "eye"),
    "kind": kind,
    "unknown picture": lambda rng, i: other_conversation(rng).turns[0],
    "record": until(record, "record"),
    "not in record": until(record, "not in record"),
    "trend": until(record, "trend"),
    "compare": lambda rng, i: compare_turn(rng),
    "lab": lambda rng, i: lab_turn(rng),
    "choice": lambda rng, i: fact_turn(rng, True),
    "fact": until(lambda rng, i: fact_turn(rng), "fact"),
    "rephrased": rephrased,
    "talk": lambda rng, i: talk_turn(rng),
}


def make(task: str, count: int, seed: str) -> list[Conversation]:
    """`count` cases of a task; about one in four is asked to think."""
    out = []
    for i in range(count):
        rng = random.Random(f"heldout {seed} {task} {i}")
        turn = CASES[task](rng, i)
        if task not in ("rephrased",):
            turn.task = task
        system = system_text(rng)
        turn.expected["thinks"] = system is not None and system.startswith(THINK)
        out.append(Conversation([turn], system))
    return out
