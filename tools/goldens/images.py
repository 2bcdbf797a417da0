"""Makes the goldens of crates/gemma/src/image: crates/gemma/tests/data/{images.json,pictures/}.

    python tools/goldens/images.py

It needs requirements.txt, tifffile, and cjpeg of libjpeg-turbo for the JPEGs that Pillow can't write. Pillow is the reference for decoding (`ImageOps.exif_transpose`, then
`convert("RGB")`, as transformers' load_image does) and resizing, transformers' Gemma3ImageProcessorPil for values and
pan-and-scan. Large pictures are drawn from a formula on both sides, so that only hashes are committed.
"""

import hashlib
import io
import json
import pathlib
import random
import struct
import subprocess
import tempfile
import zlib

import numpy as np
import PIL
import tifffile
import transformers
from PIL import Image, ImageOps
from pictures import PATTERN, pattern
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

DATA = pathlib.Path(__file__).resolve().parents[2] / "crates/gemma/tests/data"
PICTURES = DATA / "pictures"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Small pictures in every form that a decoder meets.


def scene(width: int = 21, height: int = 14) -> np.ndarray:
    """Smooth enough for lossy formats, different in every corner."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = x / (width - 1), y / (height - 1)
    rgb = np.stack([220 - 120 * x, 40 + 160 * y, 90 + 140 * x * y], axis=-1)
    rgb[(x - 0.7) ** 2 + (y - 0.3) ** 2 < 0.03] = [30, 60, 200]
    return np.floor(rgb + 0.5).astype(np.uint8)


def wide(values: np.ndarray) -> np.ndarray:
    """16 bits whose low byte isn't the high one."""
    return (values.astype(np.uint16) << 8) | (values.astype(np.uint16) * 7 & 255)


def png(width: int, height: int, depth: int, kind: int, rows: list[bytes], chunks: list[tuple] = (), passes=None) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(passes is not None))
    data = b"".join(b"\0" + row for row in (rows if passes is None else passes))
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    for name, content in chunks:
        out += chunk(name, content)
    return out + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def packed(row: np.ndarray, depth: int) -> bytes:
    """Samples of 1, 2 or 4 bits, high bits first."""
    bits = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
    return np.packbits(bits.ravel()).tobytes()


def interlaced(rgb: np.ndarray) -> list[bytes]:
    order = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    return [row.tobytes() for x, y, dx, dy in order for row in rgb[y::dy, x::dx] if row.size]


def bmp(width: int, height: int, depth: int, rows: bytes, compression=0, palette=b"", masks=b"", header=40, top_down=False) -> bytes:
    offset = 14 + header + len(masks) * (header == 40) + len(palette)
    size = offset + len(rows)
    info = struct.pack("<IiiHHIIiiII", header, width, -height if top_down else height, 1, depth, compression, len(rows), 2835, 2835, len(palette) // 4, 0)
    info += masks if header == 40 else (masks + b"\0" * header)[: header - 40]
    return b"BM" + struct.pack("<IHHI", size, 0, 0, offset) + info + palette + rows


def bmp_rows(rows: list[bytes], top_down=False) -> bytes:
    padded = [row + b"\0" * (-len(row) % 4) for row in rows]
    return b"".join(padded if top_down else padded[::-1])


def rle8(indices: np.ndarray) -> bytes:
    out = b""
    for row in indices[::-1]:
        start = 0
        while start < len(row):
            end = start
            while end < len(row) and row[end] == row[start] and end - start < 255:
                end += 1
            out += bytes([end - start, row[start]])
            start = end
        out += b"\0\0"
    return out + b"\0\1"


def saved(image: Image.Image, format: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def cjpeg(image: Image.Image, options: list[str]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        scans = pathlib.Path(folder) / "scans"
        if options[0] == "-scans":
            scans.write_text(options[1])
            options = ["-scans", str(scans)]
        return subprocess.run(["cjpeg", *options], input=saved(image, "PPM"), capture_output=True, check=True).stdout


def tiff(array: np.ndarray, **options) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, metadata=None, software=False, **options)
    return out.getvalue()


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def pictures() -> dict[str, bytes]:
    rgb = scene()
    height, width = rgb.shape[:2]
    grey = rgb[..., 0]
    alpha = ((np.arange(width)[None, :] * 12 + np.arange(height)[:, None] * 3) % 256).astype(np.uint8)
    image = Image.fromarray(rgb)
    palette = image.quantize(11, dither=Image.Dither.NONE)
    colours = bytes(palette.getpalette()[: 11 * 3])
    indices = np.asarray(palette)
    out = {}

    def rows(array):
        return [row.tobytes() for row in array]

    def big(array):
        return rows(array.astype(">u2"))

    out["rgb.png"] = saved(image, "PNG")
    out["rgb-interlaced.png"] = png(width, height, 8, 2, [], passes=interlaced(rgb))
    out["rgb-key.png"] = png(width, height, 8, 2, rows(rgb), [(b"tRNS", struct.pack(">3H", *rgb[0, 0]))])
    out["rgba.png"] = saved(Image.fromarray(np.dstack([rgb, alpha])), "PNG")
    out["grey.png"] = saved(Image.fromarray(grey), "PNG")
    out["grey-alpha.png"] = saved(Image.fromarray(np.dstack([grey, alpha])), "PNG")
    for depth in (1, 2, 4):
        out[f"grey-{depth}.png"] = png(width, height, depth, 0, [packed(row >> (8 - depth), depth) for row in grey])
    out["grey-16.png"] = png(width, height, 16, 0, big(wide(grey)))
    out["grey-alpha-16.png"] = png(width, height, 16, 4, big(wide(np.dstack([grey, alpha]))))
    out["rgb-16.png"] = png(width, height, 16, 2, big(wide(rgb)))
    out["rgba-16.png"] = png(width, height, 16, 6, big(wide(np.dstack([rgb, alpha]))))
    out["palette-8.png"] = png(width, height, 8, 3, rows(indices), [(b"PLTE", colours)])
    out["palette-4-alpha.png"] = png(width, height, 4, 3, [packed(r, 4) for r in indices], [(b"PLTE", colours), (b"tRNS", bytes(range(0, 110, 10)))])
    out["palette-2.png"] = png(width, height, 2, 3, [packed(r & 3, 2) for r in indices], [(b"PLTE", colours[:12])])
    out["palette-1.png"] = png(width, height, 1, 3, [packed(r & 1, 1) for r in indices], [(b"PLTE", colours[:6])])
    out["palette-short.png"] = png(width, height, 8, 3, rows(indices), [(b"PLTE", colours[:15])])

    out["rgb-24.bmp"] = saved(image, "BMP")
    out["palette-8.bmp"] = saved(palette, "BMP")
    out["grey-8.bmp"] = saved(Image.fromarray(grey), "BMP")
    out["bit-1.bmp"] = saved(Image.fromarray(grey > 150), "BMP")
    out["rgba-32.bmp"] = saved(Image.fromarray(np.dstack([rgb, alpha])), "BMP")
    bgrx = np.dstack([rgb[..., ::-1], np.zeros_like(grey)])
    out["rgb-32-top-down.bmp"] = bmp(width, height, 32, bmp_rows(rows(bgrx), True), top_down=True)
    fours = b"".join(bytes([*colours[i * 3 : i * 3 + 3][::-1], 0]) for i in range(11))
    out["palette-4.bmp"] = bmp(width, height, 4, bmp_rows([packed(r, 4) for r in indices]), palette=fours)
    out["palette-8-rle.bmp"] = bmp(width, height, 8, rle8(indices), compression=1, palette=fours)
    r, g, b = (rgb[..., c].astype(np.uint16) for c in range(3))
    out["rgb-555.bmp"] = bmp(width, height, 16, bmp_rows(rows((r >> 3 << 10 | g >> 3 << 5 | b >> 3).astype("<u2"))))
    five = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    out["rgb-565.bmp"] = bmp(width, height, 16, bmp_rows(rows((r >> 3 << 11 | g >> 2 << 5 | b >> 3).astype("<u2"))), compression=3, masks=five)

    out["rgb-raw.tif"] = saved(image, "TIFF")
    out["rgb-lzw.tif"] = saved(image, "TIFF", compression="tiff_lzw")
    out["rgb-deflate.tif"] = saved(image, "TIFF", compression="tiff_adobe_deflate")
    out["rgb-packbits.tif"] = saved(image, "TIFF", compression="packbits")
    out["rgb-jpeg.tif"] = saved(image, "TIFF", compression="jpeg", quality=95)
    out["rgb-big.tif"] = saved(image, "TIFF", big_tiff=True)
    out["rgb-planar.tif"] = tiff(np.moveaxis(rgb, -1, 0), photometric="rgb", planarconfig="separate")
    out["rgb-tiles.tif"] = tiff(rgb, photometric="rgb", tile=(16, 16), compression="zlib")
    out["rgb-16.tif"] = tiff(wide(rgb), photometric="rgb", byteorder=">")
    out["rgba.tif"] = saved(Image.fromarray(np.dstack([rgb, alpha])), "TIFF")
    out["cmyk.tif"] = saved(image.convert("CMYK"), "TIFF")
    out["grey.tif"] = saved(Image.fromarray(grey), "TIFF")
    out["grey-white-is-zero.tif"] = tiff(grey, photometric="miniswhite")
    out["grey-16.tif"] = saved(Image.fromarray(wide(grey)), "TIFF")
    out["bit-1.tif"] = saved(Image.fromarray(grey > 150), "TIFF")
    out["bit-fax.tif"] = saved(Image.fromarray(grey > 150), "TIFF", compression="group4")
    out["palette-8.tif"] = saved(palette, "TIFF")
    out["two-pages.tif"] = saved(image, "TIFF", save_all=True, append_images=[image.rotate(180)])

    out["lossless.webp"] = saved(image, "WEBP", lossless=True)
    out["lossless-alpha.webp"] = saved(Image.fromarray(np.dstack([rgb, alpha])), "WEBP", lossless=True, exact=True)
    out["lossy.webp"] = saved(image, "WEBP", quality=85)
    out["lossy-alpha.webp"] = saved(Image.fromarray(np.dstack([rgb, alpha])), "WEBP", quality=85)
    out["animation.webp"] = saved(image, "WEBP", lossless=True, save_all=True, append_images=[image.rotate(180)])

    for name, subsampling in [("444", 0), ("422", 1), ("420", 2)]:
        out[f"{name}.jpg"] = saved(image, "JPEG", quality=90, subsampling=subsampling)
    out["progressive.jpg"] = saved(image, "JPEG", quality=90, progressive=True)
    out["restart.jpg"] = saved(image, "JPEG", quality=90, restart_marker_blocks=1)
    out["grey.jpg"] = saved(Image.fromarray(grey), "JPEG", quality=90)
    out["cmyk.jpg"] = saved(image.convert("CMYK"), "JPEG", quality=90)
    out["rgb.jpg"] = saved(image, "JPEG", quality=90, keep_rgb=True)

    out["narrow.jpg"] = saved(image.crop((0, 0, 3, 14)), "JPEG", quality=90, subsampling=2)
    out["dot.jpg"] = saved(image.crop((0, 0, 1, 1)), "JPEG", quality=90, subsampling=2)
    for name, options in [
        ("440", ["-sample", "1x2"]),
        ("411", ["-sample", "4x1"]),
        ("410", ["-sample", "4x2"]),
        ("chroma-mixed", ["-sample", "2x2,2x1,1x2"]),
        ("luma-subsampled", ["-sample", "1x1,2x2,2x2"]),
        ("wide-quantization", ["-quality", "2"]),
        ("three-scans", ["-scans", "0;1;2;"]),
        ("progressive-interleaved", ["-scans", "0,1,2: 0-0, 0, 1; 0: 1-63, 0, 1; 1: 1-63, 0, 0; 2: 1-63, 0, 0; 0,1,2: 0-0, 1, 0; 0: 1-63, 1, 0;"]),
    ]:
        out[f"{name}.jpg"] = cjpeg(image, options)

    for value in range(1, 9):
        out[f"orientation-{value}.png"] = saved(image, "PNG", exif=oriented(value))
    for value in (6, 8):
        out[f"orientation-{value}.jpg"] = saved(image, "JPEG", quality=90, subsampling=0, exif=oriented(value))
        out[f"orientation-{value}.webp"] = saved(image, "WEBP", lossless=True, exif=oriented(value))
        out[f"orientation-{value}.tif"] = saved(image, "TIFF", tiffinfo={0x0112: value})
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    out["orientation-xmp.jpg"] = saved(image, "JPEG", quality=90, subsampling=0, xmp=xmp)
    return out


def decoded(data: bytes) -> dict:
    image = Image.open(io.BytesIO(data))
    mode = image.mode
    image = ImageOps.exif_transpose(image).convert("RGB")
    return {"mode": mode, "size": list(image.size), "rgb": image.tobytes().hex()}


# Resizing: sizes at random, at the boundary between Pillow's two orders of passes, and the usual ones.


def resize_sizes() -> list[tuple]:
    rng = random.Random(3)
    out = [(4000, 3000, 896, 896), (3000, 4000, 896, 896), (2000, 3500, 896, 896), (896, 2000, 896, 896), (2000, 896, 896, 896)]
    out += [(640, 480, 896, 896), (1, 3000, 896, 896), (3000, 1, 8, 8), (1, 1, 9, 7), (448, 448, 896, 896), (1792, 1792, 896, 896)]
    for _ in range(40):
        out.append(tuple(rng.randint(1, 120) for _ in range(4)))
    for _ in range(40):
        width = rng.randint(2, 200)
        to_width, to_height = rng.randint(1, width - 1), rng.randint(1, 100)
        height = to_height + 2 * (width - to_width) + rng.choice([-1, 0, 1])
        out.append((width, height, to_width, to_height))
    for _ in range(20):
        width, height = rng.randint(1, 60), rng.randint(1, 60)
        out.append((width, height, width + rng.randint(1, 60), max(1, height + rng.randint(-30, 60))))
    return out


def resizes() -> list[list]:
    out = []
    for width, height, to_width, to_height in resize_sizes():
        image = Image.fromarray(pattern(width, height)).resize((to_width, to_height), Image.Resampling.BILINEAR)
        out.append([width, height, to_width, to_height, sha(image.tobytes())])
    return out


# Values and pan-and-scan.


def processor(**options) -> Gemma3ImageProcessorPil:
    settings = {"size": {"height": 896, "width": 896}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": True}
    return Gemma3ImageProcessorPil(**(settings | options))


def patches(values: np.ndarray, patch: int) -> np.ndarray:
    """[3, side, side] to [patches, 3 · patch²]."""
    channels, side, _ = values.shape
    n = side // patch
    return values.reshape(channels, n, patch, n, patch).transpose(1, 3, 0, 2, 4).reshape(n * n, -1)


def values() -> list[dict]:
    out = []
    for size, side, patch, options in [
        ((61, 90), 896, 14, {}),
        ((300, 200), 56, 14, {}),
        ((50, 70), 32, 8, {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}),
        ((50, 70), 32, 8, {"do_normalize": False}),
        ((50, 70), 32, 8, {"do_rescale": False, "image_mean": 127.5, "image_std": 127.5}),
        ((50, 70), 32, 8, {"rescale_factor": 0.00784313725490196, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0]}),
    ]:
        settings = {"size": {"height": side, "width": side}, **options}
        made = processor(**settings)
        result = made(Image.fromarray(pattern(*size)), return_tensors="np")["pixel_values"][0]
        assert result.dtype == np.float32, result.dtype
        flat = patches(result, patch)
        out.append({"pattern": list(size), "patch": patch, "settings": json.loads(made.to_json_string()), "sha256": sha(flat.astype("<f4").tobytes()), "first": [float(v) for v in flat.ravel()[:6]]})
    return out


def crops() -> list[list]:
    rng = random.Random(5)
    sizes = [(896, 896), (1200, 1000), (1000, 1200), (1199, 1000), (1280, 720), (720, 1280), (640, 480), (512, 256), (511, 256), (256, 512), (300, 200)]
    sizes += [(1300, 1001), (2000, 500), (3000, 500), (500, 3001), (5000, 400), (400, 5000), (2500, 1000), (1000, 2499), (257, 255), (769, 257), (10000, 255)]
    sizes += [(rng.randint(1, 3000), rng.randint(1, 3000)) for _ in range(150)]
    made = processor()
    out = []
    for width, height in sizes:
        # Two planes hold each pixel's column and row, so that a piece tells where it was.
        y, x = np.mgrid[0:height, 0:width].astype(np.uint16)
        pieces = made.pan_and_scan(np.stack([x, y]), 256, 4, 1.2)
        out.append([width, height, [[int(p[0, 0, 0]), int(p[1, 0, 0]), p.shape[2], p.shape[1]] for p in pieces]])
    return out


def write(name: str, head: dict, lists: dict[str, list]) -> None:
    """One case a line, so that a change shows in a diff."""
    text = json.dumps(head)[:-1]
    for key, cases in lists.items():
        text += f',\n"{key}": [\n' + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]"
    (DATA / name).write_text(text + "\n}\n")


if __name__ == "__main__":
    PICTURES.mkdir(parents=True, exist_ok=True)
    made = pictures()
    for name, data in made.items():
        (PICTURES / name).write_bytes(data)
    versions = {"pillow": PIL.__version__, "transformers": transformers.__version__}
    write("pictures.json", versions, {"pictures": [{"file": name, **decoded(data)} for name, data in made.items()]})
    write("images.json", versions | {"pattern": PATTERN}, {"resizes": resizes(), "values": values(), "crops": crops()})
