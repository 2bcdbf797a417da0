"""Gemma 3 with its SigLIP tower, written for training: the parameters have the hub's names, so that `state_dict` is a
checkpoint; check.py compares its logits with transformers'.

Several conversations share a row of tokens. Positions run through the row (RoPE only sees differences); a mask keeps
conversations apart and lets the tokens of one image see each other.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from settings import CONFIG, IMAGE_TOKEN, WINDOW

TEXT, VISION = CONFIG["text_config"], CONFIG["vision_config"]
DIM, LAYERS, HEADS, KV, HEAD = (
    TEXT[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
)


def is_global(layer: int) -> bool:
    return (layer + 1) % TEXT["sliding_window_pattern"] == 0


class RMSNorm(nn.Module):
    def __init__(self, dim: int, start: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)).type_as(x)


def linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def rope_tables(positions: torch.Tensor, theta: float, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin `[tokens, HEAD]` in float32."""
    steps = torch.arange(0, HEAD, 2, device=positions.device, dtype=torch.float32) / HEAD
    angles = positions.float()[:, None] / (factor * theta**steps)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    y = x.float()
    half = HEAD // 2
    turned = torch.cat([-y[..., half:], y[..., :half]], dim=-1)
    return (y * cos + turned * sin).type_as(x)


def attend(q, k, v, mask) -> torch.Tensor:
    """`mask` is a flex BlockMask, or a boolean tensor `[batch, 1, queries, keys]`."""
    if isinstance(mask, torch.Tensor):
        k, v = k.repeat_interleave(HEADS // KV, 1), v.repeat_interleave(HEADS // KV, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=HEAD**-0.5)
    return flex_attention(q, k, v, block_mask=mask, scale=HEAD**-0.5, enable_gqa=True)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.o_proj = linear(DIM, HEADS * HEAD), linear(HEADS * HEAD, DIM)
        self.k_proj, self.v_proj = linear(DIM, KV * HEAD), linear(DIM, KV * HEAD)
        self.q_norm, self.k_norm = RMSNorm(HEAD), RMSNorm(HEAD)

    def qkv(self, x, cos, sin) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shape = (*x.shape[:2], -1, HEAD)
        q = rotate(self.q_norm(self.q_proj(x).view(shape)).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(self.k_proj(x).view(shape)).transpose(1, 2), cos, sin)
        return q, k, self.v_proj(x).view(shape).transpose(1, 2)

    def out(self, y: torch.Tensor) -> torch.Tensor:
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        inner = TEXT["intermediate_size"]
        self.gate_proj, self.up_proj, self.down_proj = linear(DIM, inner), linear(DIM, inner), linear(inner, DIM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = Attention(), Mlp()
        self.input_layernorm, self.pre_feedforward_layernorm = RMSNorm(DIM), RMSNorm(DIM)
        # Branches start quiet, so that the stream begins as the embeddings.
        self.post_attention_layernorm, self.post_feedforward_layernorm = RMSNorm(DIM, -0.75), RMSNorm(DIM, -0.75)

    def forward(self, x, cos, sin, mask) -> torch.Tensor:
        q, k, v = self.self_attn.qkv(self.input_layernorm(x), cos, sin)
        return self.after(x, attend(q, k, v, mask))

    def after(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = x + self.post_attention_layernorm(self.self_attn.out(y))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class VisionAttention(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (linear(dim, dim, bias=True) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (*x.shape[:2], VISION["num_attention_heads"], -1)
        q, k, v = (p(x).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class VisionMlp(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1, self.fc2 = (
            linear(dim, VISION["intermediate_size"], True),
            linear(VISION["intermediate_size"], dim, True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VisionLayer(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.self_attn, self.mlp = VisionAttention(dim), VisionMlp(dim)
        for last in (self.self_attn.out_proj, self.mlp.fc2):
            nn.init.normal_(last.weight, std=0.3 * last.in_features**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


def sincos_2d(side: int, dim: int) -> torch.Tensor:
    """Where the learned positions start from: sines and cosines of row and column, `[side², dim]`."""
    scale = torch.exp(-math.log(side * 4) * torch.arange(dim // 4) / (dim // 4))
    angle = torch.arange(side)[:, None] * scale * 1.5
    one = torch.cat([angle.sin(), angle.cos()], dim=-1)
    rows, columns = one.repeat_interleave(side, 0), one.repeat(side, 1)
    return torch.cat([rows, columns], dim=-1)


class VisionEmbeddings(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.patch = VISION["patch_size"]
        side = VISION["image_size"] // self.patch
        self.patch_embedding = nn.Conv2d(3, dim, self.patch, self.patch)
        nn.init.normal_(self.patch_embedding.weight, std=1.5 * (3 * self.patch**2) ** -0.5)
        nn.init.zeros_(self.patch_embedding.bias)
        self.position_embedding = nn.Embedding(side * side, dim)
        with torch.no_grad():
            self.position_embedding.weight.copy_(0.5 * sincos_2d(side, dim))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        side = pixels.shape[-1] // self.patch
        patches = (
            pixels.reshape(-1, 3, side, self.patch, side, self.patch)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(-1, side * side, 3 * self.patch**2)
        )
        x = F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        return x + self.position_embedding.weight.type_as(x)


class Encoder(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(dim) for _ in range(VISION["num_hidden_layers"]))


class VisionModel(nn.Module):
    def __init__(self):
        super().__init__()
        dim = VISION["hidden_size"]
        self.embeddings, self.encoder, self.post_layernorm = (
            VisionEmbeddings(dim),
            Encoder(dim),
            nn.LayerNorm(dim, eps=1e-6),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.embeddings(pixels)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x)


class Projector(nn.Module):
    def __init__(self):
        super().__init__()
        dim = VISION["hidden_size"]
        self.mm_input_projection_weight = nn.Parameter(torch.randn(dim, DIM) * dim**-0.5)
        self.mm_soft_emb_norm = RMSNorm(dim)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image tokens `[images, tokens, DIM]`, and the normed features that they are a projection of."""
        images, patches, dim = x.shape
        side, tokens = math.isqrt(patches), math.isqrt(CONFIG["mm_tokens_per_image"])
        x = x.transpose(1, 2).reshape(images, dim, tokens, side // tokens, tokens, side // tokens).float().mean((3, 5))
        x = self.mm_soft_emb_norm(x.flatten(2).transpose(1, 2))
        return x @ self.mm_input_projection_weight, x


class TextModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(TEXT["vocab_size"], DIM)
        nn.init.normal_(self.embed_tokens.weight, std=DIM**-0.5)
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.norm = RMSNorm(DIM)


class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = TextModel()


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision_model = VisionModel()


class Gemma(nn.Module):
    def __init__(self):
        super().__init__()
        self.language_model, self.vision_tower, self.multi_modal_projector = LanguageModel(), Wrapped(), Projector()

    def compile_layers(self) -> None:
        """One compilation for all decoder layers (one more for the global mask), one for all vision layers."""
        for layer in [*self.language_model.model.layers, *self.vision_tower.vision_model.encoder.layers]:
            layer.compile()

    def see(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """8-bit pictures `[images, 3, 224, 224]` to image tokens and features."""
        scaled = pixels.float() * (2 / 255) - 1
        return self.multi_modal_projector(self.vision_tower.vision_model(scaled))

    def embed(self, ids: torch.Tensor, images: torch.Tensor | None, where: torch.Tensor | None) -> torch.Tensor:
        """Embeddings `[rows, tokens, DIM]`; `where` are the flat positions of the image tokens, in order, those past
        the end dropped."""
        # (index_select, since the gradient of an embedding waits for the CPU, which a captured graph can't.)
        x = self.language_model.model.embed_tokens.weight.index_select(0, ids.flatten()) * DIM**0.5
        if images is not None:
            room = x.new_zeros((CONFIG["mm_tokens_per_image"], DIM))
            x = torch.cat([x, room]).index_copy(0, where, images.flatten(0, 1).type_as(x))[: len(x)]
        return x.view(*ids.shape, DIM)

    def tables(self, positions: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """RoPE tables of each layer."""
        far = rope_tables(positions, TEXT["rope_theta"], TEXT["rope_scaling"]["factor"])
        near = rope_tables(positions, TEXT["rope_local_base_freq"], 1.0)
        return [far if is_global(i) else near for i in range(LAYERS)]

    def decode(self, x: torch.Tensor, everywhere, nearby) -> torch.Tensor:
        """The last hidden states, before the final norm."""
        tables = self.tables(torch.arange(x.shape[1], device=x.device))
        for i, layer in enumerate(self.language_model.model.layers):
            x = layer(x, *tables[i], everywhere if is_global(i) else nearby)
        return x

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.language_model.model
        return F.linear(inner.norm(x), inner.embed_tokens.weight.type_as(x))


def spans(document: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each token the first and the last position `[rows, tokens]` that it sees.

    `document` numbers the conversations of a row, one after another. An image's tokens see all of their image.
    """
    rows, tokens = ids.shape
    here = torch.arange(tokens, device=ids.device).expand(rows, tokens)
    begins = F.pad(document[:, 1:] != document[:, :-1], (1, 0), value=True)
    first = torch.where(begins, here, 0).cummax(1).values
    inside = ids == IMAGE_TOKEN
    ends = inside & ~F.pad(inside, (0, 1))[:, 1:]
    last = torch.where(ends, here, tokens).flip(1).cummin(1).values.flip(1)
    return first, torch.where(inside, last, here)


def between(first: torch.Tensor, last: torch.Tensor):
    """The mask as flex attention wants it. (Nothing is looked up by key: that would spill registers.)"""
    return lambda b, h, q, k: (k >= first[b, q]) & (k <= last[b, q])


def masks(first: torch.Tensor, last: torch.Tensor, flex: bool, build=create_block_mask):
    """The masks of global and of local layers."""
    rows, tokens = first.shape
    here = torch.arange(tokens, device=first.device)
    near = torch.maximum(first.int(), (here - WINDOW + 1).int())
    pairs = [(first.int(), last.int()), (near, last.int())]
    if flex:
        return tuple(build(between(*p), rows, None, tokens, tokens, device=first.device) for p in pairs)
    return tuple(((here >= a[:, :, None]) & (here <= b[:, :, None]))[:, None] for a, b in pairs)
