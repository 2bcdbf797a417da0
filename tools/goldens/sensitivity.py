"""Shows that the goldens can tell right from wrong: what each known mistake would change.

    python tools/goldens/sensitivity.py tiny-mm tiny-mm16 tiny-text

For every mistake it runs the checkpoint with it and prints the largest change of a prompt's log-probability over all
cases, and in how many cases the first greedy token changes. A mistake that changes next to nothing needs another
checkpoint. The first line is the noise of float32 itself, measured against float64: the goldens hold to that.
"""

import json
import sys

import torch
from transformers.models.gemma3 import modeling_gemma3

from models import TESTDATA
from reference import Reference

masks = modeling_gemma3.create_masks_for_vision_model


def with_config(**changes):
    def apply(ref):
        for key, value in changes.items():
            setattr(ref.model.config.get_text_config(), key, value)

    return apply


def window(delta: int):
    return lambda ref: with_config(sliding_window=ref.model.config.get_text_config().sliding_window + delta)(ref)


def text_model(ref):
    return ref.model.model.language_model if ref.images else ref.model.model


def rope(layer_type: str, factor: float):
    def apply(ref):
        name = f"{layer_type}_inv_freq"
        rotary = text_model(ref).rotary_emb
        setattr(rotary, name, getattr(rotary, name) * factor)

    return apply


def local_theta(ref):
    rotary = text_model(ref).rotary_emb
    rotary.sliding_attention_inv_freq = rotary.full_attention_inv_freq


def score_scale(ref):
    for layer in text_model(ref).layers:
        layer.self_attn.scaling = layer.self_attn.head_dim**-0.5


def shifted_pattern(ref):
    config = ref.model.config.get_text_config()
    config.layer_types = ["full_attention" if i % 6 == 0 else "sliding_attention" for i in range(config.num_hidden_layers)]
    for layer, kind in zip(text_model(ref).layers, config.layer_types):
        layer.self_attn.layer_type = kind


def embedding(scale):
    def apply(ref):
        table = text_model(ref).embed_tokens
        table.embed_scale = torch.tensor(scale(float(table.embed_scale)))

    return apply


def image_blocks(change):
    def apply(ref):
        def made(block_sequence_ids, **kwargs):
            return masks(block_sequence_ids=change(block_sequence_ids), **kwargs)

        modeling_gemma3.create_masks_for_vision_model = made

    return apply


def image_mask_on(kept: str):
    """The image mask on layers of one type alone."""

    def apply(ref):
        def made(block_sequence_ids, **kwargs):
            out = masks(block_sequence_ids=torch.full_like(block_sequence_ids, -1), **kwargs)
            return out | {kept: masks(block_sequence_ids=block_sequence_ids, **kwargs)[kept]}

        modeling_gemma3.create_masks_for_vision_model = made

    return apply


def image_over_window(ref):
    """(causal AND window) OR same image, as transformers had it until its pull request 46850."""

    def made(block_sequence_ids, **kwargs):
        out = masks(block_sequence_ids=block_sequence_ids, **kwargs)
        b = block_sequence_ids[0]
        same = (b[:, None] == b[None, :]) & (b[:, None] >= 0)
        sliding = out["sliding_attention"].clone()
        sliding[0, 0][same] = 0
        return out | {"sliding_attention": sliding}

    modeling_gemma3.create_masks_for_vision_model = made


def scaled_features(ref):
    projector = ref.model.model.multi_modal_projector
    projector.mm_input_projection_weight.data *= float(text_model(ref).embed_tokens.embed_scale)


class Pick(torch.nn.Module):
    """Takes each square's first patch."""

    def __init__(self, kernel: int):
        super().__init__()
        self.kernel = kernel

    def forward(self, x):
        return x[:, :, :: self.kernel, :: self.kernel]


def picking_pool(ref):
    projector = ref.model.model.multi_modal_projector
    projector.avg_pool = Pick(projector.kernel_size)


MISTAKES = {
    "none (float64)": lambda ref: ref.model.double(),
    "window one short": window(-1),
    "window one long": window(+1),
    "no window": window(10**6),
    "RoPE factor left out": rope("full_attention", 8.0),
    "RoPE factor on local layers too": rope("sliding_attention", 0.125),
    "global theta on local layers": local_theta,
    "scores scaled by head_dim": score_scale,
    "global layers at i % 6 == 0": shifted_pattern,
    "embedding scale rounded to bf16": embedding(lambda s: float(torch.tensor(s).bfloat16())),
    "embedding not scaled": embedding(lambda s: 1.0),
}
IMAGE_MISTAKES = {
    "no image mask": image_blocks(lambda b: torch.full_like(b, -1)),
    "all images in one block": image_blocks(lambda b: torch.where(b >= 0, 0, b)),
    "image mask on global layers only": image_mask_on("full_attention"),
    "image mask on local layers only": image_mask_on("sliding_attention"),
    "image mask wider than the window": image_over_window,
    "image features scaled": scaled_features,
    "pooling by picking": picking_pool,
}


@torch.no_grad()
def compare(name: str) -> None:
    folder = TESTDATA / name
    goldens = json.loads((folder / "goldens.json").read_text())["cases"]
    known = Reference(folder)
    for title, spoil in (MISTAKES | (IMAGE_MISTAKES if known.images else {})).items():
        ref = Reference(folder)
        spoil(ref)
        worst, turned, cases = 0.0, 0, 0
        for case in goldens:
            if title in IMAGE_MISTAKES and not case["images"]:
                continue
            _, inputs, _ = ref.inputs(case)
            if title.endswith("(float64)") and "pixel_values" in inputs:
                inputs["pixel_values"] = inputs["pixel_values"].double()
            ids = inputs["input_ids"][0]
            logprobs = torch.log_softmax(ref.logits(inputs, []).double(), dim=-1)
            got = logprobs[range(len(ids) - 1), ids[1:]]
            worst = max(worst, float((got - torch.tensor(case["prompt_logprobs"])).abs().max()))
            turned += int(logprobs[-1].argmax()) != case["greedy"][0]
            cases += 1
        modeling_gemma3.create_masks_for_vision_model = masks
        print(f"{name}: {title:34} Δ logprob {worst:9.6f}   first token differs in {turned}/{cases}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        compare(name)
