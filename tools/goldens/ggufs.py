"""GGUF files of tiny checkpoints, laid out as llama.cpp's converter does it, and their values back in float32.

Keys, tensor names, types and token types are those of convert_hf_to_gguf.py and of published Gemma 3 files: norms have
the 1 added, no sliding-window pattern, no local theta, no query_pre_attn_scalar; spaces of space runs are real spaces;
rows past the tokenizer's vocabulary are named [PADn]. Blocks are quantized by ggml itself.
"""

import ctypes
import pathlib

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

SPACE = "▁"
NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
VISION_NAMES = {
    "ln1": "layer_norm1",
    "ln2": "layer_norm2",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
VISION_TOP = {
    "v.patch_embd": "vision_tower.embeddings.patch_embedding",
    "v.position_embd": "vision_tower.embeddings.position_embedding",
    "v.post_ln": "vision_tower.post_layernorm",
    "mm.soft_emb_norm": "multi_modal_projector.mm_soft_emb_norm",
}


def ggml() -> ctypes.CDLL:
    import llama_cpp

    lib = ctypes.CDLL(str(pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return lib


def quantize(values: np.ndarray, kind: Type) -> np.ndarray:
    """A matrix's rows as blocks, by ggml: bytes `[rows, row bytes]` (values themselves for the float types)."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if kind in (Type.F32, Type.F16, Type.BF16):
        return gguf.quants.quantize(values, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, cols = values.shape
    assert cols % block == 0, (kind, cols)
    out = np.zeros((rows, cols // block * size), dtype=np.uint8)
    written = ggml().ggml_quantize_chunk(int(kind), values.ctypes.data, out.ctypes.data, 0, rows, cols, None)
    assert written == out.nbytes
    return out


def values_of(tensor) -> np.ndarray:
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


def token_type(token: str, added: dict[str, bool]) -> int:
    """As published files have it: markers and unused are control, all that is text (or an image mark) user-defined."""
    if token.startswith("<0x") and token not in added:
        return BYTE
    if token not in added:
        return NORMAL
    if token in ("<start_of_image>", "<end_of_image>", "<image_soft_token>"):
        return USER_DEFINED
    return CONTROL if added[token] or token == "<mask>" or token.startswith("<unused") else USER_DEFINED


def add_tokenizer(writer: gguf.GGUFWriter, built: dict, config: dict, rows: int, template: str) -> None:
    added = {t["content"]: t["special"] for t in built["added_tokens"]}
    ids = dict(built["model"]["vocab"]) | {t["content"]: t["id"] for t in built["added_tokens"]}
    tokens = sorted(ids, key=ids.get)
    types = [token_type(t, added) for t in tokens]
    scores, rank = [], 0
    for kind in types:
        scores.append(0.0 if kind == BYTE else -float(rank) if kind == NORMAL else -1000.0)
        rank += kind == NORMAL
    tokens = [t.replace(SPACE, " ") if k == USER_DEFINED else t for t, k in zip(tokens, types)]
    pads = range(len(tokens), rows)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens + [f"[PAD{i}]" for i in pads])
    writer.add_token_scores(scores + [-1000.0 for _ in pads])
    writer.add_token_types(types + [UNUSED for _ in pads])
    writer.add_bos_token_id(ids["<bos>"])
    writer.add_eos_token_id(ids["<eos>"])
    writer.add_unk_token_id(ids["<unk>"])
    writer.add_pad_token_id(ids["<pad>"])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(template)
    writer.add_add_space_prefix(False)


def write_text(path, name: str, text: dict, tensors: dict[str, np.ndarray], built: dict, template: str, kind_of) -> None:
    """The decoder. `tensors` are the checkpoint's, as `embed_tokens.weight`, `layers.N.…`, `norm.weight`, in float32;
    `kind_of(name)` picks the type of each matrix by its GGUF name."""
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_type("model")
    writer.add_name(name)
    writer.add_context_length(text.get("max_position_embeddings", 131072))
    writer.add_embedding_length(text["hidden_size"])
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_key_length(text["head_dim"])
    writer.add_value_length(text["head_dim"])
    writer.add_rope_freq_base(1e6)
    factor = text.get("rope_parameters", {}).get("full_attention", {}).get("factor")
    if factor is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(factor)
    writer.add_sliding_window(text["sliding_window"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    add_tokenizer(writer, built, text, len(tensors["embed_tokens.weight"]), template)
    writer.add_quantization_version(2)
    back = {v: k for k, v in NAMES.items()}
    for theirs in sorted(tensors):
        parts = theirs.split(".")
        if parts[0] == "layers":
            ours = f"blk.{parts[1]}.{back['.'.join(parts[2:-1])]}.weight"
        else:
            ours = {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[0]] + ".weight"
        values = tensors[theirs]
        if values.ndim == 1:
            writer.add_tensor(ours, values + np.float32(1))
        else:
            kind = kind_of(ours)
            writer.add_tensor(ours, quantize(values, kind), raw_dtype=kind)
    finish(writer)


def write_mmproj(path, name: str, config: dict, tensors: dict[str, np.ndarray], kind: Type = Type.F16) -> None:
    """The image encoder and projector: matrices in `kind` (the projection in F16, llama.cpp transposes it), embeddings,
    norms and biases in F32."""
    vision = config["vision_config"]
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name(name)
    writer.add_file_type({Type.F16: 1, Type.Q8_0: 7}[kind])
    writer.add_clip_has_vision_encoder(True)
    writer.add_vision_projection_dim(config["text_config"]["hidden_size"])
    writer.add_vision_image_size(vision["image_size"])
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(vision["hidden_size"])
    writer.add_vision_feed_forward_length(vision["intermediate_size"])
    writer.add_vision_block_count(vision["num_hidden_layers"])
    writer.add_vision_head_count(vision["num_attention_heads"])
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_clip_projector_type("gemma3")
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_use_gelu(True)
    # The side of the squares that are pooled; written only when it isn't 4, which no published model's is.
    pool = vision["image_size"] // vision["patch_size"] // int(config["mm_tokens_per_image"] ** 0.5)
    if pool != 4:
        writer.add_vision_projector_scale_factor(pool)
    writer.add_quantization_version(2)
    for ours, theirs in mmproj_names(vision["num_hidden_layers"]).items():
        values = tensors[theirs]
        if "soft_emb_norm" in ours:
            values = values + np.float32(1)
        if values.ndim != 2 or "position_embd" in ours:
            writer.add_tensor(ours, values.astype(np.float32))
        else:
            stored = Type.F16 if ours.startswith("mm.") else kind
            writer.add_tensor(ours, quantize(values, stored), raw_dtype=stored)
    finish(writer)


def mmproj_names(layers: int) -> dict[str, str]:
    out = {"mm.input_projection.weight": "multi_modal_projector.mm_input_projection_weight"}
    for ours, theirs in VISION_TOP.items():
        for leaf in ("weight", "bias"):
            if leaf == "weight" or ours in ("v.patch_embd", "v.post_ln"):
                out[f"{ours}.{leaf}"] = f"{theirs}.{leaf}"
    for i in range(layers):
        for ours, theirs in VISION_NAMES.items():
            for leaf in ("weight", "bias"):
                out[f"v.blk.{i}.{ours}.{leaf}"] = f"vision_tower.encoder.layers.{i}.{theirs}.{leaf}"
    return out


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def put(parameter: torch.nn.Parameter, values: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)).reshape(parameter.shape))


def load_text(model: torch.nn.Module, path, prefix: str = "model.") -> None:
    """Fills a model's text decoder with a file's values in float32 (norms without the 1 that the file adds)."""
    into = dict(model.named_parameters())
    todo = {n for n in into if n.startswith((prefix + "layers.", prefix + "norm", prefix + "embed"))}
    for tensor in gguf.GGUFReader(path).tensors:
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            name = f"{prefix}layers.{parts[1]}.{NAMES[parts[2]]}.weight"
        else:
            name = prefix + {"token_embd": "embed_tokens", "output_norm": "norm"}[parts[0]] + ".weight"
        values = values_of(tensor)
        put(into[name], values - 1 if "norm" in parts[-2] else values)
        todo.remove(name)
    assert not todo, todo


def load_mmproj(model: torch.nn.Module, path) -> None:
    """Fills a model's image encoder and projector with an mmproj file's values."""
    into = dict(model.named_parameters())
    names = mmproj_names(model.config.vision_config.num_hidden_layers)
    for tensor in gguf.GGUFReader(path).tensors:
        values = values_of(tensor)
        put(into["model." + names.pop(tensor.name)], values - 1 if "soft_emb_norm" in tensor.name else values)
    assert not names, names
