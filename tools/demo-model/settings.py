"""The architecture, as the hub's config.json spells it."""

VOCAB = 2560
IMAGE_TOKEN = VOCAB - 1
WINDOW = 512
VISION_CELLS = 8  # image tokens a side

CONFIG = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": VOCAB - 4,
    "eoi_token_index": VOCAB - 3,
    "eos_token_id": [1, 106],
    "image_token_index": IMAGE_TOKEN,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 64,
    "model_type": "gemma3",
    "text_config": {
        "head_dim": 64,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "max_position_embeddings": 8192,
        "model_type": "gemma3_text",
        "num_attention_heads": 4,
        "num_hidden_layers": 12,
        "num_key_value_heads": 2,
        "query_pre_attn_scalar": 64,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "rope_theta": 1000000.0,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 6,
        "vocab_size": VOCAB,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.52.0.dev0",
    "vision_config": {
        "hidden_size": 256,
        "image_size": 224,
        "intermediate_size": 768,
        "layer_norm_eps": 1e-06,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 4,
        "num_channels": 3,
        "num_hidden_layers": 6,
        "patch_size": 14,
        "vision_use_head": False,
    },
}
