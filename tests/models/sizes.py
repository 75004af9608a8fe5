"""The smallest SAMA transformer that has every part, for tests."""

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
