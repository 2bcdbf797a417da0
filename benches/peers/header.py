"""What a GGUF's header says of a model: enough to count the bytes and operations that computing it takes."""

import struct
from dataclasses import dataclass
from pathlib import Path

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9

# ggml's element types: elements of a block, bytes of a block.
BLOCKS = {
    0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136),
}  # fmt: skip


@dataclass
class Header:
    """A GGUF's metadata (arrays left out) and its tensors: name to (shape, innermost first; bytes)."""

    metadata: dict
    tensors: dict

    @staticmethod
    def of(path: Path) -> "Header":
        with open(path, "rb") as file:
            return Header(*_read(file))

    def bytes(self) -> int:
        """Bytes of all tensors: what is read from memory to compute one token."""
        return sum(size for _, size in self.tensors.values())

    def elements(self, of=lambda name: True) -> int:
        """Elements of the matrices whose names `of` likes."""
        total = 0
        for name, (shape, _) in self.tensors.items():
            if len(shape) > 1 and of(name):
                elements = 1
                for dimension in shape:
                    elements *= dimension
                total += elements
        return total


def _read(file):
    def scalar(code):
        return struct.unpack("<" + code, file.read(struct.calcsize("<" + code)))[0]

    def string():
        return file.read(scalar("Q")).decode("utf-8", "replace")

    def value(kind):
        if kind == STRING:
            return string()
        if kind != ARRAY:
            return scalar(SCALARS[kind])
        inner, count = scalar("I"), scalar("Q")
        if inner == STRING:
            for _ in range(count):
                file.seek(scalar("Q"), 1)
        elif inner == ARRAY:
            raise ValueError("arrays of arrays")
        else:
            file.seek(struct.calcsize("<" + SCALARS[inner]) * count, 1)
        return None

    if file.read(4) != b"GGUF":
        raise ValueError(f"{file.name} is no GGUF")
    scalar("I")
    tensors, keys = scalar("Q"), scalar("Q")
    metadata = {}
    for _ in range(keys):
        key = string()
        metadata[key] = value(scalar("I"))
    found = {}
    for _ in range(tensors):
        name = string()
        shape = [scalar("Q") for _ in range(scalar("I"))]
        kind = scalar("I")
        scalar("Q")
        elements = 1
        for dimension in shape:
            elements *= dimension
        block, size = BLOCKS[kind]
        found[name] = (shape, elements // block * size)
    return metadata, found
