"""Checks that need no GPU: run before a training run.

    python check.py

The model's logits are those of transformers; `chat.render` writes what the template writes; encoding in pieces is
encoding the whole; the cache answers as the whole pass does; pictures stay in range.
"""

import pathlib
import random
import tempfile

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import Gemma3ForConditionalGeneration, PreTrainedTokenizerFast

import chat
import export
from generate import answer_batch, pictures
from loader import HERE, Shape, make_batch
from mixture import DRAWN, draw_conversation
from model import Gemma, masks, spans
from settings import IMAGE_TOKEN


def conversations(count: int) -> list[chat.Conversation]:
    rng = random.Random("check")
    return [draw_conversation(rng) for _ in range(count)]


def check_text(tokenizer: Tokenizer, folder: pathlib.Path) -> None:
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    for c in conversations(60):
        whole = "".join(t for t, _ in chat.segments(c)[:-1])
        image = "\n\n<start_of_image>" + "<image_soft_token>" * chat.IMAGE_TOKENS + "<end_of_image>\n\n"
        prompt = theirs.apply_chat_template(c.messages(lambda s: "x"), tokenize=False, add_generation_prompt=True)
        assert prompt.replace("<start_of_image>", image) == whole, (prompt, whole)
        assert (
            tokenizer.encode(whole, add_special_tokens=False).ids
            == theirs(prompt.replace("<start_of_image>", image), add_special_tokens=False)["input_ids"]
        )
        ids, learnt = chat.encode(tokenizer, c)
        assert (
            ids[: len(tokenizer.encode(whole, add_special_tokens=False).ids)]
            == tokenizer.encode(whole, add_special_tokens=False).ids
        )
        assert any(learnt) and not learnt[0]
        assert max(ids) <= IMAGE_TOKEN
    print("text: the template's and the tokenizer's")


@torch.no_grad()
def check_model(tokenizer: Tokenizer, folder: pathlib.Path, model: Gemma) -> None:
    theirs = Gemma3ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for kind in ("pair", "record", "series"):
        c = DRAWN[kind][0](random.Random(f"model {kind}"))
        ids = torch.tensor([chat.encode(tokenizer, c)[0]])
        drawn = pictures([c], "cpu")[0]
        more = {}
        where = seen = None
        if len(drawn):
            more = {"pixel_values": drawn.float() * (2 / 255) - 1, "token_type_ids": (ids == IMAGE_TOKEN).long()}
            seen, where = model.see(drawn)[0], (ids == IMAGE_TOKEN).flatten().nonzero()[:, 0]
        want = theirs(input_ids=ids, use_cache=False, **more).logits[0]
        both = masks(*spans(torch.ones_like(ids), ids), flex=False)
        got = model.logits(model.decode(model.embed(ids, seen, where), *both))[0]
        error = float((want - got).abs().max())
        print(f"logits of {kind}, {ids.shape[1]} tokens: {error:.1e} from transformers")
        assert error < 2e-3
        # Greedy with the cache: every token is the best of a whole pass.
        prompt = chat.prompt_ids(tokenizer, c)
        made = answer_batch(model, [prompt, prompt[:1] + prompt], torch.cat([drawn, drawn]), 12)[0]
        whole = torch.tensor([prompt + made])
        both = masks(*spans(torch.ones_like(whole), whole), flex=False)
        if len(drawn):
            where = (whole == IMAGE_TOKEN).flatten().nonzero()[:, 0]
        steps = model.logits(model.decode(model.embed(whole, seen, where), *both))[0].argmax(-1)
        assert steps[len(prompt) - 1 : -1].tolist() == made, "the cache changes the answer"


def check_batch(tokenizer: Tokenizer) -> None:
    b = make_batch(tokenizer, random.Random(1), Shape(4, 2048, 32))
    flat = b["ids"].reshape(-1)
    taught = b["targets"] >= 0
    assert 100 < taught.sum() < len(taught)
    assert (flat[b["learn"] + 1] == b["targets"])[taught].all()
    where = b["where"][b["where"] < len(flat)]
    document = np.cumsum(b["first"] == np.arange(2048), axis=1)
    first, last = spans(torch.from_numpy(document), torch.from_numpy(b["ids"]))
    assert (first.numpy() == b["first"]).all() and (last.numpy() == b["last"]).all()
    assert (flat[where] == IMAGE_TOKEN).all() and (flat[where - 1] != IMAGE_TOKEN).all()
    assert len(where) == (flat == IMAGE_TOKEN).sum() / chat.IMAGE_TOKENS
    assert (b["boxes"][..., 1:] >= 0).all() and (b["boxes"][..., 1:] <= 1).all()
    print("batch: labels and images are where they should be")


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    model = Gemma().eval()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "norm" in n or n.endswith("bias"):
                p += 0.2 * torch.randn_like(p)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        export.hugging_face(folder, model.state_dict(), torch.float32)
        check_text(tokenizer, folder)
        check_model(tokenizer, folder, model)
    check_batch(tokenizer)


if __name__ == "__main__":
    main()
