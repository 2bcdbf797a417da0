"""Draws scenes: from rows of numbers (scenes.KEYS) to 8-bit RGB pictures, many at a time on any torch device.

What a scene leaves open, noise and texture, comes from torch's generator: two drawings of one scene are two pictures.
"""

import math

import torch
import torch.nn.functional as F

from chest import BLOBS
from scenes import KEYS, KINDS

SIZE = 224


class Row:
    """Columns of a batch of parameter rows by name, each `[N, 1, 1]`."""

    def __init__(self, kind: str, rows: torch.Tensor):
        self.columns = {name: rows[:, i].view(-1, 1, 1) for i, name in enumerate(KEYS[kind])}
        self.count, self.device = rows.shape[0], rows.device

    def __getattr__(self, name: str) -> torch.Tensor:
        return self.columns[name]

    def grid(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Phantom coordinates (u, v) of each pixel: the turn, scale and shift undone."""
        line = (torch.arange(SIZE, device=self.device, dtype=torch.float32) + 0.5) * (2 / SIZE) - 1
        x, y = (line.view(1, 1, -1) - self.sx) / self.scale, (line.view(1, -1, 1) - self.sy) / self.scale
        cos, sin = torch.cos(self.rot), torch.sin(self.rot)
        return cos * x + sin * y, cos * y - sin * x

    def field(self, cells: int, channels: int = 1) -> torch.Tensor:
        """Smooth noise of unit variance at its knots, `[N, channels, SIZE, SIZE]`."""
        knots = torch.randn((self.count, channels, cells, cells), device=self.device)
        return F.interpolate(knots, size=(SIZE, SIZE), mode="bilinear", align_corners=True)


def soft(distance: torch.Tensor, sharpness: float | torch.Tensor = 40.0) -> torch.Tensor:
    """1 inside (distance above 0), 0 outside, with a soft edge."""
    return torch.sigmoid(distance * sharpness)


def lump(u, v, cu, cv, ra, rb, rot, waves) -> torch.Tensor:
    """How deep inside an irregular ellipse: 1 at its centre, 0 on its edge, negative outside."""
    du, dv = u - cu, v - cv
    cos, sin = torch.cos(rot), torch.sin(rot)
    x, y = (cos * du + sin * dv) / ra, (cos * dv - sin * du) / rb
    angle = torch.atan2(y, x)
    edge = 1.0
    for order, amplitude, phase in waves:
        edge = edge + amplitude * torch.cos(order * angle + phase)
    return 1 - torch.sqrt(x * x + y * y + 1e-9) / edge


def superellipse(u, v, cu, cv, a, b) -> torch.Tensor:
    return ((u - cu) / a).abs() ** 2.2 + ((v - cv) / b).abs() ** 2.2


def segment(u, v, au, av, bu, bv) -> torch.Tensor:
    """Distance of each pixel to a straight segment."""
    du, dv = bu - au, bv - av
    t = (((u - au) * du + (v - av) * dv) / (du * du + dv * dv + 1e-6)).clamp(0, 1)
    return torch.sqrt((u - au - t * du) ** 2 + (v - av - t * dv) ** 2 + 1e-9)


def expose(p: Row, image: torch.Tensor) -> torch.Tensor:
    """Contrast, brightness, gamma, noise, inversion; then 8 bits. `image` is `[N, channels, SIZE, SIZE]` in 0..1."""
    image = ((image - 0.5) * p.gain[:, None] + 0.5 + p.offset[:, None]).clamp(0, 1)
    image = image ** p.gamma[:, None]
    fine = torch.randn_like(image)
    coarse = F.interpolate(torch.randn_like(image[:, :, ::2, ::2]), scale_factor=2.0, mode="bilinear")
    blur = p.blur[:, None]
    image = image + p.noise[:, None] * (coarse * blur * 1.5 + fine * (1 - blur))
    image = torch.where(p.invert[:, None] > 0.5, 1 - image, image)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def chest(rows: torch.Tensor) -> torch.Tensor:
    p = Row("cxr", rows)
    u, v = p.grid()
    cloud, fine = p.field(14)[:, 0], p.field(48)[:, 0]
    body = soft(p.tw * (0.5 + 0.5 * torch.sigmoid((v + 0.78) * 12)) - u.abs(), 30)
    image = 0.04 + body * (0.5 + 0.06 * v)
    lungs, free, lines = 0.0, 0.0, 0.0
    outlines = []
    for sign, side in ((-1, "right"), (1, "left")):
        dome, air, fluid = p.columns[f"d_{side}"], p.columns[f"ptx_{side}"], p.columns[f"eff_{side}"]
        e = superellipse(u, v, sign * p.lcx, p.lcy, p.la, p.lb)
        inside = soft(1 - e, 16)
        across = (sign * u - p.lcx) / p.la
        above = soft(dome + p.dcurv * across * across - v, 45)
        lungs = lungs + inside * above
        k = torch.where(air > 0, air, torch.ones_like(air))
        e2 = superellipse(
            u, v, sign * (p.lcx - p.la * (1 - k) * 0.9), p.lcy + p.lb * (1 - k) * 0.75, p.la * k, p.lb * k
        )
        has = (air > 0).float()
        free = free + has * inside * above * soft(e2 - 1, 14)
        lines = lines + has * inside * above * torch.exp(-(((e2 - 1) / 0.07) ** 2))
        lateral = (across * 0.5 + 0.5).clamp(0, 1)
        top = dome + p.dcurv - fluid * (0.6 + 0.55 * lateral * lateral)
        bottom = soft(dome + p.dcurv + 0.02 - v, 45)
        outlines.append((inside * bottom, soft(v - top, 40) * (fluid > 0).float()))
    lungs, free = lungs.clamp(0, 1), free.clamp(0, 1)
    markings = (cloud * 0.6 + fine) * p.texture
    image = image - lungs * (0.34 - markings * (1 - free)) - 0.1 * free
    # Ribs: one wave along the height, bent down towards the sides; the far halves of the ribs are fainter.
    cage = soft(1.25 - superellipse(u, v, u.sign() * p.lcx, p.lcy, p.la * 1.08, p.lb * 1.05), 14) * body
    front = torch.cos((v + p.rib_slope * u.abs() + 0.25 * u * u) * (math.tau / p.rib_gap) + p.rib_phase)
    back = torch.cos((v - p.rib_slope * 0.8 * u.abs()) * (math.tau / p.rib_gap) + p.rib_phase + 1.0)
    image = image + cage * p.rib * (soft(front - 0.35, 8) + 0.5 * soft(back - 0.45, 8))
    collar = (v + 0.62 + 0.28 * (u.abs() - 0.35)).abs()
    image = image + p.clavicle * soft(0.035 - collar, 60) * soft(0.62 - u.abs(), 30) * soft(u.abs() - 0.08, 30)
    bones = 1 + 0.25 * soft(torch.cos(v * (math.tau / 0.16)) - 0.5, 10)
    image = image + p.spine * bones * torch.exp(-((u / 0.1) ** 2)) * body
    heart = soft(1 - torch.sqrt(((u - p.hx) / p.ha) ** 2 + ((v - p.hy) / p.hb) ** 2 + 1e-9), 14)
    image = torch.maximum(image, image * (1 - heart) + heart * 0.66)
    for i in range(BLOBS):
        q = {k: p.columns[f"b{i}_{k}"] for k in ("c", "u", "v", "ra", "rb", "rot", "w3", "p3", "w5", "p5", "edge")}
        waves = [(3, q["w3"], q["p3"]), (5, q["w5"], q["p5"])]
        depth = lump(u, v, q["u"], q["v"], q["ra"], q["rb"], q["rot"], waves)
        image = image + q["c"] * soft(depth, q["edge"]) * (1 + 0.2 * fine)
    for inside, fluid in outlines:
        wet = inside * fluid
        image = torch.maximum(image, image * (1 - wet) + wet * (0.7 + 0.02 * cloud))
    image = image + 0.2 * lines
    box = torch.maximum((u - p.dev_u).abs() - 0.085, (v - p.dev_v).abs() - 0.07)
    lead = torch.minimum(
        segment(u, v, p.dev_u, p.dev_v, p.dev_u * 0.15, p.dev_v - 0.02),
        segment(u, v, p.dev_u * 0.15, p.dev_v - 0.02, p.hx + 0.1, p.hy + 0.1),
    )
    metal = p.dev * torch.maximum(soft(-box, 90), soft(0.012 - lead, 150))
    image = image * (1 - metal) + metal
    du, dv = u - p.marker_u, v - p.marker_v
    letter = torch.maximum(
        soft(0.014 - du.abs(), 90) * soft(0.06 - dv.abs(), 90),
        soft(0.014 - (dv - 0.05).abs(), 90) * soft(0.03 - (du - 0.03).abs(), 90),
    )
    image = torch.maximum(image, p.marker * letter * 0.95)
    return expose(p, image[:, None]).expand(-1, 3, -1, -1)


def skin(rows: torch.Tensor) -> torch.Tensor:
    p = Row("skin", rows)
    u, v = p.grid()
    cloud, fine, colours = p.field(10)[:, 0], p.field(70)[:, 0], p.field(9, 2)
    waves = [(2, p.w2, p.p2), (3, p.w3, p.p3), (5, p.w5, p.p5)]
    depth = lump(u, v, p.cu, p.cv, p.ra, p.rb, p.turn, waves)
    spot = soft(depth, p.edge)
    dark = soft(colours[:, 0] - 0.5, 8) * p.variegated
    blue = soft(colours[:, 1] - 0.8, 8) * p.variegated
    rim = torch.exp(-(((depth - 0.1) / 0.08) ** 2)) * p.rim
    specks = soft(fine - 1.0, 12) * p.specks * soft(depth - 0.1, 20)
    strand = torch.sin(u * 9 + v * 4 + 2 * cloud).abs()
    hair = p.hair * soft(0.02 - strand, 120) * soft(cloud + 0.3, 6)
    layers = []
    for c, (tint, pale) in {"r": (0.1, 0.95), "g": (-0.05, 0.85), "b": (0.25, 0.7)}.items():
        tone, lesion = p.columns[f"tone_{c}"], p.columns[f"les_{c}"]
        base = tone + (0.012 * cloud + 0.012 * fine) * p.grain
        inner = lesion * (1 - 0.55 * dark) + tint * blue * 0.8 + 0.15 * rim + 0.01 * fine
        inner = inner * (1 - specks * 0.8) + pale * specks * 0.8
        layers.append((base * (1 - spot) + inner * spot) * (1 - 0.75 * hair))
    return expose(p, torch.stack(layers, 1))


def dots(p: Row, u, v, cells: int, chance: float, size: float) -> torch.Tensor:
    """Round dots, at most one in each cell of a grid over the picture, `[N, SIZE, SIZE]`, 1 at their centres."""
    at = torch.rand((p.count, 3, cells, cells), device=p.device)
    grid = torch.stack([u, v], -1)
    near = F.grid_sample(at, grid, mode="nearest", padding_mode="border", align_corners=False)
    cu, cv = ((u + 1) * cells / 2).frac(), ((v + 1) * cells / 2).frac()
    margin = size + 0.08
    du, dv = cu - (margin + (1 - 2 * margin) * near[:, 0]), cv - (margin + (1 - 2 * margin) * near[:, 1])
    return soft(size - torch.sqrt(du * du + dv * dv + 1e-9), 30) * (near[:, 2] < chance)


def fundus(rows: torch.Tensor) -> torch.Tensor:
    p = Row("fundus", rows)
    u, v = p.grid()
    cloud = p.field(8)[:, 0]
    radius = torch.sqrt(u * u + v * v + 1e-9)
    eye = soft(0.93 - radius, 60)
    shade = p.bright * (1 - 0.35 * radius * radius) * (1 + 0.04 * cloud)
    du, dv = u - p.disc_u, v - p.disc_v
    off = torch.sqrt(du * du + dv * dv + 1e-9)
    disc, cup = soft(p.disc_r - off, 60), soft(p.disc_r * p.cup - off, 70)
    away = -p.disc_u.sign()
    along = (du * away).clamp(min=0)
    arch = (dv.abs() - p.spread * torch.sqrt(along * (1.2 - along).clamp(min=0.05) + 1e-6)).abs()
    arcade = soft(0.022 - arch, 110) * soft(along - 0.02, 40) * soft(1.25 - along, 20)
    angle = torch.atan2(dv, du)
    twigs = soft(torch.cos(7 * angle + 3 * off + cloud) - 0.965, 60) * soft(off - 0.1, 30) * soft(0.8 - off, 10) * 0.6
    vessel = (arcade + twigs).clamp(0, 1) * p.vessel
    fovea = torch.exp(-(((u - p.macula_u) ** 2 + v * v) / 0.012))
    centre = soft(0.42 - torch.sqrt((u - p.macula_u) ** 2 + v * v + 1e-9), 14)
    blood = dots(p, u, v, 9, 0.4, 0.22) * p.haemorrhages * (1 - disc)
    fat = dots(p, v, u, 11, 0.25, 0.16) * p.exudates * (1 - disc)
    drusen = dots(p, u, v, 16, 0.75, 0.25) * p.drusen * centre
    layers = []
    for c in range(3):
        base, pale, cupped, wine = ((0.8, 0.95, 1.0, 0.4), (0.38, 0.78, 0.95, 0.05), (0.16, 0.5, 0.8, 0.04))[c]
        tone = (base + p.hue * (0.5, 1.0, 0.6)[c]) * shade
        tone = tone * (1 - 0.35 * fovea) * (1 - disc) + pale * disc
        tone = tone * (1 - cup) + cupped * cup
        tone = tone * (1 - 0.55 * vessel * (0.5, 1.0, 1.0)[c])
        tone = tone * (1 - blood.clamp(0, 1)) + wine * blood.clamp(0, 1)
        bright = (fat + 0.7 * drusen).clamp(0, 1)
        tone = tone * (1 - bright) + (1.0, 0.92, 0.45)[c] * bright
        layers.append(tone * eye)
    return expose(p, torch.stack(layers, 1))


def tissue(rows: torch.Tensor) -> torch.Tensor:
    p = Row("tissue", rows)
    u, v = p.grid()
    cloud, fine, warp = p.field(9)[:, 0], p.field(56)[:, 0], p.field(20, 2)
    # The grid is bent a little so that no rows show.
    a, b = u + 0.02 * warp[:, 0], v + 0.02 * warp[:, 1]
    x, y = (a + 2) * p.cells / 2, (b + 2) * p.cells / 2
    chances = torch.rand((p.count, 3, 64, 64), device=p.device)
    where = torch.stack([(x.floor() + 0.5) / 32 - 1, (y.floor() + 0.5) / 32 - 1], -1)
    near = F.grid_sample(chances, where, mode="nearest", align_corners=False)
    jitter = 0.5 - p.size
    jitter = jitter.clamp(min=0.0)
    du = x.frac() - 0.5 - jitter * (2 * near[:, 0] - 1)
    dv = y.frac() - 0.5 - jitter * (2 * near[:, 1] - 1)
    angle = torch.atan2(dv, du)
    radius = torch.sqrt(du * du + dv * dv + 1e-9)
    uneven = 1 + p.ragged * torch.cos(3 * angle + 20 * near[:, 2]) * (0.4 + near[:, 0]) - p.ragged * 0.8 * near[:, 1]
    inside = soft(p.size * uneven - radius, 22)
    present = (near[:, 2] > p.gap).float()
    # Glands: nuclei on rings around a lumen.
    gx, gy = (u + 2) * 2.3 + 0.15 * cloud, (v + 2) * 2.3
    gland = torch.sqrt((gx.frac() - 0.5) ** 2 + (gy.frac() - 0.5) ** 2 + 1e-9)
    ring = torch.exp(-(((gland - 0.32) / 0.07) ** 2))
    lumen = soft(0.22 - gland, 40) * p.ring
    ink = inside * present * (1 - p.fat) * (1 - p.ring + p.ring * (0.08 + ring)) * p.dark
    hole = inside * p.fat
    white = torch.maximum(lumen, hole)
    layers = []
    for c in range(3):
        pink, purple = (0.9, 0.66, 0.78)[c], (0.34, 0.2, 0.5)[c]
        tone = pink + p.pink * (0.2, 1.0, 0.6)[c] + 0.03 * cloud + 0.02 * fine
        tone = tone * (1 - ink.clamp(0, 1)) + (purple + 0.04 * fine) * ink.clamp(0, 1)
        layers.append(tone * (1 - white) + 0.96 * white)
    return expose(p, torch.stack(layers, 1))


def head(rows: torch.Tensor) -> torch.Tensor:
    """A head CT slice in Hounsfield units, through the three windows, as red, green and blue."""
    p = Row("ct", rows)
    u, v = p.grid()
    mottle = p.field(16)[:, 0]
    e = torch.sqrt((u / p.skull_a) ** 2 + (v / p.skull_b) ** 2 + 1e-9)
    scalp, skull, brain = soft(1 + 2 * p.bone - e, 50), soft(1 + p.bone - e, 60), soft(1 - e, 60)
    hu = -1000 + 1030 * scalp + 870 * (skull - brain)
    hu = hu * (1 - brain) + brain * (p.brain + p.mottle * mottle)
    folds = soft(torch.cos(18 * torch.atan2(v, u) + 2 * mottle) - 0.55, 8) * soft(e - 0.82, 30) * brain
    hu = hu - 14 * folds
    fissure = soft(0.012 - u.abs(), 150) * soft(e - 0.45, 20) * brain
    hu = hu - 18 * fissure
    horns = torch.minimum(
        torch.sqrt(((u - 0.1) / 0.07) ** 2 + ((v + 0.02) / 0.22) ** 2 + 1e-9),
        torch.sqrt(((u + 0.1) / 0.07) ** 2 + ((v + 0.02) / 0.22) ** 2 + 1e-9),
    )
    csf = soft(p.ventricle.clamp(max=1.0) - horns, 12) * (p.ventricle > 0.05).float() * brain
    hu = hu * (1 - csf) + 6 * csf
    waves = [(3, p.les_w3, p.les_p3), (5, p.les_w5, p.les_p5)]
    lesion = soft(lump(u, v, p.les_u, p.les_v, p.les_ra, p.les_rb, p.les_rot, waves), p.les_edge)
    lesion = lesion * (p.les_hu > 0).float() * brain
    hu = hu * (1 - lesion) + p.les_hu * lesion
    hu = hu + p.grain * torch.randn_like(hu)
    windows = [((hu - low) / (high - low)).clamp(0, 1) for low, high in ((-1024, 1024), (-135, 215), (0, 80))]
    return (torch.stack(windows, 1) * 255).round().to(torch.uint8)


def other(rows: torch.Tensor) -> torch.Tensor:
    p = Row("other", rows)
    u, v = p.grid()
    wave = torch.sin(p.f1 * u + p.p1) * torch.cos(p.f2 * v + p.p2)
    patterns = [
        (u * torch.cos(p.p1) + v * torch.sin(p.p1)) * 0.5 + 0.5,
        torch.rand_like(u),
        soft(wave, 30),
        wave * 0.5 + 0.5,
        torch.zeros_like(u) + p.f1 / 14,
        soft(p.f2 / 20 - torch.sqrt(u * u + v * v + 1e-9), 60),
    ]
    mix = sum((p.style == i).float() * x for i, x in enumerate(patterns)).clamp(0, 1)
    layers = [p.columns[c] * (1 - mix) + p.columns[c + "2"] * mix for c in "rgb"]
    return expose(p, torch.stack(layers, 1))


DRAW = {"cxr": chest, "skin": skin, "fundus": fundus, "tissue": tissue, "ct": head, "other": other}


@torch.no_grad()
def draw(kinds: torch.Tensor, rows: torch.Tensor, drawers=DRAW) -> torch.Tensor:
    """Pictures `[N, 3, SIZE, SIZE]`, 8 bits, of rows `[N, WIDTH]` whose kinds (indices of KINDS, on the CPU) differ."""
    out = torch.empty((len(kinds), 3, SIZE, SIZE), dtype=torch.uint8, device=rows.device)
    for k, name in enumerate(KINDS):
        where = (kinds == k).nonzero()[:, 0]
        if len(where):
            where = where.to(rows.device, non_blocking=True)
            out[where] = drawers[name](rows[where])
    return out
