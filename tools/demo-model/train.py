"""Trains the demo model: `python train.py --out DIR` on one GPU. See README.md.

The learning rate and the auxiliary losses follow the clock, so that a run ends when its time is up.
"""

import argparse
import json
import os
import pathlib
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask

import heldout
import render
from generate import answer, pictures
from loader import HERE, Loader, Shape
from model import Gemma, masks
from muon import Muon
from scenes import CHANNELS, LABELS
from score import score, table
from settings import CONFIG, VISION_CELLS

BEGAN = time.time()


class Teacher(nn.Module):
    """Predicts from the image features, without any words, what is where. Thrown away after training."""

    def __init__(self):
        super().__init__()
        dim = CONFIG["vision_config"]["hidden_size"]
        self.cells, self.whole = nn.Linear(dim, 5 * len(CHANNELS)), nn.Linear(dim, len(LABELS))

    def forward(self, features: torch.Tensor, boxes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`features` `[images, cells, dim]`, `boxes` `[images, slots, 5]` (channel, y0, x0, y1, x1)."""
        images, cells, _ = features.shape
        side = VISION_CELLS
        channel, edges = boxes[..., 0].long(), boxes[..., None, 1:]
        centre = (torch.arange(side, device=boxes.device) + 0.5) / side
        y, x = centre.repeat_interleave(side), centre.repeat(side)
        inside = (y > edges[..., 0]) & (y < edges[..., 2]) & (x > edges[..., 1]) & (x < edges[..., 3])
        middle = (edges[..., :2] + edges[..., 2:]) / 2
        cell = (middle * side).floor().clamp(0, side - 1)
        inside |= torch.arange(cells, device=boxes.device) == cell[..., 0] * side + cell[..., 1]
        inside &= (channel >= 0)[..., None]
        said = self.cells(features).float().view(images, cells, len(CHANNELS), 5)
        slot = channel.clamp(min=0)
        present = torch.zeros((images, len(CHANNELS), cells), device=boxes.device)
        present = present.scatter_reduce(1, slot[..., None].expand(-1, -1, cells), inside.float(), "amax")
        presence = F.binary_cross_entropy_with_logits(said[..., 0].transpose(1, 2), present)
        index = slot[..., None, None].expand(-1, -1, cells, 4)
        guess = said[..., 1:].permute(0, 2, 1, 3).gather(1, index)
        away = ((guess - edges).abs().sum(-1) * inside).sum() / inside.sum().clamp(min=1)
        whole = F.binary_cross_entropy_with_logits(self.whole(features.mean(1)).float(), labels.float())
        return 10 * presence + 4 * away + 5 * whole


class Trainer:
    """A step is one CUDA graph: without it, launching its thousands of kernels takes longer than running them."""

    def __init__(self, args, device: str):
        self.args, self.device, self.flex = args, device, args.attention == "flex"
        torch.manual_seed(args.seed)
        self.model, self.teacher = Gemma().to(device), Teacher().to(device)
        self.draw_chest, self.build = render.chest, create_block_mask
        if args.init:
            self.model.load_state_dict(load(args.init))
        if args.compile:
            self.model.compile_layers()
            self.teacher.compile()
            self.draw_chest = torch.compile(render.chest, dynamic=True)  # most pictures are of this kind
            self.build = torch.compile(create_block_mask)
        self.optimizer = Muon(self.model, list(self.teacher.parameters()), args.matrix_rate, args.rate)
        self.graph, self.steps, self.inputs, self.loss = None, 0, {}, None
        self.aux_weight = torch.zeros((), device=device)
        self.stream = torch.cuda.Stream() if device == "cuda" else None

    def fill(self, batch: dict) -> None:
        """Copies a batch to the device, into tensors that stay where they are."""
        for k, v in batch.items():
            made = torch.from_numpy(v)
            made = made.long() if k in ("ids", "learn", "targets", "where") else made
            if self.stream is not None:  # pinned memory is copied while the GPU works
                made = made.pin_memory()
            if k in self.inputs:
                self.inputs[k].copy_(made, non_blocking=True)
            else:
                self.inputs[k] = made.to(self.device)

    def pictures(self) -> torch.Tensor:
        """All pictures of the batch, kind by kind."""
        slots = Shape(self.args.rows, self.args.tokens, self.args.images).slots
        drawers = render.DRAW | {"cxr": self.draw_chest}
        parts = zip(slots, self.inputs["rows"].split(list(slots.values())))
        return torch.cat([drawers[kind](rows) for kind, rows in parts])

    def losses(self) -> tuple[torch.Tensor, torch.Tensor]:
        b = self.inputs
        with torch.no_grad():
            pixels = self.pictures()
        both = masks(b["first"], b["last"], self.flex, self.build)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda", cache_enabled=False):
            seen, features = self.model.see(pixels)
            where = (b["where"][:, None] + torch.arange(seen.shape[1], device=self.device)).flatten()
            x = self.model.decode(self.model.embed(b["ids"], seen, where), *both)
            logits = self.model.logits(x.flatten(0, 1).index_select(0, b["learn"]))
            aux = self.teacher(features, b["boxes"], b["labels"])
        return F.cross_entropy(logits.float(), b["targets"]), aux

    def whole_step(self) -> torch.Tensor:
        words, aux = self.losses()
        (words + self.aux_weight * aux).backward()
        self.optimizer.step()
        return torch.stack([words.detach(), aux.detach()])

    def step(self, batch: dict, progress: float) -> torch.Tensor:
        """One step; the two losses, on the device."""
        self.fill(batch)
        self.optimizer.now.copy_(
            torch.tensor(self.optimizer.rates(rate_at(progress, self.args.hold))), non_blocking=True
        )
        self.aux_weight.fill_((1 - 0.85 * progress) * self.args.aux)
        self.steps += 1
        if self.graph is not None:
            self.graph.replay()
            return self.loss.clone()
        if self.stream is None:
            return self.whole_step()
        # Warm up and capture beside the main stream, as capturing wants it.
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            loss = self.whole_step().clone()
        torch.cuda.current_stream().wait_stream(self.stream)
        if self.steps == 4 and self.args.graph:
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream):
                self.loss = self.whole_step()
            self.graph = graph
        return loss


def rate_at(progress: float, hold: float) -> float:
    """Up within 2 %, level until `hold`, then down to nothing in a straight line."""
    return max(min(progress / 0.02 + 0.01, 1.0, (1 - progress) / (1 - hold)), 0.0)


def save(folder: pathlib.Path, model: Gemma, parts: int = 3) -> None:
    """The weights in float16, in files of equal size (a resumed run and the export read them)."""
    names = sorted(model.state_dict())
    state = {n: model.state_dict()[n].detach().half().cpu() for n in names}
    total, done, shards = sum(t.numel() for t in state.values()), 0, [dict() for _ in range(parts)]
    for name in names:
        shards[min(done * parts // total, parts - 1)][name] = state[name]
        done += state[name].numel()
    for i, shard in enumerate(shards):
        torch.save(shard, folder / f"weights-{i}.tmp")
        os.replace(folder / f"weights-{i}.tmp", folder / f"weights-{i}.pt")


def load(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("weights-*.pt")):
        state |= torch.load(file, map_location="cpu", weights_only=True)
    return {k: v.float() for k, v in state.items()}


class Exam:
    """Held-out questions with their pictures, asked again and again."""

    def __init__(self, counts: dict[str, int], seed: str, device: str, tokenizer):
        self.cases = [c for task, n in counts.items() for c in heldout.make(task, n, seed)]
        self.images, self.tokenizer, self.device = pictures(self.cases, device), tokenizer, device

    def take(self, model: Gemma, autocast: bool = True) -> tuple[dict, list[dict]]:
        with torch.autocast(
            self.device, torch.bfloat16, enabled=autocast and self.device == "cuda", cache_enabled=False
        ):
            replies = answer(model, self.tokenizer, self.cases, self.images)
        rows, scored = [], []
        for case, reply in zip(self.cases, replies):
            turn = case.turns[0]
            scored.append((turn.task, score(turn.expected, reply)))
            rows.append(
                {"task": turn.task, "expected": turn.expected, "wanted": case.reply(turn), "reply": reply}
                | scored[-1][1]
            )
        return table(scored), rows


def short(results: dict) -> str:
    return " ".join(
        f"{t}:{r['share'] * 100:.0f}" + (f"({r['median iou']:.2f})" if "median iou" in r else "")
        for t, r in results.items()
    )


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--seconds", type=float, default=900, help="of wall-clock time, start and last examination included")
    p.add_argument("--reserve", type=float, default=30, help="seconds of these kept for the last examination")
    p.add_argument("--steps", type=int, help="end after so many steps instead")
    p.add_argument("--rows", type=int, default=32)
    p.add_argument("--tokens", type=int, default=2048)
    p.add_argument("--images", type=int, default=320)
    p.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    p.add_argument("--matrix-rate", type=float, default=0.02)
    p.add_argument("--rate", type=float, default=3e-3)
    p.add_argument("--aux", type=float, default=0.5)
    p.add_argument("--hold", type=float, default=0.4)
    p.add_argument("--attention", choices=("flex", "dense"), default="flex")
    p.add_argument("--no-compile", dest="compile", action="store_false")
    p.add_argument("--no-graph", dest="graph", action="store_false")
    p.add_argument("--init", type=pathlib.Path, help="folder of an earlier run to go on from")
    p.add_argument("--mixture", type=json.loads, help="JSON of weights in place of mixture.py's")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--exam-every", type=float, default=100, help="seconds")
    p.add_argument("--exam", type=int, default=16, help="cases a task on the way")
    p.add_argument("--final", type=int, default=200, help="cases a task at the end")
    return p.parse_args()


def main() -> None:
    args = arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    args.out.mkdir(parents=True, exist_ok=True)
    loader = Loader(str(args.seed), Shape(args.rows, args.tokens, args.images), args.processes, args.mixture)
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    trainer = Trainer(args, device)
    exam = Exam({t: args.exam for t in heldout.CASES}, "monitor", device, tokenizer)
    log = {
        "card": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "args": {k: v.name if isinstance(v, pathlib.Path) else str(v) for k, v in vars(args).items()},
    }
    log |= {"parameters": sum(p.numel() for p in trainer.model.parameters()), "losses": [], "exams": []}

    def write() -> None:
        (args.out / "log.json").write_text(json.dumps(log))

    def say(text: str) -> None:
        print(f"{time.time() - BEGAN:6.1f}s {text}", flush=True)

    say(f"ready: {log['parameters']} parameters")
    start, step, examined = None, 0, time.time()
    recent: list[torch.Tensor] = []
    while True:
        now = time.time()
        if start is None and step >= 5:  # compiled and captured
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.time()
            say("compiled")
        end = BEGAN + args.seconds - args.reserve
        progress = 0.0 if start is None else min((now - start) / max(end - start, 1), 1.0)
        if args.steps:
            progress = min(step / args.steps, 1.0)
        if progress >= 1:
            break
        recent.append(trainer.step(loader.next(), progress))
        step += 1
        if step % 25 == 0:
            words, aux = torch.stack(recent).mean(0).tolist()
            recent = []
            log["losses"].append(
                [step, round(time.time() - BEGAN, 2), round(words, 5), round(aux, 5), round(progress, 4)]
            )
            if step % 200 == 0 or step <= 200:
                say(
                    f"step {step} words {words:.4f} aux {aux:.4f} progress {progress:.3f} "
                    f"batches {loader.fresh} again {loader.again}"
                )
        if time.time() - examined > args.exam_every:
            results, _ = exam.take(trainer.model)
            examined = time.time()
            log["exams"].append({"step": step, "seconds": round(examined - BEGAN, 1), "tasks": results})
            say(f"step {step} {short(results)}")
            save(args.out, trainer.model)
            write()
    loader.close()
    log |= {"steps": step, "trained_seconds": round(time.time() - BEGAN, 1), "batches": [loader.fresh, loader.again]}
    save(args.out, trainer.model)
    write()
    say(f"trained: {step} steps")
    if args.final:
        results, rows = Exam({t: args.final for t in heldout.CASES}, "final", device, tokenizer).take(trainer.model)
        log["final"] = results
        write()
        with open(args.out / "predictions.jsonl", "w") as f:
            f.writelines(json.dumps(r) + "\n" for r in rows)
        say(f"final {short(results)}")


if __name__ == "__main__":
    main()
