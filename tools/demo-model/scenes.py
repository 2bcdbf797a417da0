"""Random scenes: what is in a picture, as numbers for render.py to draw and as facts for image_tasks.py to ask about.

A scene never holds pixels. Its `values` are the parameters of one picture (the order of KEYS is the column order of
the array that goes to the renderer); its `facts` are the truth in words; its `boxes` are `(channel, y0, x0, y1, x1)`
in 0..1 of the square; its `labels` are what an auxiliary head is taught during training.

Coordinates of a phantom run from -1 to 1, u to the right of the picture and v downwards, before the picture is turned,
scaled and shifted. The patient's right is on the left of the picture.
"""

import math
import random
from dataclasses import dataclass, field

KINDS = ["cxr", "skin", "fundus", "tissue", "ct", "other"]
SIDES = ("right", "left")
ZONES = ("upper", "mid", "lower")
SIZES = ("small", "moderate", "large")
CHANNELS = [
    "opacity", "nodule", "effusion", "pneumothorax", "heart", "pacemaker", "right lung", "left lung",
    "lesion", "optic disc", "haemorrhage", "infarct",
]  # fmt: skip
SKIN = ("melanocytic naevus", "melanoma", "basal cell carcinoma", "seborrhoeic keratosis")
FUNDUS = ("normal fundus", "diabetic retinopathy", "glaucoma", "macular degeneration")
TISSUE = ("normal glands", "inflammation", "carcinoma", "adipose tissue")
LABELS = (
    [
        f"{f} {s}"
        for f in ("opacity", "nodule", "effusion", "pneumothorax", "pacemaker", "bleed", "infarct")
        for s in SIDES
    ]
    + [f"{f} {z} {s}" for f in ("opacity", "nodule") for z in ZONES for s in SIDES]
    + [f"{f} {z} {s}" for f in ("effusion", "pneumothorax") for z in SIZES for s in SIDES]
    + ["big heart", "inverted", "right eye"]
    + [f"kind {k}" for k in KINDS]
    + [*SKIN, *FUNDUS, *TISSUE]
)
LABEL_INDEX = {name: i for i, name in enumerate(LABELS)}
BLOBS = 3  # opacities and nodules that one radiograph can hold
MAX_BOXES = 8

_CXR = (
    ["tw", "lcx", "la", "lb", "lcy", "d_right", "d_left", "dcurv", "hx", "hy", "ha", "hb"]
    + ["rib_gap", "rib_phase", "rib_slope", "rib", "spine", "texture", "clavicle"]
    + ["eff_right", "eff_left", "ptx_right", "ptx_left", "dev", "dev_u", "dev_v", "marker", "marker_u", "marker_v"]
    + [f"b{i}_{k}" for i in range(BLOBS) for k in ("c", "u", "v", "ra", "rb", "rot", "w3", "p3", "w5", "p5", "edge")]
)
_SHAPE = ["cu", "cv", "ra", "rb", "turn", "w2", "p2", "w3", "p3", "w5", "p5", "edge"]
_SKIN = _SHAPE + [
    "tone_r",
    "tone_g",
    "tone_b",
    "les_r",
    "les_g",
    "les_b",
    "variegated",
    "rim",
    "specks",
    "hair",
    "grain",
]
_FUNDUS = [
    "disc_u",
    "disc_v",
    "disc_r",
    "cup",
    "bright",
    "hue",
    "vessel",
    "spread",
    "haemorrhages",
    "exudates",
    "drusen",
    "macula_u",
]
_TISSUE = ["cells", "size", "ragged", "ring", "fat", "dark", "pink", "gap"]
_CT = (
    ["skull_a", "skull_b", "bone", "ventricle", "brain", "grain", "mottle", "les_hu"]
    + [f"les_{k}" for k in ("u", "v", "ra", "rb", "rot", "w3", "p3", "w5", "p5", "edge")]
)  # fmt: skip
_OTHER = ["style", "f1", "f2", "p1", "p2", "r", "g", "b", "r2", "g2", "b2"]
_COMMON = ["rot", "scale", "sx", "sy", "gain", "offset", "gamma", "noise", "blur", "invert"]
KEYS = {
    "cxr": _COMMON + _CXR,
    "skin": _COMMON + _SKIN,
    "fundus": _COMMON + _FUNDUS,
    "tissue": _COMMON + _TISSUE,
    "ct": _COMMON + _CT,
    "other": _COMMON + _OTHER,
}
WIDTH = max(len(k) for k in KEYS.values())


@dataclass
class Scene:
    """One picture to draw."""

    kind: str
    values: dict[str, float]
    facts: dict = field(default_factory=dict)
    boxes: list[tuple] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def row(self) -> list[float]:
        """The renderer's numbers, padded to WIDTH."""
        row = [self.values[k] for k in KEYS[self.kind]]
        return row + [0.0] * (WIDTH - len(row))

    def box_rows(self) -> list[list[float]]:
        """`[channel, y0, x0, y1, x1]`, padded with channel -1 to MAX_BOXES."""
        rows = [[float(CHANNELS.index(c)), *xs] for c, *xs in self.boxes[:MAX_BOXES]]
        return rows + [[-1.0, 0.0, 0.0, 0.0, 0.0]] * (MAX_BOXES - len(rows))

    def label_ids(self) -> list[int]:
        return [LABEL_INDEX[n] for n in self.labels + [f"kind {self.kind}"]]


def common(rng: random.Random, turn: float, scale=(0.92, 1.06), shift=0.06, noise=(0.008, 0.035)) -> dict[str, float]:
    """What the camera did: turn, size, place, exposure, noise."""
    return {
        "rot": rng.uniform(-turn, turn),
        "scale": rng.uniform(*scale),
        "sx": rng.uniform(-shift, shift),
        "sy": rng.uniform(-shift, shift),
        "gain": rng.uniform(0.85, 1.25),
        "offset": rng.uniform(-0.07, 0.07),
        "gamma": rng.uniform(0.8, 1.25),
        "noise": rng.uniform(*noise),
        "blur": rng.uniform(0.3, 1.0),
        "invert": 0.0,
    }


def place(values: dict[str, float], points: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    """The box (y0, x0, y1, x1) in 0..1 around phantom points once the picture is turned, scaled and shifted."""
    cos, sin, scale = math.cos(values["rot"]), math.sin(values["rot"]), values["scale"]
    xs = [scale * (cos * u - sin * v) + values["sx"] for u, v in points]
    ys = [scale * (sin * u + cos * v) + values["sy"] for u, v in points]
    edge = [(min(ys) + 1) / 2, (min(xs) + 1) / 2, (max(ys) + 1) / 2, (max(xs) + 1) / 2]
    return tuple(min(max(e, 0.0), 1.0) for e in edge)


def outline(u: float, v: float, ra: float, rb: float, rot: float, waves: list[tuple[int, float, float]]) -> list:
    """Points on the edge of an ellipse whose radius is modulated by cosines of (order, amplitude, phase)."""
    cos, sin, points = math.cos(rot), math.sin(rot), []
    for i in range(40):
        t = i * math.tau / 40
        r = 1 + sum(w * math.cos(n * t + p) for n, w, p in waves)
        x, y = ra * r * math.cos(t), rb * r * math.sin(t)
        points.append((u + cos * x - sin * y, v + sin * x + cos * y))
    return points


def shape(rng: random.Random, prefix: str, size: tuple[float, float], ragged: float, edge: tuple[float, float]) -> dict:
    """An irregular ellipse, all but its place."""
    ra = rng.uniform(*size)
    return {
        f"{prefix}ra": ra,
        f"{prefix}rb": ra * rng.uniform(0.78, 1.0),
        f"{prefix}rot": rng.uniform(0, math.pi),
        f"{prefix}w3": rng.uniform(0.3, 1) * ragged,
        f"{prefix}p3": rng.uniform(0, math.tau),
        f"{prefix}w5": rng.uniform(0.3, 1) * ragged * 0.6,
        f"{prefix}p5": rng.uniform(0, math.tau),
        f"{prefix}edge": rng.uniform(*edge),
    }


def shape_outline(values: dict, prefix: str, u: float, v: float) -> list:
    waves = [(3, values[f"{prefix}w3"], values[f"{prefix}p3"]), (5, values[f"{prefix}w5"], values[f"{prefix}p5"])]
    return outline(u, v, values[f"{prefix}ra"], values[f"{prefix}rb"], values[f"{prefix}rot"], waves)


def skin(rng: random.Random, name: str | None = None) -> Scene:
    name = name or rng.choice(SKIN)
    v = common(rng, 0.0, (0.9, 1.1), 0.0, (0.004, 0.012))
    tone = rng.choice([(0.93, 0.76, 0.66), (0.85, 0.65, 0.52), (0.72, 0.52, 0.4), (0.55, 0.38, 0.28)])
    v |= {f"tone_{c}": t + rng.uniform(-0.04, 0.04) for c, t in zip("rgb", tone)}
    v |= {"cu": rng.uniform(-0.25, 0.25), "cv": rng.uniform(-0.25, 0.25), "turn": rng.uniform(0, math.pi)}
    v |= {"variegated": 0.0, "rim": 0.0, "specks": 0.0, "hair": rng.choice([0.0, 1.0]), "grain": rng.uniform(0.5, 1.5)}
    waves = {"w2": 0.0, "w3": rng.uniform(0, 0.03), "w5": rng.uniform(0, 0.02)}
    ra, edge = rng.uniform(0.2, 0.42), rng.uniform(14, 22)
    if name == "melanocytic naevus":
        colour = [tone[0] * 0.55, tone[1] * 0.45, tone[2] * 0.4]
        round_, border, look = rng.uniform(0.88, 1.0), "a regular border", "one even brown colour"
    elif name == "melanoma":
        colour = [0.25, 0.14, 0.12]
        round_, border, look = rng.uniform(0.6, 0.85), "an irregular border", "several dark colours"
        waves = {"w2": rng.uniform(0.05, 0.12), "w3": rng.uniform(0.12, 0.2), "w5": rng.uniform(0.08, 0.14)}
        v["variegated"] = rng.uniform(0.8, 1.2)
    elif name == "basal cell carcinoma":
        colour = [min(tone[0] + 0.05, 1), tone[1] * 0.78, tone[2] * 0.8]
        round_, border, look = rng.uniform(0.85, 1.0), "a raised rim", "a pearly pink colour"
        v["rim"] = rng.uniform(0.8, 1.2)
    else:
        colour = [tone[0] * 0.68, tone[1] * 0.58, tone[2] * 0.45]
        round_, border, look = rng.uniform(0.75, 1.0), "a sharp border", "many pale specks"
        v["specks"], edge = rng.uniform(0.8, 1.2), rng.uniform(26, 36)
    v |= {f"les_{c}": t + rng.uniform(-0.03, 0.03) for c, t in zip("rgb", colour)}
    v |= waves | {f"p{n}": rng.uniform(0, math.tau) for n in (2, 3, 5)} | {"ra": ra, "rb": ra * round_, "edge": edge}
    around = outline(v["cu"], v["cv"], ra, ra * round_, v["turn"], [(n, v[f"w{n}"], v[f"p{n}"]) for n in (2, 3, 5)])
    facts = {"diagnosis": name, "border": border, "look": look}
    return Scene("skin", v, facts, [("lesion", *place(v, around))], [name])


def fundus(rng: random.Random, name: str | None = None) -> Scene:
    name = name or rng.choice(FUNDUS)
    v = common(rng, 0.12, (0.95, 1.05), 0.03, (0.004, 0.012))
    side = rng.choice(SIDES)
    # In a photograph of the right eye the optic disc lies towards the nose: right of the centre.
    toward = 1 if side == "right" else -1
    v |= {
        "disc_u": toward * rng.uniform(0.36, 0.5),
        "disc_v": rng.uniform(-0.08, 0.08),
        "disc_r": rng.uniform(0.13, 0.17),
        "cup": rng.uniform(0.74, 0.84) if name == "glaucoma" else rng.uniform(0.25, 0.4),
        "bright": rng.uniform(0.85, 1.1),
        "hue": rng.uniform(-0.05, 0.05),
        "vessel": rng.uniform(0.8, 1.2),
        "spread": rng.uniform(0.5, 0.75),
        "haemorrhages": rng.uniform(0.8, 1.2) if name == "diabetic retinopathy" else 0.0,
        "exudates": rng.uniform(0.7, 1.2) if name == "diabetic retinopathy" else 0.0,
        "drusen": rng.uniform(0.8, 1.2) if name == "macular degeneration" else 0.0,
        "macula_u": -toward * rng.uniform(0.02, 0.1),
    }
    signs = {
        "normal fundus": "no lesion and a small cup",
        "diabetic retinopathy": "dark haemorrhages and bright exudates",
        "glaucoma": "a large cup in the optic disc",
        "macular degeneration": "pale drusen around the macula",
    }
    disc = outline(v["disc_u"], v["disc_v"], v["disc_r"], v["disc_r"], 0.0, [])
    labels = [name] + (["right eye"] if side == "right" else [])
    facts = {"diagnosis": name, "eye": side, "signs": signs[name]}
    return Scene("fundus", v, facts, [("optic disc", *place(v, disc))], labels)


def tissue(rng: random.Random, name: str | None = None) -> Scene:
    name = name or rng.choice(TISSUE)
    v = common(rng, math.pi, (0.9, 1.1), 0.0, (0.004, 0.012))
    v |= {
        "ragged": 0.0,
        "ring": 0.0,
        "fat": 0.0,
        "dark": rng.uniform(0.85, 1.1),
        "pink": rng.uniform(-0.08, 0.08),
        "gap": 0.3,
    }
    if name == "normal glands":
        v |= {"cells": rng.uniform(20, 24), "size": rng.uniform(0.25, 0.3), "ring": 1.0, "gap": rng.uniform(0.3, 0.4)}
        signs = "nuclei in tidy rings around open glands"
    elif name == "inflammation":
        v |= {"cells": rng.uniform(27, 33), "size": rng.uniform(0.3, 0.36), "gap": rng.uniform(0.02, 0.12)}
        signs = "crowds of small dark round nuclei"
    elif name == "carcinoma":
        v |= {
            "cells": rng.uniform(10, 13),
            "size": rng.uniform(0.36, 0.44),
            "ragged": rng.uniform(0.25, 0.4),
            "gap": 0.08,
        }
        signs = "large crowded nuclei of uneven shape"
    else:
        v |= {"cells": rng.uniform(6, 8), "size": rng.uniform(0.42, 0.46), "fat": 1.0, "gap": 0.0}
        signs = "large empty cells with thin walls"
    return Scene("tissue", v, {"diagnosis": name, "signs": signs}, [], [name])


def head_series(rng: random.Random, count: int, lesion: str | None = None) -> list[Scene]:
    """Slices of a head CT from the base up; a lesion, if any, spans neighbouring ones."""
    if lesion is None:
        lesion = rng.choice(["none", "haemorrhage", "infarct"])
    side = rng.choice(SIDES)
    camera = common(rng, 0.12, (0.95, 1.05), 0.04, (0.004, 0.012))
    head = {"skull_a": rng.uniform(0.6, 0.68), "skull_b": rng.uniform(0.74, 0.82), "bone": rng.uniform(0.05, 0.08)}
    head |= {"brain": rng.uniform(30, 38), "grain": rng.uniform(1.5, 4), "mottle": rng.uniform(1, 3)}
    first = rng.randrange(count)
    last = min(count - 1, first + rng.randrange(1 + count // 2))
    sign = -1 if side == "right" else 1
    u, v = sign * rng.uniform(0.24, 0.36), rng.uniform(-0.3, 0.35)
    big = (0.12, 0.2) if lesion == "haemorrhage" else (0.18, 0.27)
    lump = shape(rng, "les_", big, 0.1, (14, 22))
    density = rng.uniform(62, 76) if lesion == "haemorrhage" else rng.uniform(8, 15)
    scenes = []
    for i in range(count):
        level = (i + 1) / (count + 1)
        size = math.sin(math.pi * (0.3 + 0.5 * level)) ** 0.5
        values = (
            camera
            | head
            | lump
            | {"ventricle": max(0.0, 1 - abs(level - 0.55) * 3.2), "les_hu": 0.0, "les_u": u, "les_v": v}
        )
        values |= {"skull_a": head["skull_a"] * size, "skull_b": head["skull_b"] * size}
        seen = lesion != "none" and first <= i <= last
        facts = {"lesion": lesion if seen else "none", "side": side, "slice": i + 1}
        scene = Scene("ct", values, facts)
        if seen:
            middle = (first + last) / 2
            grow = 1 - 0.18 * abs(i - middle)
            values |= {"les_hu": density, "les_ra": lump["les_ra"] * grow, "les_rb": lump["les_rb"] * grow}
            scene.boxes = [(lesion, *place(values, shape_outline(values, "les_", u, v)))]
            scene.labels = [f"{'bleed' if lesion == 'haemorrhage' else 'infarct'} {side}"]
        scenes.append(scene)
    return scenes


def other(rng: random.Random) -> Scene:
    """A picture of nothing the model knows: gradients, noise, stripes, checks, a blank, a disc."""
    v = common(rng, math.pi, (0.5, 1.5), 0.2, (0.002, 0.08))
    v |= {"style": float(rng.randrange(6)), "f1": rng.uniform(1, 14), "f2": rng.uniform(1, 14)}
    v |= {"p1": rng.uniform(0, math.tau), "p2": rng.uniform(0, math.tau)}
    grey = rng.random() < 0.4
    for suffix in ("", "2"):
        base = rng.random()
        v |= {c + suffix: base if grey else rng.random() for c in "rgb"}
    return Scene("other", v)
