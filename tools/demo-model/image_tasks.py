"""Questions about pictures, with their answers."""

import json
import random

from chat import Conversation, Turn, system_text
from chest import FINDINGS, chest, pair
from phrases import FINALS, NAMES, YES_NO, pick
from scenes import FUNDUS, SIDES, SIZES, SKIN, TISSUE, ZONES, fundus, head_series, other, skin, tissue

LOCATE = (
    "Instructions:\nThe following user query will require outputting bounding boxes. The format of bounding boxes "
    "coordinates is [y0, x0, y1, x1] where (y0, x0) must be top-left corner and (y1, x1) the bottom-right corner. This "
    "implies that x0 < x1 and y0 < y1. Always normalize the x and y coordinates the range [0, 1000], meaning that a "
    "bounding box starting at 15% of the image width would be associated with an x coordinate of 150. You MUST output a "
    'single parseable json list of objects enclosed into ```json...``` brackets, for instance ```json[{{"box_2d": [800, '
    '3, 840, 471], "label": "car"}}, {{"box_2d": [400, 22, 600, 73], "label": "dog"}}]``` is a valid output. Now '
    'answer to the user query.\n\nRemember "left" refers to the patient\'s left side where the heart is and sometimes '
    "underneath an L in the upper right corner of the image.\n\nQuery:\nWhere is the {f}? Don't give a final answer "
    'without reasoning. Output the final answer in the format "Final Answer: X" where X is a JSON list of objects. The '
    'object needs a "box_2d" and "label" key. Answer:'
)
UNKNOWN_PICTURE = "I don't recognise this picture. I only know synthetic pictures drawn like the ones I was trained on."
KIND_NAMES = {
    "cxr": "a chest radiograph",
    "skin": "a photograph of a skin lesion",
    "fundus": "a fundus photograph",
    "tissue": "a histopathology image",
    "ct": "a head CT slice",
}
COMPLAINTS = (
    "cough;fever;chest pain;shortness of breath;weight loss;fatigue;night sweats;a fall;wheezing;palpitations".split(
        ";"
    )
)


def plain(finding: str) -> str:
    return NAMES[finding][0]


def describe(finding: str, what: dict) -> str:
    """A finding as a noun phrase without its article, side and size or zone in it."""
    side = what.get("side")
    if finding in ("opacity", "nodule"):
        return f"{finding} in the {side} {what['zone']} zone"
    if finding == "effusion":
        return f"{what['size']} {side} pleural effusion"
    if finding == "pneumothorax":
        return f"{what['size']} {side} pneumothorax"
    return "enlarged heart" if finding == "big heart" else f"pacemaker on the {side}"


def sentence(finding: str, found: dict) -> str:
    if finding not in found:
        return f"There is no {plain(finding)}."
    words = describe(finding, found[finding])
    return f"There is {'an' if words[0] in 'aeiou' else 'a'} {words}."


def impression(found: dict) -> str:
    if not found:
        return "No abnormality."
    return " ".join(describe(f, w).capitalize() + "." for f, w in found.items())


def report(facts: dict) -> str:
    found = facts["findings"]
    lines = [f"Heart: {'enlarged' if 'big heart' in found else 'normal size'}."]
    for side in SIDES:
        here = []
        for f in FINDINGS[:4]:
            if f in found and found[f]["side"] == side:
                w = found[f]
                here.append(f"{f} in the {w['zone']} zone" if "zone" in w else f"{w['size']} {plain(f)}")
        lines.append(f"{side.capitalize()} lung: {', '.join(here) or 'clear'}.")
    device = f"pacemaker on the {found['pacemaker']['side']}" if "pacemaker" in found else "none"
    lines.append(f"Device: {device}.")
    return "FINDINGS:\n" + "\n".join(lines) + f"\n\nIMPRESSION:\n{impression(found)}"


def finish(
    rng: random.Random, question: str, said: str, short: str, plain_style: str, suffixes=FINALS
) -> tuple[str, str]:
    """The question with a suffix that asks for "Final Answer: X", or without; the answer in the fitting form."""
    if rng.random() < 0.65:
        return f"{question} {rng.choice(suffixes)}", f"{said}\n\nFinal Answer: {short}"
    return question, plain_style


def to_json(entries: list[tuple[str, tuple]]) -> str:
    """`box_2d` in thousandths of the square, to the nearest 5: a pixel is 4.5."""
    rows = [{"box_2d": [int(round(e * 200)) * 5 for e in box], "label": label} for label, box in entries]
    return json.dumps(rows)


class ChestQuestions:
    """All that can be asked about one radiograph."""

    def __init__(self, rng: random.Random, facts: dict, unseen: bool = False):
        self.rng, self.facts, self.found, self.unseen = rng, facts, facts["findings"], unseen
        lines = report(facts).split("\n")
        self.trace = " ".join(lines[1:5])

    def name(self, finding: str) -> str:
        return self.rng.choice(NAMES[finding])

    def turn(self, question: str, answer: str, task: str, expected: dict, so: str) -> Turn:
        return Turn([question], answer, f"{self.trace} {so}\n", task, expected)

    def presence(self, finding: str) -> Turn:
        yes = "yes" if finding in self.found else "no"
        said = sentence(finding, self.found)
        question = pick(self.rng, "presence", self.unseen, f=self.name(finding))
        question, answer = finish(self.rng, question, said, yes, f"{yes.capitalize()}. {said}", YES_NO)
        return self.turn(question, answer, "presence", {"answer": yes, "finding": plain(finding)}, said)

    def detail(self, key: str, finding: str) -> Turn:
        """Side, size or zone; of something absent, "none"."""
        value = self.found[finding][key] if finding in self.found else "none"
        said = sentence(finding, self.found)
        question = pick(self.rng, key, self.unseen, f=self.name(finding))
        question, answer = finish(self.rng, question, said, value, said)
        expected = {
            "answer": value,
            "finding": plain(finding),
            "options": list({"side": SIDES, "size": SIZES, "zone": ZONES}[key]),
        }
        return self.turn(question, answer, key, expected, said)

    def report(self) -> Turn:
        question, head = pick(self.rng, "report", self.unseen), ""
        if self.rng.random() < 0.3:
            who = f"{self.rng.randint(18, 94)}-year-old {self.rng.choice(('man', 'woman'))} with {self.rng.choice(COMPLAINTS)}"
            question = f"Indication: {who}.\n{question}"
            head = f"INDICATION:\n{who}.\n\n" if self.rng.random() < 0.5 else ""
            if head:
                question += " Repeat the indication."
        return self.turn(
            question, head + report(self.facts), "report", {"impression": impression(self.found)}, "Now the report."
        )

    def list(self) -> Turn:
        said = impression(self.found)
        return self.turn(pick(self.rng, "list", self.unseen), said, "report", {"impression": said}, said)

    def box(self, target: str) -> Turn:
        if target in self.facts["anatomy"]:
            label, entries = target, [(target, self.facts["anatomy"][target])]
            said = f"This is the {target}."
        else:
            label = self.name(target)
            entries = [(label, self.found[target]["box"])] if target in self.found else []
            said = sentence(target, self.found)
        data = to_json(entries)
        expected = {"boxes": json.loads(data), "kind": "anatomy" if target in self.facts["anatomy"] else "finding"}
        if self.rng.random() < 0.4:
            return self.turn(LOCATE.format(f=label), f"{said}\n\nFinal Answer: ```json{data}```", "box", expected, said)
        question = pick(self.rng, "box", self.unseen, f=label)
        return self.turn(question, f"```json{data}```", "box", expected, said)

    def boxes(self) -> Turn:
        data = to_json([(plain(f), w["box"]) for f, w in self.found.items()])
        question = pick(self.rng, "boxes", self.unseen)
        expected = {"boxes": json.loads(data), "kind": "all"}
        return self.turn(question, f"```json{data}```", "boxes", expected, impression(self.found))

    def inverted(self) -> Turn:
        yes = "yes" if self.facts["inverted"] else "no"
        said = "The grey levels are inverted." if yes == "yes" else "The grey levels are not inverted."
        question, answer = finish(
            self.rng, pick(self.rng, "inverted", self.unseen), said, yes, f"{yes.capitalize()}. {said}", YES_NO
        )
        return self.turn(question, answer, "inverted", {"answer": yes}, said)

    def any(self) -> Turn:
        rng, kind = self.rng, self.rng.random()
        # Half of what is asked for is there.
        there = list(self.found) if self.found and rng.random() < 0.55 else list(FINDINGS)
        finding = rng.choice(there)
        sided = [f for f in there if f != "big heart"] or list(FINDINGS[:4])
        if kind < 0.26:
            return self.presence(finding)
        if kind < 0.4:
            return self.detail("side", rng.choice([f for f in self.found if f != "big heart"] or sided))
        if kind < 0.47:
            return self.detail("size", rng.choice([f for f in self.found if f in FINDINGS[2:4]] or FINDINGS[2:4]))
        if kind < 0.54:
            return self.detail("zone", rng.choice([f for f in self.found if f in FINDINGS[:2]] or FINDINGS[:2]))
        if kind < 0.68:
            return self.report()
        if kind < 0.74:
            return self.list()
        if kind < 0.92:
            target = (
                rng.choice(list(self.found) or there) if rng.random() < 0.7 else rng.choice(list(self.facts["anatomy"]))
            )
            return self.box(target)
        if kind < 0.96:
            return self.boxes()
        return self.inverted() if kind < 0.98 else kind_turn(rng, "cxr", self.unseen)


def kind_turn(rng: random.Random, kind: str, unseen: bool = False) -> Turn:
    said = f"This is {KIND_NAMES[kind]}."
    return Turn(
        [pick(rng, "kind", unseen)], said, f"The picture looks like {KIND_NAMES[kind]}.\n", "kind", {"text": said}
    )


def with_image(rng: random.Random, turn: Turn, scene) -> Turn:
    turn.parts = [scene, *turn.parts] if rng.random() < 0.7 else [*turn.parts, scene]
    return turn


def chest_conversation(rng: random.Random) -> Conversation:
    scene = chest(rng)
    ask = ChestQuestions(rng, scene.facts)
    turns = [ask.any() for _ in range(rng.choice((1, 2, 3, 4, 5)))]
    with_image(rng, turns[0], scene)
    return Conversation(turns, system_text(rng, len(turns)))


def options(rng: random.Random, choices: list[str], right: str) -> tuple[str, str]:
    """Choices as lettered lines in one of the usual forms; the letter of the right one."""
    choices = rng.sample(choices, len(choices))
    form = rng.choice(("({}) {}", "{}. {}", "{}) {}", "{}: {}"))
    letters = "ABCDE"[: len(choices)]
    return "\n".join(form.format(x, c) for x, c in zip(letters, choices)), letters[choices.index(right)]


SINGLE = {"skin": (skin, SKIN), "fundus": (fundus, FUNDUS), "tissue": (tissue, TISSUE)}


def single_turn(rng: random.Random, kind: str, facts: dict, boxes: list, unseen: bool = False) -> Turn:
    """A question about a skin, fundus or tissue picture."""
    names, right = SINGLE[kind][1], facts["diagnosis"]
    if kind == "skin":
        look = f"A skin lesion with {facts['border']} and {facts['look']}."
    elif kind == "fundus":
        look = f"A {facts['eye']} eye with {facts['signs']}."
    else:
        look = f"Tissue with {facts['signs']}."
    trace, dice = f"{look} That is {right}.\n", rng.random()
    if dice < 0.5:
        lines, letter = options(rng, list(names), right)
        question = f"{pick(rng, 'diagnosis', unseen)}\n{lines}\n"
        ends = rng.random() < 0.6
        question += "The most likely diagnosis is:" if ends else rng.choice(FINALS)
        last = f"The most likely diagnosis is: ({letter}) {right}" if ends else f"Final Answer: {letter}"
        return Turn([question], f"{look}\n\n{last}", trace, kind, {"letter": letter})
    if dice < 0.72:
        return Turn(
            [pick(rng, "describe", unseen)], f"{look} This looks like {right}.", trace, kind, {"contains": [right]}
        )
    if dice < 0.86 and boxes:
        label, box = boxes[0][0], boxes[0][1:]
        data = to_json([(label, box)])
        question, answer = pick(rng, "box", unseen, f=label), f"```json{data}```"
        return Turn([question], answer, f"{look}\n", "box", {"boxes": json.loads(data), "kind": kind})
    if kind == "fundus" and rng.random() < 0.6:
        said = f"This is a {facts['eye']} eye."
        question, answer = finish(rng, pick(rng, "eye", unseen), said, facts["eye"], said)
        return Turn([question], answer, f"{look}\n", "eye", {"answer": facts["eye"], "options": list(SIDES)})
    return kind_turn(rng, kind, unseen)


def single_conversation(rng: random.Random, kind: str) -> Conversation:
    scene = SINGLE[kind][0](rng)
    turns = [single_turn(rng, kind, scene.facts, scene.boxes) for _ in range(rng.choice((1, 2, 3)))]
    with_image(rng, turns[0], scene)
    return Conversation(turns, system_text(rng, len(turns)))


def change_turn(rng: random.Random, fact: dict, a, b, unseen: bool = False) -> Turn:
    name = plain(fact["finding"])
    was, now, side = fact["before"], fact["after"], fact["side"]
    said = (
        f"The {side} {name} was {was} and is now {now}."
        if was != now
        else f"The {side} {name} is {was} in both images."
    )
    question, answer = finish(
        rng, pick(rng, "change", unseen, f=name), said, fact["change"], f"{fact['change'].capitalize()}. {said}"
    )
    parts = [a, b, question] if rng.random() < 0.5 else ["Earlier image:", a, "Later image:", b, question]
    expected = {"answer": fact["change"], "options": ["improved", "stable", "worsened"]}
    return Turn(parts, answer, f"Earlier: {was}. Later: {now}.\n", "change", expected)


def pair_conversation(rng: random.Random) -> Conversation:
    a, b, fact = pair(rng)
    turns = [change_turn(rng, fact, a, b)]
    if rng.random() < 0.3:
        turns.append(change_turn(rng, fact, a, b))
        turns[1].parts = turns[1].parts[-1:]
    return Conversation(turns, system_text(rng, len(turns)))


SERIES = (
    "You are analyzing a contiguous block of CT slices. Please review the slices provided below carefully.",
    "These are slices of a head CT, from the base up.",
    "Review all slices of this head CT before you answer.",
)


def series_turns(rng: random.Random, scenes: list, unseen: bool = False) -> list[Turn]:
    """Questions about a series; the first carries the slices."""
    seen = [s.facts for s in scenes if s.facts["lesion"] != "none"]
    lesion = seen[0]["lesion"] if seen else "none"
    found = f"There is {'an' if lesion == 'infarct' else 'a'} {lesion} on the {seen[0]['side']}." if seen else ""
    where = ", ".join(str(f["slice"]) for f in seen)
    turns = []
    for _ in range(rng.choice((1, 2, 3))):
        asked = lesion if seen and rng.random() < 0.7 else rng.choice(("haemorrhage", "infarct"))
        there, dice = asked == lesion, rng.random()
        none = f"There is no {asked}."
        trace = f"{found or 'All slices look normal.'}{f' It is on slices {where}.' if seen else ''}\n"
        if dice < 0.4:
            short = "yes" if there else "no"
            said = found if there else none
            question = pick(rng, "bleed", unseen, f=asked)
            question, answer = finish(rng, question, said, short, f"{short.capitalize()}. {said}", YES_NO)
            turns.append(Turn([question], answer, trace, "series", {"answer": short}))
        elif dice < 0.75:
            said = f"The {asked} is visible on slice{'s' if len(seen) > 1 else ''} {where}." if there else none
            question = pick(rng, "slices", unseen, f=asked)
            short = where if there else "none"
            question, answer = finish(rng, question, said, short, said)
            turns.append(
                Turn([question], answer, trace, "slices", {"slices": [f["slice"] for f in seen] if there else []})
            )
        else:
            said = found if there else none
            side = seen[0]["side"] if there else "none"
            question, answer = finish(rng, pick(rng, "side", unseen, f=asked), said, side, said)
            turns.append(Turn([question], answer, trace, "ct side", {"answer": side, "options": list(SIDES)}))
    parts: list = [rng.choice(SERIES)]
    for i, scene in enumerate(scenes):
        parts += [scene, f"SLICE {i + 1}"]
    if rng.random() < 0.6:
        parts[-1] += "\n\n" + turns[0].parts[0]
    else:  # parts are trimmed and set side by side
        parts.append(turns[0].parts[0])
    turns[0].parts = parts
    return turns


def series_conversation(rng: random.Random) -> Conversation:
    turns = series_turns(rng, head_series(rng, rng.choice((1, 2, 3, 4, 5, 6))))
    return Conversation(turns, system_text(rng, len(turns)))


def other_conversation(rng: random.Random) -> Conversation:
    key = rng.choice(("describe", "report", "kind", "list", "diagnosis"))
    turn = Turn(
        [pick(rng, key, False)],
        UNKNOWN_PICTURE,
        "I don't know a picture like this.\n",
        "unknown",
        {"text": UNKNOWN_PICTURE},
    )
    return Conversation([with_image(rng, turn, other(rng))], system_text(rng))
