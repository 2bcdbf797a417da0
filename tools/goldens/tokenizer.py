"""A tiny tokenizer with Gemma's layout, written the way the hub's tokenizer.json is.

Everything that decides how text is cut is as in the real file: the normalizer (space to ▁), the pre-tokenizer (which
then never splits), byte fallback, newline runs and HTML tags as added tokens that are not special, merges that list
every way to cut a piece in two, in the order of the pieces' ranks. Only the learned pieces are few: they are learned
on corpus.txt.

Two layouts:
  full     the real ids up to the bytes (pad 0, eos 1, bos 2, <unused94> 100, <start_of_turn> 105, newline runs from
           107, bytes from 238), then learned pieces, characters, tabs, image tokens, <image_soft_token> last
  compact  other ids for all of these and no <image_soft_token>: a reader that hard-codes ids fails on it
"""

import json
import pathlib

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).resolve().parent
SPACE = "▁"
TAGS = "table caption thead tbody tfoot tr th td".split()
HEADINGS = "h1 h2 h3 h4 h5 h6 blockquote".split()
INLINE = "strong em b i u s sub sup code".split()
OPEN = "a html body img span bbox ul li div iframe footer".split()
SPECIAL = {"<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"}


def learn(size: int) -> tuple[list[str], list[str]]:
    """Pieces of two characters or more in order of rank, and the characters, both from corpus.txt."""
    tokenizer = Tokenizer(models.BPE())
    # Pieces begin with their space and never go over one, as SentencePiece learns them.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=[])
    text = (HERE / "corpus.txt").read_text().replace(" ", SPACE).splitlines()
    tokenizer.train_from_iterator(text, trainer)
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]
    ordered = sorted(vocab, key=vocab.get)
    return [p for p in ordered if len(p) > 1], [p for p in ordered if len(p) == 1]


def runs(char: str, longest: int) -> list[str]:
    return [char * n for n in range(1, longest + 1)]


def tags(names: list[str]) -> list[str]:
    return [f"<{n}>" for n in names] + [f"</{n}>" for n in names]


def html() -> list[str]:
    return tags(TAGS) + tags(HEADINGS) + tags(INLINE) + tags(OPEN)


def run_merges(longest: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to cut a run of spaces, newlines or tabs, in the real file's order: longest left part first."""
    merges = []
    for left in range(max(longest.values()), 0, -1):
        for right in range(max(longest.values()), 0, -1):
            merges += [(c * left, c * right) for c, n in longest.items() if left + right <= n]
    return merges


def piece_merges(pieces: list[str], vocab: set[str]) -> list[tuple[str, str]]:
    """Every way to cut each piece in two pieces of the vocabulary, best piece first, longest left part first."""
    merges = []
    for piece in pieces:
        for at in range(len(piece) - 1, 0, -1):
            if piece[:at] in vocab and piece[at:] in vocab:
                merges.append((piece[:at], piece[at:]))
    return merges


def vocabulary(layout: str, size: int, learned=None) -> tuple[list[str], list[str], dict[str, int], set[str]]:
    """All tokens by id, the learned pieces, the run lengths, and the added tokens.

    `learned` is what `learn` returns, for a caller with a corpus of its own.
    """
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    if layout == "full":
        longest = {"\n": 31, SPACE: 31, "\t": 31}
        head = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "[multimodal]"]
        head += [f"<unused{i}>" for i in range(99)] + ["<start_of_turn>", "<end_of_turn>"]
        head += runs("\n", 31) + runs(SPACE, 31)[1:] + html()
        added = set(head)
        head += bytes_
        tail = runs("\t", 31) + ["<start_of_image>", "<end_of_image>", "<unused99>"]
        last = ["<image_soft_token>"]
    else:
        longest = {"\n": 8, SPACE: 8, "\t": 4}
        head = ["<pad>", "<unk>", "<start_of_turn>", "<bos>", "<end_of_turn>", "<eos>", "<unused94>", "<unused95>"]
        head += runs("\n", 8) + runs(SPACE, 8)[1:]
        added = set(head)
        head += bytes_
        tail = runs("\t", 4) + ["<start_of_image>", "<end_of_image>"]
        last = []
    added |= set(tail) | set(last)
    room = size - len(head) - len(tail)
    pieces, chars = learned or learn(room + 64)
    taken = set(head) | set(tail)
    pieces = [p for p in pieces if p not in taken]
    chars = [c for c in chars if c not in taken] + ([SPACE] if SPACE not in chars else [])
    pieces = pieces[: room - len(chars)]
    tokens = head + pieces + chars + tail
    assert len(tokens) == size == len(set(tokens)), (len(tokens), size)
    return tokens + last, pieces, longest, added


def build(layout: str, size: int, learned=None) -> dict:
    """The tokenizer.json of a vocabulary of `size` tokens (plus <image_soft_token> in the full layout)."""
    tokens, pieces, longest, added = vocabulary(layout, size, learned)
    base = tokens[:size]  # <image_soft_token> is an added token only, as in the real file
    ids = {token: i for i, token in enumerate(tokens)}
    merges = run_merges(longest) + piece_merges(pieces, set(base))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[t], "content": t, **flags, "special": t in SPECIAL} for t in sorted(added, key=ids.get)
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                bos,
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<bos>", "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [ids["<bos>"]], "tokens": ["<bos>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {t: i for i, t in enumerate(base)},
            "merges": [list(m) for m in merges],
        },
    }


def config(layout: str, built: dict, template: str | None) -> dict:
    """The tokenizer_config.json that belongs to it."""
    out = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {
            str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in built["added_tokens"] if t["special"]
        },
        "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<eos>",
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "<pad>",
        "sp_model_kwargs": None,
        "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }
    if layout == "full":
        images = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
        out |= images | {"extra_special_tokens": images, "processor_class": "Gemma3Processor"}
    if template is not None:
        out["chat_template"] = template
    return dict(sorted(out.items()))


def special_tokens_map(layout: str) -> dict:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    out = {k: {"content": v, **flags} for k, v in names.items()}
    if layout == "full":
        out |= {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    return dict(sorted(out.items()))
