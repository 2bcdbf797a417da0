"""Greedy answers for many conversations at once, with a key/value cache."""

import torch
import torch.nn.functional as F

import render
from chat import Conversation, prompt_ids
from model import HEAD, HEADS, KV, WINDOW, Gemma, is_global, masks, spans
from scenes import KINDS
from settings import IMAGE_TOKEN

STOPS = (1, 106)


def pictures(conversations: list[Conversation], device: str, seed: int = 0) -> list[torch.Tensor]:
    """The pictures of each conversation, 8 bits, on the CPU; the same for the same seed and device."""
    scenes = [s for c in conversations for s in c.scenes()]
    out = []
    with torch.random.fork_rng(devices=[device] if device != "cpu" else []):
        torch.manual_seed(seed)
        for i in range(0, len(scenes), 64):
            part = scenes[i : i + 64]
            kinds = torch.tensor([KINDS.index(s.kind) for s in part])
            out.append(render.draw(kinds, torch.tensor([s.row() for s in part], device=device)).cpu())
    drawn = torch.cat(out) if out else torch.empty((0, 3, render.SIZE, render.SIZE), dtype=torch.uint8)
    counts = [len(c.scenes()) for c in conversations]
    return list(drawn.split(counts))


def grouped(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(HEADS // KV, 1)


@torch.no_grad()
def answer_batch(model: Gemma, prompts: list[list[int]], images: torch.Tensor | None, most: int) -> list[list[int]]:
    """Tokens chosen after each prompt, up to and without a stop."""
    device = next(model.parameters()).device
    inner = model.language_model.model
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    longest, rows = int(lengths.max()), len(prompts)
    ids = torch.zeros((rows, longest), dtype=torch.long)
    for i, p in enumerate(prompts):
        ids[i, : len(p)] = torch.tensor(p)
    ids = ids.to(device)
    where = None
    if images is not None and len(images):
        where = (ids == IMAGE_TOKEN).flatten().nonzero()[:, 0]
        seen = torch.cat([model.see(part.to(device))[0] for part in images.split(256)])
    x = model.embed(ids, seen if where is not None else None, where)
    # Padding stands after the prompt and is never looked at.
    document = (torch.arange(longest, device=device) < lengths[:, None]).int()
    everywhere, nearby = masks(*spans(document, ids), flex=False)
    total = longest + most
    tables = model.tables(torch.arange(total, device=device))
    cache = []
    for i, layer in enumerate(inner.layers):
        cos, sin = tables[i][0][:longest], tables[i][1][:longest]
        q, k, v = layer.self_attn.qkv(layer.input_layernorm(x), cos, sin)
        y = F.scaled_dot_product_attention(
            q, grouped(k), grouped(v), attn_mask=everywhere if is_global(i) else nearby, scale=HEAD**-0.5
        )
        x = layer.after(x, y)
        keys = torch.zeros((rows, KV, total, HEAD), device=device, dtype=k.dtype)
        values = torch.zeros_like(keys)
        keys[:, :, :longest], values[:, :, :longest] = k, v
        cache.append((keys, values))
    state = Decoding(
        model,
        cache,
        tables,
        model.logits(x[torch.arange(rows, device=device), lengths - 1][:, None])[:, 0],
        lengths,
        most,
    )
    return state.run()


class Decoding:
    """One token after another for a batch. On a GPU a step is a CUDA graph."""

    def __init__(self, model: Gemma, cache, tables, logits: torch.Tensor, lengths: torch.Tensor, most: int):
        self.model, self.cache, self.tables, self.most = model, cache, tables, most
        device = logits.device
        self.every, self.columns = (
            torch.arange(len(lengths), device=device),
            torch.arange(cache[0][0].shape[2], device=device),
        )
        self.stops = torch.tensor(STOPS, device=device)
        self.start = [logits.argmax(-1), lengths.clone(), torch.zeros((), dtype=torch.long, device=device)]
        self.token, self.at, self.index = (t.clone() for t in self.start)
        self.chosen = torch.zeros((len(lengths), most), dtype=torch.long, device=device)

    def step(self) -> None:
        """Writes the token down, and chooses the next."""
        self.chosen.index_copy_(1, self.index[None], self.token[:, None])
        at, every = self.at, self.every
        x = self.model.embed(self.token[:, None], None, None)
        far = (self.columns <= at[:, None])[:, None, None]
        near = far & (self.columns > (at - WINDOW)[:, None])[:, None, None]
        for i, layer in enumerate(self.model.language_model.model.layers):
            cos, sin = (t[at][:, None, None] for t in self.tables[i])
            q, k, v = layer.self_attn.qkv(layer.input_layernorm(x), cos, sin)
            keys, values = self.cache[i]
            keys[every, :, at], values[every, :, at] = k[:, :, 0], v[:, :, 0]
            mask = far if is_global(i) else near
            y = F.scaled_dot_product_attention(q, grouped(keys), grouped(values), attn_mask=mask, scale=HEAD**-0.5)
            x = layer.after(x, y)
        done = torch.isin(self.token, self.stops)
        self.token.copy_(torch.where(done, self.token, self.model.logits(x)[:, 0].argmax(-1)))
        self.at += 1
        self.index += 1

    def capture(self):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        for now, first in zip((self.token, self.at, self.index), self.start):
            now.copy_(first)
        return graph.replay

    def run(self) -> list[list[int]]:
        step = self.capture() if self.token.is_cuda and self.most > 8 else self.step
        for i in range(self.most):
            if i % 8 == 0 and bool(torch.isin(self.token, self.stops).all()):
                break
            step()
        out = []
        for row in self.chosen.tolist():
            end = next((i for i, t in enumerate(row) if t in STOPS or t == 0), len(row))
            out.append(row[:end])
        return out


def answer(
    model: Gemma,
    tokenizer,
    conversations: list[Conversation],
    images: list[torch.Tensor],
    size: int = 256,
    most: int = 420,
) -> list[str]:
    """Replies, thoughts included, in order; each at most 24 tokens longer than the right one."""
    prompts = [prompt_ids(tokenizer, c) for c in conversations]
    wanted = [len(tokenizer.encode(c.reply(c.turns[-1]), add_special_tokens=False).ids) for c in conversations]
    order = sorted(range(len(prompts)), key=lambda i: wanted[i])
    replies = [""] * len(prompts)
    for start in range(0, len(order), size):
        part = order[start : start + size]
        budget = min(most, wanted[part[-1]] + 24)
        made = answer_batch(model, [prompts[i] for i in part], torch.cat([images[i] for i in part]), budget)
        for i, tokens in zip(part, made):
            replies[i] = tokenizer.decode(tokens, skip_special_tokens=False)
    return replies
