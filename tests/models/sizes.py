"""The smallest transformers that have every part, for tests."""

SIZES = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
    "semantic_dim": 12,
    "semantic_hidden": 20,
    "semantic_tokens_per_anchor": 5,
    "semantic_rotary": "grid",
}

ICVE_SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "rope_axes_dim": (4, 6, 6),
    "in_channels": 4,
    "out_channels": 4,
    "text_embed_dim": 16,
    "pooled_projection_dim": 10,
    "num_layers": 2,
    "num_single_layers": 2,
    "num_refiner_layers": 1,
    "patch_size": 2,
}
"""The smallest ICVE transformer."""
