"""What is measured, of which models, and the floor of each: the least time that this machine's memory and arithmetic
allow."""

from dataclasses import dataclass
from pathlib import Path

from header import Header


@dataclass(frozen=True)
class Model:
    """A file that every engine loads."""

    key: str
    file: str  # in the cache's models/, or a path from the repository's root
    variant: str | None = None  # what the file is written from, with random weights; None: fetched
    target: str | None = None  # its type, as `medgemma quantize --type`


MODELS = {
    model.key: model
    for model in [
        Model("q4_0", "gemma-4b-Q4_0.gguf", "4b-it", "q4_0"),
        Model("q4_k_m", "gemma-4b-Q4_K_M.gguf", "4b-it", "q4_k_m"),
        Model("q8_0", "gemma-4b-Q8_0.gguf", "4b-it", "q8_0"),
        Model("270m", "testdata/fetched/gemma-3-270m-Q4_K_M.gguf"),
        Model("27b", "gemma-27b-Q4_0.gguf", "27b-text-it", "q4_0"),
    ]
}
MMPROJ = "mmproj/gemma-4b-f16.gguf"


@dataclass(frozen=True)
class Work:
    """A measurement. Sizes are in tokens."""

    key: str
    models: tuple
    prompt: int = 0
    generate: int = 0
    depth: int = 0
    batch: int = 1
    kind: str = "turns"  # or "image", or "start": a process from its start to its end, with one token
    apart: bool = False  # the engines' models don't fit into memory together
    goal: float | None = None  # of the ratio to llama.cpp
    ours: tuple = ()  # arguments for medgemma
    peers: bool = False  # whether the engines in Python are measured, too

    @property
    def unit(self) -> str:
        return "s" if self.kind != "turns" else "tokens/s"


FOUR_B = ("q4_0", "q4_k_m", "q8_0")

WORKS = {
    work.key: work
    for work in [
        Work("prefill-512", FOUR_B, prompt=512, goal=1.6, peers=True),
        Work("prefill-512-270m", ("270m",), prompt=512, goal=1.3, peers=True),
        Work("prefill-2048", FOUR_B, prompt=2048, goal=1.6),
        Work("prefill-512-at-16k", FOUR_B, prompt=512, depth=16384, goal=2.0),
        Work("decode", FOUR_B, generate=64, goal=1.1, peers=True),
        Work("decode-270m", ("270m",), generate=64, goal=1.3, peers=True),
        Work("decode-at-4096", FOUR_B, generate=64, depth=4096, goal=1.1),
        Work("batch-8", FOUR_B, generate=32, batch=8, goal=1.5),
        Work("image", ("q4_0",), kind="image", goal=3.0),
        Work("start", ("q4_0",), prompt=32, kind="start", goal=2.0),
        Work("first-start", ("q4_0",), prompt=32, kind="start", ours=("--no-pack-cache",)),
        Work("27b-prefill", ("27b",), prompt=512, apart=True),
        Work("27b-decode", ("27b",), generate=32, apart=True),
    ]
}


@dataclass(frozen=True)
class Cost:
    """Operations (two for a multiplication and addition) and bytes from memory, at least."""

    operations: float
    bytes: float
    floats: bool = False  # the weights are 16-bit floats: 8-bit products can't be used without loss


def cost(work: Work, header: Header, mmproj: Header | None) -> Cost:
    """Of a work on a model, whatever the engine."""
    if work.kind == "image":
        return _image(mmproj)
    meta = header.metadata
    key = "gemma3."
    heads, kv_heads = meta[key + "attention.head_count"], meta[key + "attention.head_count_kv"]
    size, layers = meta[key + "attention.key_length"], meta[key + "block_count"]
    window = meta[key + "attention.sliding_window"]
    layer_elements = header.elements(lambda name: name.startswith("blk."))
    table = header.elements(lambda name: name == "token_embd.weight")

    def seen(position: int) -> int:
        """Keys that a query at this position meets, over all layers: every sixth layer is global."""
        whole = layers // 6
        return whole * (position + 1) + (layers - whole) * min(position + 1, window)

    prompt = range(work.depth, work.depth + work.prompt)
    answer = range(prompt.stop, prompt.stop + work.generate)
    keys = work.batch * sum(map(seen, [*prompt, *answer]))
    tokens = work.batch * (work.prompt + work.generate)
    # Of a prompt only the last token's logits are wanted.
    logits = work.batch * (work.generate + bool(work.prompt))
    operations = 2 * tokens * layer_elements + 2 * logits * table + 4 * keys * heads * size
    # A prompt reads the weights once at least, an answer once for each token; keys and values have 16 bits.
    passes = work.generate + bool(work.prompt)
    cache = sum(map(seen, answer)) + (seen(prompt[-1]) if work.prompt else 0)
    return Cost(operations, passes * header.bytes() + work.batch * cache * 2 * 2 * kv_heads * size)


def _image(mmproj: Header) -> Cost:
    meta = mmproj.metadata
    patches = (meta["clip.vision.image_size"] // meta["clip.vision.patch_size"]) ** 2
    hidden, layers = meta["clip.vision.embedding_length"], meta["clip.vision.block_count"]
    elements = mmproj.elements(lambda name: name.startswith("v.blk."))
    return Cost(2 * patches * elements + 4 * patches * patches * hidden * layers, mmproj.bytes(), floats=True)


def floor(cost: Cost, peaks: dict) -> float:
    """Seconds below which no program on this machine can come, computing what the files say: memory and arithmetic
    overlap perfectly, all arithmetic is of the fastest kind that fits the weights."""
    fastest = peaks["float_ops"] if cost.floats else max(peaks["int8_ops"], peaks["float_ops"])
    return max(cost.operations / fastest, cost.bytes / peaks["read_bytes"])


def path(model: Model, root: Path, cache: Path) -> Path:
    return cache / "models" / model.file if model.variant else root / model.file
