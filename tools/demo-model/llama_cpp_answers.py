"""Does llama.cpp load the shipped pair, and answer the same? Needs llama-cpp-python.

    python llama_cpp_answers.py ../../demo-model [--every 1]

Asks it the shipped held-out cases (one of every N), pictures through its mtmd library, greedily, and scores them; and
compares its tokens with goldens.json, which the engine's tests hold the engine to. Prompts are the chat template's with
the two newlines around pictures that Hugging Face's processor writes, which mtmd leaves to its caller. Nothing of it
is resized: the pictures have the model's size.
"""

import argparse
import ctypes
import json
import pathlib

import llama_cpp
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from llama_cpp import mtmd_cpp as mtmd
from PIL import Image

import export
from score import score, table

STOPS = (1, 106)
BATCH = 1024


class Peer:
    """The pair in llama.cpp, on the CPU."""

    def __init__(self, folder: pathlib.Path):
        self.llm = llama_cpp.Llama(
            str(folder / export.TEXT_FILE), n_ctx=4096, n_batch=BATCH, n_ubatch=BATCH, n_threads=2, verbose=False
        )
        params = mtmd.mtmd_context_params_default()
        params.use_gpu, params.n_threads, params.warmup, params.print_timings = False, 2, False, False
        self.mtmd = mtmd.mtmd_init_from_file(str(folder / export.VISION_FILE).encode(), self.llm.model, params)
        if not self.mtmd or not mtmd.mtmd_support_vision(self.mtmd):
            raise SystemExit("llama.cpp doesn't take the image encoder")
        self.marker = mtmd.mtmd_default_marker()

    def chunks(self, prompt: str, pictures: list[pathlib.Path]):
        """The prompt in pieces: text, and pictures where `<start_of_image>` stands."""
        drawn = [np.ascontiguousarray(Image.open(p).convert("RGB")) for p in pictures]
        bitmaps = [
            mtmd.mtmd_bitmap_init(p.shape[1], p.shape[0], (ctypes.c_uint8 * p.size).from_buffer_copy(p.tobytes()))
            for p in drawn
        ]
        said = prompt.encode().replace(b"<start_of_image>", b"\n\n" + self.marker + b"\n\n")
        text = mtmd.mtmd_input_text(said, len(said), False, True)
        out = mtmd.mtmd_input_chunks_init()
        array = (mtmd.mtmd_bitmap_p_ctypes * max(len(bitmaps), 1))(*bitmaps)
        if mtmd.mtmd_tokenize(self.mtmd, out, ctypes.byref(text), array, len(bitmaps)) != 0:
            raise SystemExit("llama.cpp can't cut the prompt")
        for bitmap in bitmaps:
            mtmd.mtmd_bitmap_free(bitmap)
        return out

    def answer(self, prompt: str, pictures: list[pathlib.Path], most: int = 600) -> tuple[int, list[int]]:
        """How many positions the prompt takes, and the tokens chosen after it, with the stop."""
        context = self.llm.ctx
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        chunks, past = self.chunks(prompt, pictures), llama_cpp.llama_pos(0)
        if mtmd.mtmd_helper_eval_chunks(self.mtmd, context, chunks, 0, 0, BATCH, True, ctypes.byref(past)) != 0:
            raise SystemExit("llama.cpp can't compute the prompt")
        mtmd.mtmd_input_chunks_free(chunks)
        tokens: list[int] = []
        while len(tokens) < most:
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (self.llm.n_vocab(),))
            tokens.append(int(logits.argmax()))
            if tokens[-1] in STOPS:
                break
            one = (llama_cpp.llama_token * 1)(tokens[-1])
            if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(one, 1)) != 0:
                raise SystemExit("llama.cpp can't compute a token")
        return past.value, tokens

    def text(self, tokens: list[int]) -> str:
        return self.llm.detokenize([t for t in tokens if t not in STOPS], special=True).decode(errors="replace")


def pictures(case: dict, folder: pathlib.Path) -> list[pathlib.Path]:
    parts = [p for m in case["messages"] if isinstance(m["content"], list) for p in m["content"]]
    return [folder / p["image"] for p in parts if p["type"] == "image"]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("--every", type=int, default=1)
    args = p.parse_args()
    images = args.folder / "heldout" / "images"
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(export.models.TEMPLATE)
    prompt = lambda case: template.render(messages=case["messages"], bos_token="<bos>", add_generation_prompt=True)  # noqa: E731
    peer = Peer(args.folder)
    print("llama-cpp-python", llama_cpp.__version__)
    for case in json.loads((args.folder / "goldens.json").read_text())["cases"]:
        length, tokens = peer.answer(prompt(case), pictures(case, images))
        same = next((i for i, (a, b) in enumerate(zip(tokens, case["greedy"])) if a != b), None)
        wanted = len(case["input_ids"])
        told = "the same tokens" if same is None and len(tokens) == len(case["greedy"]) else f"other from token {same}"
        print(f"{case['name']}: prompt {length} of {wanted} positions, {told}", flush=True)
    scored = []
    for case in [json.loads(line) for line in open(args.folder / "heldout" / "cases.jsonl")][:: args.every]:
        reply = peer.text(peer.answer(prompt(case), pictures(case, images))[1])
        scored.append((case["task"], score(case["expected"], reply)))
        if not scored[-1][1]["right"]:
            print(case["id"], repr(case["answer"][-120:]), repr(reply[-120:]), flush=True)
    for task, row in table(scored).items():
        print(f"{task}: {row['right']} of {row['cases']}", row.get("median iou", ""))


if __name__ == "__main__":
    main()
