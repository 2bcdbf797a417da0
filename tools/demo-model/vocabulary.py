"""The tokenizer: Gemma's layout, with few pieces, learned on the conversations that training draws.

The layout (special tokens and their ids, newline and space runs, byte fallback, merges) is that of
tools/goldens/tokenizer.py. Digits stand alone and pieces keep to one kind of character, as SentencePiece learned
Gemma's.
"""

import json
import pathlib
import random
import sys

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from chat import segments
from mixture import draw_conversation

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "goldens"))

import tokenizer as layout  # noqa: E402

ROWS = 2560
_CUT = Regex(r"▁?[A-Za-z]+|▁?[^A-Za-z0-9▁\s]+|\d|▁|\s+")


def corpus(conversations: int, seed: int = 7) -> list[str]:
    """Lines of training text without their special tokens."""
    rng = random.Random(seed)
    lines: list[str] = []
    for _ in range(conversations):
        for text, _ in segments(draw_conversation(rng)):
            text = text.replace("<image_soft_token>", "")
            for token in (
                "<bos>",
                "<start_of_turn>",
                "<end_of_turn>",
                "<start_of_image>",
                "<end_of_image>",
                "<unused94>",
                "<unused95>",
            ):
                text = text.replace(token, "\n")
            lines += [line for line in text.split("\n") if line]
    return lines


def learn(lines: list[str], size: int) -> tuple[list[str], list[str]]:
    """Pieces of two characters or more in order of rank, and single characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(_CUT, "isolated")
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=[], min_frequency=3)
    tokenizer.train_from_iterator((line.replace(" ", "▁") for line in lines), trainer)
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]
    ordered = sorted(vocab, key=vocab.get)
    letters = [chr(c) for c in range(33, 127)]
    return [p for p in ordered if len(p) > 1], sorted({p for p in ordered if len(p) == 1} | set(letters))


def build(conversations: int = 12000) -> dict:
    """The tokenizer.json, `<image_soft_token>` its last id."""
    lines = corpus(conversations)
    return layout.build("full", ROWS - 1, learned=learn(lines, ROWS))


if __name__ == "__main__":
    path = HERE / "tokenizer.json"
    path.write_text(json.dumps(build(), ensure_ascii=False, separators=(",", ":")) + "\n")
    print(path, path.stat().st_size)
