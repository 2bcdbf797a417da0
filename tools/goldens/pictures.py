"""Makes the small pictures of testdata/images and the resize goldens of testdata/resize.json.

    python tools/goldens/pictures.py

The pictures are drawn from formulas, so that they are ours, small, and the same on every machine. They cover what a
decoder has to get right: RGB, grey, grey with alpha, RGBA, palettes (with transparency too), 1 bit, and odd, very tall
and very wide sizes. There is no 16-bit grey one: Pillow clips it at 255, which is nothing to be equal to.

resize.json holds, for each picture (and for patterns too noisy to compress, which a test draws from the formula that
the file states), what Pillow gives for `Image.open(f).convert("RGB")` and for `.resize((w, h), Image.BILINEAR)` on it.
Small results are there in full; of the large ones there are a SHA-256 of the RGB bytes and a few pixels.
"""

import hashlib
import json
import pathlib

import numpy as np
import PIL
from PIL import Image

TESTDATA = pathlib.Path(__file__).resolve().parents[2] / "testdata"
IMAGES = TESTDATA / "images"

FULL_UP_TO = 800  # bytes of a result that are written out in full


def pattern(width: int, height: int) -> np.ndarray:
    """A noisy RGB picture that any language can draw: u32 arithmetic, wrapping."""
    x = np.arange(width, dtype=np.uint32)[None, :, None]
    y = np.arange(height, dtype=np.uint32)[:, None, None]
    c = np.arange(3, dtype=np.uint32)[None, None, :]
    h = (x * np.uint32(374761393)) ^ (y * np.uint32(668265263)) ^ (c * np.uint32(2246822519))
    h = (h ^ (h >> np.uint32(13))) * np.uint32(1274126177)
    return ((h >> np.uint32(16)) & np.uint32(255)).astype(np.uint8)


PATTERN = (
    "h = x*374761393 ^ y*668265263 ^ c*2246822519; h = (h ^ h>>13) * 1274126177; value = h>>16 & 255 "
    "(u32, wrapping; x column, y row, c channel)"
)


def grid(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows as floats in 0..1."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    return x / max(width - 1, 1), y / max(height - 1, 1)


def levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(values * 255 + 0.5), 0, 255).astype(np.uint8)


def rgb(width: int, height: int) -> np.ndarray:
    """A lesion-like disc on a graded ground."""
    x, y = grid(width, height)
    disc = ((x - 0.6) ** 2 + (y - 0.4) ** 2 * (height / width) ** 2) < 0.06
    red = np.where(disc, 0.55, 0.85 - 0.2 * x)
    green = np.where(disc, 0.25 + 0.3 * y, 0.65 - 0.3 * y)
    blue = np.where(disc, 0.2, 0.55 + 0.2 * x * y)
    return levels(np.stack([red, green, blue], axis=-1))


def chest(width: int, height: int) -> np.ndarray:
    """Two dark fields and a bright midline, as a radiograph has."""
    x, y = grid(width, height)
    lungs = ((np.abs(x - 0.5) - 0.22) ** 2 * 16 + (y - 0.5) ** 2 * 5) < 0.8
    ribs = 0.08 * (np.floor(y * 9) % 2)
    return levels(np.where(lungs, 0.2 + ribs, 0.75 - 0.3 * np.abs(x - 0.5)))


def stripes(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(x // 3 * 40) % 256, (y // 5 * 23) % 256, ((x + y) // 7 * 31) % 256], axis=-1).astype(np.uint8)


def draw() -> None:
    """Writes testdata/images."""
    IMAGES.mkdir(parents=True, exist_ok=True)

    def save(name: str, image: Image.Image, **options) -> None:
        image.save(IMAGES / name, optimize=True, **options)

    save("rgb-90x61.png", Image.fromarray(rgb(90, 61)))
    save("rgb-61x90.png", Image.fromarray(stripes(61, 90)))
    save("grey-120x80.png", Image.fromarray(chest(120, 80)))
    save("bit-33x20.png", Image.fromarray(chest(33, 20) > 100))
    x, y = grid(70, 45)
    alpha = levels(1 - (x - 0.5) ** 2 - (y - 0.5) ** 2)
    save("rgba-70x45.png", Image.fromarray(np.dstack([rgb(70, 45), alpha])))
    x, y = grid(40, 52)
    alpha = levels(x * y)
    save("grey-alpha-40x52.png", Image.fromarray(np.dstack([chest(40, 52), alpha])))
    palette = Image.fromarray(stripes(64, 48)).quantize(24, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    save("palette-64x48.png", palette)
    palette = Image.fromarray(rgb(48, 64)).quantize(16, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    save("palette-alpha-48x64.png", palette, transparency=bytes(i * 17 for i in range(16)))
    save("tall-20x400.png", Image.fromarray(stripes(20, 400)))
    save("wide-700x300.png", Image.fromarray(chest(700, 300)))  # pan-and-scan splits it
    save("dot-1x1.png", Image.fromarray(np.array([[[200, 30, 90]]], dtype=np.uint8)))


def measure(image: Image.Image) -> dict:
    data = image.tobytes()
    out = {"size": list(image.size), "sha256": hashlib.sha256(data).hexdigest()}
    if len(data) <= FULL_UP_TO:
        out["rgb"] = data.hex()
    else:
        w, h = image.size
        at = [(0, 0), (w - 1, 0), (w // 2, h // 3), (w // 3, h // 2), (0, h - 1), (w - 1, h - 1)]
        out["pixels"] = [[x, y, *image.getpixel((x, y))] for x, y in at]
    return out


def resized(image: Image.Image, sizes: list[tuple[int, int]]) -> list[dict]:
    return [measure(image.resize(size, Image.Resampling.BILINEAR)) for size in sizes]


def goldens() -> dict:
    large, small = (896, 896), [(16, 16), (13, 20), (56, 56)]
    files = []
    for path in sorted(IMAGES.glob("*.png")):
        image = Image.open(path)
        converted = image.convert("RGB")
        files.append(
            {"file": path.name, "mode": image.mode, "decoded": measure(converted), "to": resized(converted, [large, *small])}
        )
    patterns = []
    # 100×2000 and 3000×97: Pillow picks the order of its passes by size; 896×896: untouched; 1×N and N×1: edges.
    for size in [(1, 1), (2, 3), (7, 5), (97, 61), (100, 2000), (3000, 97), (896, 896), (897, 895), (1, 700), (500, 1), (1500, 1203)]:
        image = Image.fromarray(pattern(*size))
        sizes = [large, *small]
        if size == (97, 61):
            sizes += [(97, 20), (20, 61), (97, 122), (194, 61), (1, 1), (200, 3)]
        patterns.append({"pattern": list(size), "decoded": measure(image), "to": resized(image, sizes)})
    return {
        "pillow": PIL.__version__,
        "note": "RGB bytes, rows from the top; sizes are [width, height]; pixels are [x, y, r, g, b]; rgb is hex",
        "pattern_formula": PATTERN,
        "files": files,
        "patterns": patterns,
    }


if __name__ == "__main__":
    draw()
    # One case a line: short enough, and a change shows in a diff.
    g = goldens()
    lines = {k: v for k, v in g.items() if k not in ("files", "patterns")}
    text = json.dumps(lines)[:-1]
    for key in ("files", "patterns"):
        text += f',\n"{key}": [\n' + ",\n".join(json.dumps(case, separators=(",", ":")) for case in g[key]) + "\n]"
    (TESTDATA / "resize.json").write_text(text + "\n}\n")
