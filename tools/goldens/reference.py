"""Runs a checkpoint with transformers in float32 and writes down what it does.

Every step is a whole forward pass without a cache, so that nothing can hide in one; `generate` (with its cache) has to
choose the same tokens, which is checked for each case.
"""

import hashlib
import json
import pathlib

import numpy as np
import torch
import transformers
from transformers import Gemma3ForCausalLM, Gemma3ForConditionalGeneration, Gemma3Processor, PreTrainedTokenizerFast
from transformers.image_utils import load_image
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from models import TESTDATA

transformers.logging.set_verbosity_error()

STEPS = 24
# The gap that the best logit must keep to the second at every greedy step: far over float32's noise.
MARGIN = 2e-3


class CloseCall(Exception):
    """A greedy choice that rounding could turn; another seed is needed."""


def rounded(values, digits=6) -> list:
    return [round(float(v), digits) for v in values]


class Reference:
    """One checkpoint folder, its processor or tokenizer, and the model in float32."""

    def __init__(self, folder: pathlib.Path, model=None):
        self.folder = folder
        config = json.loads((folder / "config.json").read_text())
        self.images = config["model_type"] == "gemma3"
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self.tokens = config.get("text_config", config)["vocab_size"]
        self.stops = set(json.loads((folder / "generation_config.json").read_text())["eos_token_id"])
        kind = Gemma3ForConditionalGeneration if self.images else Gemma3ForCausalLM
        if model is None:
            model, report = kind.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
            )
            # The reference itself has to know every name that we wrote.
            assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
        self.model = model.eval()
        if self.images:
            self.processor = Gemma3Processor(
                Gemma3ImageProcessorPil.from_pretrained(folder),
                self.tokenizer,
                chat_template=self.tokenizer.chat_template,
                image_seq_length=config["mm_tokens_per_image"],
            )

    def inputs(self, case: dict) -> tuple[str, dict, list[str]]:
        """The rendered prompt, the model's inputs, and the names of the images in order."""
        if "text" in case:
            ids = self.tokenizer(case["text"], return_tensors="pt")["input_ids"]  # with bos
            return case["text"], {"input_ids": ids}, []
        prompt = self.tokenizer.apply_chat_template(case["messages"], tokenize=False, add_generation_prompt=True)
        names = [
            part["image"]
            for message in case["messages"]
            if isinstance(message["content"], list)
            for part in message["content"]
            if part["type"] == "image"
        ]
        if not self.images:
            return prompt, {"input_ids": self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]}, []
        images = [load_image(str(TESTDATA / "images" / name)) for name in names]  # as chat templates load them: RGB
        out = self.processor(
            text=[prompt],
            images=[images] if images else None,
            add_special_tokens=False,
            return_tensors="pt",
            do_pan_and_scan=case.get("pan_and_scan", False),
        )
        kept = {k: out[k] for k in ("input_ids", "pixel_values", "token_type_ids") if k in out}
        return prompt, kept, names

    @torch.no_grad()
    def logits(self, inputs: dict, generated: list[int]) -> torch.Tensor:
        """Logits `[tokens, vocabulary]` of the prompt and what was generated."""
        ids = torch.cat([inputs["input_ids"], torch.tensor([generated], dtype=torch.long)], dim=1)
        more = {}
        if "pixel_values" in inputs:
            zeros = torch.zeros((1, len(generated)), dtype=torch.long)
            more = {
                "pixel_values": inputs["pixel_values"],
                "token_type_ids": torch.cat([inputs["token_type_ids"], zeros], dim=1),
            }
        return self.model(input_ids=ids, use_cache=False, **more).logits[0].float()

    def greedy(self, inputs: dict, stop: bool, steps: int = STEPS) -> dict:
        out = {"greedy": [], "logprobs": [], "top5": []}
        for _ in range(steps):
            last = self.logits(inputs, out["greedy"])[-1]
            logprobs = torch.log_softmax(last.double(), dim=-1)
            best = torch.topk(logprobs, 5)
            if best.values[0] - best.values[1] < MARGIN:
                raise CloseCall(f"{float(best.values[0] - best.values[1]):.1e}")
            token = int(best.indices[0])
            out["greedy"].append(token)
            out["logprobs"].append(round(float(best.values[0]), 6))
            out["top5"].append([[int(i), round(float(v), 6)] for i, v in zip(best.indices, best.values)])
            if stop and token in self.stops:
                break
        return out

    def check_generate(self, inputs: dict, greedy: list[int]) -> None:
        """transformers' own loop, with its cache, must choose the same tokens."""
        made = self.model.generate(
            **inputs, max_new_tokens=len(greedy), min_new_tokens=len(greedy), do_sample=False, eos_token_id=-1,
            pad_token_id=0, top_k=None, top_p=None,
        )  # fmt: skip
        got = made[0, inputs["input_ids"].shape[1] :].tolist()
        if got != greedy:
            raise AssertionError(f"generate disagrees: {got} {greedy}")

    @torch.no_grad()
    def features(self, pixels: torch.Tensor) -> list[dict]:
        """For each image the network saw: its 8-bit pixels' hash, and the projector's first and last row."""
        out = []
        for image in pixels:
            rows = self.model.get_image_features(image[None]).pooler_output[0]
            eight = torch.round((image * 0.5 + 0.5) * 255).clamp(0, 255).to(torch.uint8)
            out.append(
                {
                    "sha256": hashlib.sha256(eight.permute(1, 2, 0).contiguous().numpy().tobytes()).hexdigest(),
                    "first": rounded(rows[0], 5),
                    "last": rounded(rows[-1], 5),
                }
            )
        return out

    def run(self, case: dict) -> dict:
        prompt, inputs, names = self.inputs(case)
        ids = inputs["input_ids"][0].tolist()
        logprobs = torch.log_softmax(self.logits(inputs, []).double(), dim=-1)
        out = dict(case)
        out["prompt"] = prompt
        out["images"] = names
        out["input_ids"] = ids
        if self.images:
            token = self.model.config.image_token_index
            out["image_positions"] = spans([i for i, t in enumerate(ids) if t == token])
        # The first token has no prefix; the others follow.
        out["prompt_logprobs"] = rounded(logprobs[range(len(ids) - 1), ids[1:]])
        out |= self.greedy(inputs, case.get("stop", False))
        self.check_generate(inputs, out["greedy"])
        out["reply"] = self.tokenizer.decode([t for t in out["greedy"] if t < len(self.tokenizer)], skip_special_tokens=True)
        if "pixel_values" in inputs:
            out["image_features"] = self.features(inputs["pixel_values"])
        return out


def spans(positions: list[int]) -> list[list[int]]:
    """[first, length] of each run of consecutive positions."""
    out = []
    for p in positions:
        if out and p == out[-1][0] + out[-1][1]:
            out[-1][1] += 1
        else:
            out.append([p, 1])
    return out


def versions() -> dict:
    return {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "dtype": "float32",
        "attention": "eager",
    }


def write(path: pathlib.Path, head: dict, cases: list[dict]) -> None:
    """One case a line."""
    head = {"reference": versions()} | head
    lines = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    path.write_text(json.dumps(head, ensure_ascii=False)[:-1] + ',\n"cases": [\n' + lines + "\n]}\n")
