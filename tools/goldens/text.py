"""What Hugging Face's tokenizers and transformers make of thousands of texts and chats, for crates/gemma/tests.

    scripts/fetch-testdata.sh gemma3-tokenizer
    python tools/goldens/text.py

Reads the real tokenizer of testdata/fetched/gemma3-tokenizer and the tiny ones of testdata/tiny-*; writes
crates/gemma/tests/data/{encode,decode,chat}.jsonl. The texts are made here: sentences of corpus.txt, the names of
months and countries in every language babel knows, random characters of every script, pieces of the vocabulary put
together, runs of white space, code, numbers and control-token text. The same every time.

encode.jsonl, a line a text: [text, real, mm, compact, plain], where text is a string or [string, repetitions]; real,
mm and compact are the ids of the three tokenizers with control tokens parsed, and plain those of the real one with
them left as text (null where equal). Ids are a list, or "count:hash" where that is shorter.
decode.jsonl: [tokenizer, ids, text, text without special tokens].
chat.jsonl: {messages, generate, tokenizer, crops, soft, text, ids} or {…, error}.
"""

import json
import pathlib
import random
import unicodedata
from unittest import mock

import jinja2
from babel import Locale, UnknownLocaleError, localedata
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.models.gemma3 import processing_gemma3

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "crates/gemma/tests/data"
FOLDERS = {
    "real": ROOT / "testdata/fetched/gemma3-tokenizer",
    "mm": ROOT / "testdata/tiny-mm",
    "compact": ROOT / "testdata/tiny-text",
}
rng = random.Random(20261124)

CONTROL = (
    "<pad> <eos> <bos> <unk> <mask> [multimodal] <unused0> <unused94> <unused95> <unused99> <start_of_turn> "
    "<end_of_turn> <start_of_image> <end_of_image> <image_soft_token>"
).split()
CODE = [
    "def f(x: int) -> int:\n    \"\"\"Double it.\"\"\"\n    return x * 2  # twice\n",
    "fn main() {\n\tlet v: Vec<u8> = (0..=255).collect();\n\tprintln!(\"{:?}\", &v[..8]);\n}\n",
    "SELECT p.id, COUNT(*) FROM patients AS p\n  LEFT JOIN visits v ON v.patient = p.id\n WHERE p.age >= 65\nGROUP BY 1;",
    '{"resourceType": "Observation", "valueQuantity": {"value": 7.8, "unit": "%"}, "code": {"coding": [{"code": "4548-4"}]}}',
    "<table><tr><th>Test</th><td>7.8&nbsp;%</td></tr></table><!-- <tbody> -->\n<h1>Report</h1><h2 class=\"x\">A</h2>",
    "# Findings\n\n- **Heart**: normal\n- *Lungs*: clear\n\n1. one\n2. two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```rust\nlet x = 1;\n```",
    "\\frac{d}{dx} e^{-x^2/2} = -x\\,e^{-x^2/2} \\quad \\forall x \\in \\mathbb{R}",
    "for (let i = 0; i < n; ++i) { a[i] ^= b[i] >>> 3; }\r\n// done\r\n",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org C:\\Users\\x\\file.txt ~/.config /etc/hosts",
    "#include <stdio.h>\nint main(void) { return printf(\"%d\\n\", 0x1F); }",
    "if [ \"$x\" != '' ]; then\n        echo ${x%%.*} | sed 's/a/b/g' >> out.log 2>&1\nfi",
]
EMOJI = ["😀", "👍🏽", "👩‍⚕️", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "🇺🇳🇪🇺", "1️⃣", "🫀", "🫁", "🧑🏿‍🤝‍🧑🏻", "❤️‍🩹", "☠️", "🩻", "🪿", "🫨", "🏴󠁧󠁢󠁳󠁣󠁴󠁿"]
BLANKS = [" ", "\n", "\t", "\r\n", "\r", "\u00a0", "\u3000", "\u2003", "\u200b", "\v", "\f", "\u2028", "\x1c", "\x85", "\ufeff"]


def fnv(ids: list[int]) -> str:
    """FNV-1a over the ids' little-endian bytes, 48 bits of it."""
    h = 0xCBF29CE484222325
    for b in b"".join(i.to_bytes(4, "little") for i in ids):
        h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{len(ids)}:{h >> 16:012x}"


def short(ids: list[int]) -> list[int] | str:
    return ids if len(ids) < 4 else fnv(ids)


def medical() -> list[str]:
    lines = (ROOT / "tools/goldens/corpus.txt").read_text().splitlines()
    out = list(lines)
    for _ in range(120):
        words = rng.choice(lines).split(" ")
        at = rng.randrange(len(words))
        out.append(rng.choice([" ", "\n", "\n\n", "  ", ", "]).join(words[at : at + rng.randint(1, 8)]))
    for _ in range(160):
        value = rng.choice([str(rng.randrange(10**6)), f"{rng.random() * 500:.{rng.randint(0, 4)}f}", f"{rng.randrange(1, 10**9):,}"])
        unit = rng.choice(["mg", "mmHg", "µmol/L", "×10⁹/L", "°C", "%", " mL/min/1.73 m²", "kg/m²", "±0.5", "½", "Å", "²", " bpm"])
        name = rng.choice(["BP", "HbA1c:", "K⁺ =", "WBC", "CrCl ≈", "T (axillary)", "Dosis:", "dose", "温度", "ΔP", "α-1"])
        day = f"{rng.randint(1900, 2099)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        out.append(f"{name} {value}{unit}" + rng.choice(["", f" on {day}", f" ({day}T{rng.randint(0, 23):02}:05Z)", "; "]))
    return out


def languages() -> list[str]:
    out = []
    for name in sorted(localedata.locale_identifiers()):
        if "_" in name and name.split("_")[1].isupper():
            continue  # a territory's variant says little new
        try:
            locale = Locale.parse(name)
        except (UnknownLocaleError, ValueError):
            continue
        names = [v for k, v in sorted(locale.territories.items())]
        months = [v for k, v in sorted(locale.months["format"]["wide"].items())]
        days = [v for k, v in sorted(locale.days["format"]["wide"].items())]
        if names:
            out.append(", ".join(rng.sample(names, min(4, len(names)))))
        out.append(rng.choice([" ", ", ", "\n"]).join(rng.sample(months, 2) + rng.sample(days, 2)))
    return sorted(set(out), key=out.index)


def random_characters() -> list[str]:
    chars = [chr(c) for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
    assigned = [c for c in chars if unicodedata.category(c) not in ("Cn", "Co")]
    out = []
    for start in range(0, len(assigned), len(assigned) // 260):
        block = assigned[start : start + 400]
        out.append("".join(rng.choice(block) for _ in range(rng.randint(2, 9))))
    kinds = [
        "abcdefghijklmnopqrstuvwxyzABCDE0123456789.,;:-()<>/[]{}'\"#@%&*+=_|~^`$!?\\",
        BLANKS,
        EMOJI,
        [c for c in assigned if unicodedata.category(c) in ("Mn", "Me", "Mc")],
        [c for c in chars if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn")],
        assigned,
        [c for c in assigned if 0x3040 <= ord(c) < 0x9FFF],
        [c for c in assigned if 0x590 <= ord(c) < 0xDFF],
    ]
    for _ in range(700):
        of = rng.sample(kinds, rng.randint(1, 4))
        out.append("".join(rng.choice(rng.choice(of)) for _ in range(rng.randint(1, 18))))
    return out


def vocabulary_pieces(vocab: list[str]) -> list[str]:
    out = []
    for _ in range(1400):
        pieces = [rng.choice(vocab) for _ in range(rng.randint(1, 4))]
        out.append("".join(pieces).replace("▁", " "))
    for _ in range(60):
        out.append(rng.choice(vocab) * rng.randint(2, 5))
    return out


def white_space() -> list[str | list]:
    out: list[str | list] = []
    for char in [" ", "\n", "\t", "▁"]:
        out += [[char, n] for n in [*range(1, 36), 62, 63, 64, 65, 93, 200, 1000]]
        out += ["a" + char * n + "b" for n in (1, 2, 3, 4, 5, 8, 30, 31, 32, 33)]
    for _ in range(150):
        out.append("".join(rng.choice([*BLANKS, "x", "。"]) * rng.choice([1, 1, 2, 3, 5]) for _ in range(rng.randint(1, 8))))
    return out


def control_text() -> list[str]:
    out = []
    for token in CONTROL:
        out += [token, f" {token} ", f"a{token}b", token * 3, token[:-1], token[1:], token.upper(), f"<{token}>", f"\n{token}\n\n"]
        out += [token[:3] + "\u200b" + token[3:], token.replace("<", "< "), f"▁{token}"]
    for _ in range(120):
        parts = CONTROL + ["\n", "\n\n", " ", "user", "model", "<b>", "</table>", "<0x0A>", "<", ">", "thought", "é"]
        out.append("".join(rng.choice(parts) for _ in range(rng.randint(2, 6))))
    return out


def long() -> list[list]:
    return [["a", 5000], ["ab cd ef ", 700], ["日", 2000], ["日本語 ", 500], ["𓀀", 300], ["<", 1000], ["\r\n", 300], ["🏳️‍🌈", 100], ["0", 3000], ["the patient ", 400]]


def texts(vocab: list[str]) -> list[str | list]:
    code = CODE + [c[a : a + 40] for c in CODE for a in range(0, len(c), 37)]
    emoji = EMOJI + ["".join(rng.sample(EMOJI, 3)) for _ in range(20)] + [f"ok {e}!" for e in EMOJI]
    every = [""] + medical() + languages() + random_characters() + vocabulary_pieces(vocab) + white_space() + control_text() + code + emoji + long()
    seen = set()
    return [t for t in every if not (str(t) in seen or seen.add(str(t)))]


def write_encode(tokenizers: dict[str, Tokenizer], plain: Tokenizer, vocab: list[str]) -> None:
    with open(OUT / "encode.jsonl", "w") as out:
        for item in texts(vocab):
            text = item if isinstance(item, str) else item[0] * item[1]
            ids = {n: short(t.encode(text, add_special_tokens=False).ids) for n, t in tokenizers.items()}
            without = short(plain.encode(text, add_special_tokens=False).ids)
            line = [item, ids["real"], ids["mm"], ids["compact"], None if without == ids["real"] else without]
            out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_decode(tokenizers: dict[str, Tokenizer]) -> None:
    with open(OUT / "decode.jsonl", "w") as out:
        for name, tokenizer in tokenizers.items():
            size = tokenizer.get_vocab_size()
            special = [tokenizer.token_to_id(t) for t in CONTROL if tokenizer.token_to_id(t) is not None]
            byte = [tokenizer.token_to_id(f"<0x{b:02X}>") for b in range(256)]
            for _ in range(150):
                ids: list[int] = []
                while len(ids) < rng.randint(1, 14):
                    kind = rng.randrange(5)
                    if kind == 0:
                        ids += [rng.choice(special)]
                    elif kind == 1:
                        ids += [rng.choice(byte) for _ in range(rng.randint(1, 3))]
                    elif kind == 2:
                        ids += [byte[b] for b in rng.choice(["é", "𓀀", "日本", "🫀"]).encode()]
                    else:
                        ids += [rng.randrange(size + (2 if kind == 3 else 0))]
                keep, skip = (tokenizer.decode(ids, skip_special_tokens=s) for s in (False, True))
                out.write(json.dumps([name, ids, keep, skip], ensure_ascii=False, separators=(",", ":")) + "\n")


def text_part(text: str) -> dict:
    return {"type": "text", "text": text}


IMAGE = {"type": "image"}


def chats() -> list[tuple[list[dict], list[int]]]:
    """Conversations, and the number of pan-and-scan crops of each of their images."""

    def user(*parts: str | dict) -> dict:
        content = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else [text_part(p) if isinstance(p, str) else p for p in parts]
        return {"role": "user", "content": content}

    def system(text: str) -> dict:
        return {"role": "system", "content": text}

    def answer(text: str) -> dict:
        return {"role": "assistant", "content": text}

    odd = " \n\t\x1c\x1f\x85\u00a0\u2003\u3000"
    return [
        ([user("Hello")], []),
        ([user("  padded \n\n")], []),
        ([user("\n\nleading newlines\n\n\n")], []),
        ([user(odd + "odd white space" + odd)], []),
        ([user("\u200b\ufeffzero width\u200b")], []),
        ([user("")], []),
        ([user("   ")], []),
        ([system("You are an expert radiologist."), user("What is this?")], []),
        ([system("  padded system text \n"), user("  and its question ")], []),
        ([system(""), user("after an empty system text")], []),
        ([system("SYSTEM INSTRUCTION: think silently if needed. You are a doctor."), user("Why?")], []),
        ([user("one"), answer("two"), user("three"), answer("four"), user("five")], []),
        ([system("S"), user("one\n"), answer("\n two <b>bold</b> "), user("three")], []),
        ([user("a"), answer("prefilled")], []),
        ([user("Überweisung: Wärme, 発熱、咳嗽。 ¿Qué? 🫀")], []),
        ([user("first ", " second", "\n\nthird\n\n")], []),
        ([user("<table><tr><td>1</td></tr></table>\n\n\n\nend")], []),
        ([user(IMAGE, "Describe this image.")], [0]),
        ([user("Before. ", IMAGE, " After.")], [0]),
        ([user("\n\nDescribe:\n\n", IMAGE)], [0]),
        ([user(IMAGE, IMAGE, "What has changed?")], [0, 0]),
        ([user("one", IMAGE, "SLICE 1", IMAGE, "SLICE 2", "question")], [0, 0]),
        ([user(IMAGE)], [0]),
        ([system("You are an expert."), user(IMAGE, "one"), answer("It is."), user("two", IMAGE, "\n"), answer("ok"), user("three")], [0, 0]),
        ([user(IMAGE, "wide")], [2]),
        ([user("a", IMAGE, IMAGE, "b")], [3, 0]),
        ([user("x"), answer("y"), user(IMAGE, "\n\nz")], [4]),
        # Errors of the template.
        ([user("one"), user("two")], []),
        ([answer("first")], []),
        ([system("S"), answer("first")], []),
        ([user("one"), system("late"), user("two")], []),
    ]


def processor(tokenizer: PreTrainedTokenizerFast, soft: int) -> processing_gemma3.Gemma3Processor:
    """The reference's processor without an image processor, which needs more than texts do."""
    with mock.patch.object(processing_gemma3.ProcessorMixin, "__init__", lambda self, **_: None):
        return processing_gemma3.Gemma3Processor(None, tokenizer, image_seq_length=soft)


def expand(text: str, crops: list[int], tokenizer: PreTrainedTokenizerFast, soft: int) -> str:
    reference = processor(tokenizer, soft)
    parts = text.split(tokenizer.boi_token)
    assert len(parts) == len(crops) + 1
    out = parts[0]
    for i, part in enumerate(parts[1:]):
        out += reference.replace_image_token({"num_crops": crops}, i) + part
    return out


def write_chat(tokenizers: dict[str, Tokenizer]) -> None:
    with open(OUT / "chat.jsonl", "w") as out:
        for name, folder in FOLDERS.items():
            config = json.loads((folder / "tokenizer_config.json").read_text())
            extra = {k: config[k] for k in ("boi_token", "eoi_token", "image_token") if k in config}
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token="<bos>", extra_special_tokens=extra)
            tokenizer.chat_template = json.loads((FOLDERS["real"] / "tokenizer_config.json").read_text())["chat_template"]
            for messages, crops in chats():
                if crops and not extra:
                    continue
                for generate in (True, False) if name == "real" and len(messages) < 3 else (True,):
                    line = {"tokenizer": name, "messages": messages, "generate": generate}
                    try:
                        text = tokenizer.apply_chat_template(messages, add_generation_prompt=generate, tokenize=False)
                    except jinja2.exceptions.TemplateError as error:
                        out.write(json.dumps(line | {"error": str(error)}, ensure_ascii=False) + "\n")
                        continue
                    soft = rng.choice([1, 4, 16]) if crops else 0
                    full = expand(text, crops, tokenizer, soft) if crops else text
                    ids = tokenizers[name].encode(full, add_special_tokens=False).ids
                    line |= {"crops": crops, "soft": soft, "text": text, "ids": ids}
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    tokenizers = {name: Tokenizer.from_file(str(folder / "tokenizer.json")) for name, folder in FOLDERS.items()}
    real = json.loads((FOLDERS["real"] / "tokenizer.json").read_text())
    vocab = [t for t in real["model"]["vocab"] if t not in CONTROL and not t.startswith("<unused")]
    steering = lambda t: t["special"] or t["content"] in CONTROL or t["content"].startswith("<unused")
    real["added_tokens"] = [t for t in real["added_tokens"] if not steering(t)]
    plain = Tokenizer.from_str(json.dumps(real))
    write_encode(tokenizers, plain, vocab)
    write_decode(tokenizers)
    write_chat(tokenizers)


if __name__ == "__main__":
    main()
