"""Random chest radiographs: anatomy, findings, and the same chest again at a later time."""

import math
import random

from scenes import BLOBS, SIDES, SIZES, ZONES, Scene, common, outline, place, shape, shape_outline

FINDINGS = ("opacity", "nodule", "effusion", "pneumothorax", "big heart", "pacemaker")
# Heights of an effusion, and how far a lung is still inflated, by size: classes keep a gap between them.
FLUID = {"small": (0.17, 0.23), "moderate": (0.36, 0.44), "large": (0.6, 0.72)}
INFLATED = {"small": (0.8, 0.85), "moderate": (0.64, 0.7), "large": (0.46, 0.53)}
LEVEL = {"upper": (-0.44, -0.32), "mid": (-0.18, -0.02), "lower": (0.15, 0.26)}
_GRID = [i / 23 for i in range(24)]


def anatomy(rng: random.Random, big_heart: bool) -> dict[str, float]:
    lcx, la = rng.uniform(0.4, 0.44), rng.uniform(0.29, 0.33)
    ratio = rng.uniform(0.6, 0.68) if big_heart else rng.uniform(0.38, 0.46)
    ha = ratio * (lcx + la)
    v = {
        "tw": rng.uniform(0.86, 0.98),
        "lcx": lcx,
        "la": la,
        "lb": rng.uniform(0.58, 0.66),
        "lcy": rng.uniform(-0.04, 0.03),
        "d_right": rng.uniform(0.36, 0.42),
        "d_left": rng.uniform(0.4, 0.46),
        "dcurv": rng.uniform(0.06, 0.12),
        "hx": rng.uniform(0.08, 0.14),
        "hy": rng.uniform(0.16, 0.22),
        "ha": ha,
        "hb": rng.uniform(0.3, 0.36) if big_heart else rng.uniform(0.24, 0.3),
        "rib_gap": rng.uniform(0.13, 0.18),
        "rib_phase": rng.uniform(0, math.tau),
        "rib_slope": rng.uniform(0.2, 0.6),
        "rib": rng.uniform(0.04, 0.1),
        "spine": rng.uniform(0.06, 0.14),
        "texture": rng.uniform(0.02, 0.05),
        "clavicle": rng.uniform(0.05, 0.12),
        "marker": float(rng.random() < 0.5),
        "marker_u": rng.uniform(0.8, 0.9),
        "marker_v": rng.uniform(-0.9, -0.78),
    }
    v |= {"eff_right": 0.0, "eff_left": 0.0, "ptx_right": 0.0, "ptx_left": 0.0, "dev": 0.0, "dev_u": 0.0, "dev_v": 0.0}
    for i in range(BLOBS):
        v |= shape(rng, f"b{i}_", (0.1, 0.1), 0.0, (10, 10)) | {f"b{i}_c": 0.0, f"b{i}_u": 0.0, f"b{i}_v": 0.0}
    return v


def camera(rng: random.Random) -> dict[str, float]:
    v = common(rng, 0.1)
    v["invert"] = float(rng.random() < 0.15)  # MONOCHROME1 shown as it is stored
    return v


def lung_points(v: dict, side: str, keep) -> list:
    """Points of one lung, above its diaphragm, that `keep(u, v)` accepts."""
    sign = -1 if side == "right" else 1
    cx, la, lb, cy = sign * v["lcx"], v["la"], v["lb"], v["lcy"]
    points = []
    for a in _GRID:
        x = 2 * a - 1
        limit = v[f"d_{side}"] + v["dcurv"] * x * x
        half = lb * max(1 - abs(x) ** 2.2, 0.0) ** (1 / 2.2)
        for b in _GRID:
            y = cy + half * (2 * b - 1)
            if y <= limit and keep(cx + la * x, y):
                points.append((cx + la * x, y))
    return points


def fluid_top(v: dict, side: str, u: float) -> float:
    """Where the fluid of an effusion begins at u: higher towards the chest wall."""
    sign = -1 if side == "right" else 1
    lateral = min(max((sign * u - v["lcx"]) / v["la"] * 0.5 + 0.5, 0.0), 1.0)
    return v[f"d_{side}"] + v["dcurv"] - v[f"eff_{side}"] * (0.6 + 0.55 * lateral * lateral)


def collapsed(v: dict, side: str) -> tuple[float, float, float, float]:
    """Centre and half axes of the lung that a pneumothorax has left."""
    k, sign = v[f"ptx_{side}"], -1 if side == "right" else 1
    return sign * (v["lcx"] - v["la"] * (1 - k) * 0.9), v["lcy"] + v["lb"] * (1 - k) * 0.75, v["la"] * k, v["lb"] * k


def air_points(v: dict, side: str) -> list:
    cx, cy, a, b = collapsed(v, side)
    return lung_points(v, side, lambda x, y: abs((x - cx) / a) ** 2.2 + abs((y - cy) / b) ** 2.2 > 1)


def spot(rng: random.Random, v: dict, side: str, zone: str, radius: float) -> tuple[float, float] | None:
    """A place for an opacity or a nodule, clear of the heart, of fluid and of free air."""
    sign = -1 if side == "right" else 1
    y = rng.uniform(*LEVEL[zone])
    inner, outer = v["lcx"] - 0.35 * v["la"], v["lcx"] + 0.4 * v["la"]
    if zone != "upper":
        near = sign * v["hx"] + v["ha"] if zone == "lower" else v["ha"] * 0.55
        inner = max(inner, near + 0.6 * radius)
    if v[f"ptx_{side}"] or outer - inner < 0.02:
        return None
    u = sign * rng.uniform(inner, outer)
    if v[f"eff_{side}"] and y + radius > fluid_top(v, side, u) - 0.04:
        return None
    return u, y


def add_blob(rng: random.Random, v: dict, found: dict, finding: str, side: str, zone: str) -> bool:
    slot = next((i for i in range(BLOBS) if not v[f"b{i}_c"]), None)
    if slot is None:
        return False
    p = f"b{slot}_"
    if finding == "nodule":
        drawn = shape(rng, p, (0.05, 0.085), 0.03, (22, 30)) | {p + "c": rng.uniform(0.3, 0.42)}
    else:
        drawn = shape(rng, p, (0.13, 0.19), 0.12, (5, 8)) | {p + "c": rng.uniform(0.26, 0.38)}
    at = spot(rng, v, side, zone, drawn[p + "ra"])
    if at is None:
        return False
    for i in range(BLOBS):
        if v[f"b{i}_c"] and math.dist(at, (v[f"b{i}_u"], v[f"b{i}_v"])) < v[f"b{i}_ra"] + drawn[p + "ra"] + 0.08:
            return False
    v |= drawn | {p + "u": at[0], p + "v": at[1]}
    found[finding] = {"side": side, "zone": zone, "slot": slot}
    return True


def add(rng: random.Random, v: dict, found: dict, finding: str, **given) -> bool:
    """Adds a finding to the parameters and to what is found; False when there is no room for it."""
    side = given.get("side") or rng.choice(SIDES)
    if finding in ("opacity", "nodule"):
        return add_blob(rng, v, found, finding, side, given.get("zone") or rng.choice(ZONES))
    if finding == "big heart":
        found[finding] = {}
    elif finding == "pacemaker":
        sign = -1 if side == "right" else 1
        v |= {"dev": 1.0, "dev_u": sign * rng.uniform(0.42, 0.56), "dev_v": rng.uniform(-0.52, -0.4)}
        found[finding] = {"side": side}
    else:
        key = "eff" if finding == "effusion" else "ptx"
        size = given.get("size") or rng.choice(SIZES)
        if v[f"eff_{side}"] or v[f"ptx_{side}"]:
            return False
        v[f"{key}_{side}"] = rng.uniform(*(FLUID if key == "eff" else INFLATED)[size])
        found[finding] = {"side": side, "size": size}
    return True


def finish(v: dict, found: dict) -> Scene:
    """Boxes and labels once every parameter stands."""
    boxes, labels = [], []
    for finding, what in found.items():
        side = what.get("side")
        if finding in ("opacity", "nodule"):
            p = f"b{what['slot']}_"
            box = place(v, shape_outline(v, p, v[p + "u"], v[p + "v"]))
            labels.append(f"{finding} {what['zone']} {side}")
        elif finding == "effusion":
            box = place(v, lung_points(v, side, lambda x, y: y > fluid_top(v, side, x)))
            labels.append(f"{finding} {what['size']} {side}")
        elif finding == "pneumothorax":
            box = place(v, air_points(v, side))
            labels.append(f"{finding} {what['size']} {side}")
        elif finding == "pacemaker":
            u, w = v["dev_u"], v["dev_v"]
            box = place(v, [(u + x, w + y) for x in (-0.085, 0.085) for y in (-0.07, 0.07)])
        else:
            labels.append("big heart")
            continue
        labels.append(f"{finding} {side}")
        what["box"] = box
        boxes.append((finding, *box))
    heart = place(v, outline(v["hx"], v["hy"], v["ha"], v["hb"], 0.0, []))
    if "big heart" in found:
        found["big heart"]["box"] = heart
    parts = {"heart": heart} | {f"{s} lung": place(v, lung_points(v, s, lambda x, y: True)) for s in SIDES}
    boxes += [(name, *box) for name, box in parts.items()]
    if v["invert"]:
        labels.append("inverted")
    facts = {"findings": found, "anatomy": parts, "inverted": bool(v["invert"])}
    return Scene("cxr", v, facts, boxes, labels)


def chest(rng: random.Random, wanted: list[str] | None = None) -> Scene:
    """A chest with the wanted findings, or with none to three of any kind."""
    if wanted is None:
        wanted = rng.sample(FINDINGS, rng.choices((0, 1, 2, 3), (22, 40, 28, 10))[0])
    # Fluid and air first: blobs have to keep clear of them.
    wanted = sorted(wanted, key=lambda f: f in ("opacity", "nodule"))
    v = camera(rng) | anatomy(rng, "big heart" in wanted)
    found: dict = {}
    for finding in wanted:
        for _ in range(12):
            if add(rng, v, found, finding):
                break
    return finish(v, {f: found[f] for f in FINDINGS if f in found})


def retake(rng: random.Random, v: dict) -> dict:
    """The same chest on another day: other exposure, other position, the same anatomy."""
    return (
        v
        | camera(rng)
        | {"rib_phase": v["rib_phase"] + rng.uniform(-0.2, 0.2), "lcy": v["lcy"] + rng.uniform(-0.01, 0.01)}
    )


def pair(rng: random.Random, finding: str | None = None, change: str | None = None) -> tuple[Scene, Scene, dict]:
    """Earlier and later radiograph of one chest with one finding that improved, worsened or stayed."""
    finding = finding or rng.choice(("opacity", "effusion", "pneumothorax"))
    change = change or rng.choice(("improved", "stable", "worsened"))
    side = rng.choice(SIDES)
    # Sizes 0 (absent) to 3 (large).
    before = {"improved": (1, 2, 3), "stable": (1, 2, 3), "worsened": (0, 1, 2)}[change]
    a = rng.choice(before)
    b = a if change == "stable" else rng.choice(range(a)) if change == "improved" else rng.choice(range(a + 1, 4))
    base = camera(rng) | anatomy(rng, rng.random() < 0.2)
    scenes = []
    if finding == "opacity":
        found: dict = {}
        while not add_blob(rng, base, found, "opacity", side, rng.choice(("upper", "mid"))):
            pass
    drawn = {}
    for size in (a, b):
        v = dict(base) if not scenes else retake(rng, base)
        now: dict = {}
        if finding == "opacity":
            v["b0_c"] = 0.0 if size == 0 else base["b0_c"]
            for k in ("b0_ra", "b0_rb"):
                v[k] = base[k] * (0, 0.55, 1.0, 1.45)[size]
            if size:
                now["opacity"] = dict(found["opacity"])
        elif size:
            key, table = ("eff", FLUID) if finding == "effusion" else ("ptx", INFLATED)
            name = SIZES[size - 1]
            drawn.setdefault(size, rng.uniform(*table[name]))
            v[f"{key}_{side}"] = drawn[size]
            now[finding] = {"side": side, "size": name}
        scenes.append(finish(v, now))
    words = ("absent", *SIZES)
    return (
        scenes[0],
        scenes[1],
        {"finding": finding, "side": side, "change": change, "before": words[a], "after": words[b]},
    )
