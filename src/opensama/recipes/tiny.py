"""The embedded models' recipes: what `opensama train tiny` runs, for a laptop's two cores and for a quick look."""

from __future__ import annotations

from opensama.training.embedded_config import StageConfig, TinyConfig

# About an hour and a half on two cores, pools included.
LAPTOP = TinyConfig()

# From finished weights on (--start-from), over days: the world's core until it is right, four fifths of it in windows.
# Budgets are steps, since such a run shares its machine with other work; the minutes are ten times what it needs alone.
CORE = TinyConfig(
    tier="core",
    autoencoder=StageConfig(minutes=0),
    semantic=StageConfig(minutes=0),
    pictures=StageConfig(minutes=250, max_steps=300, lr=6e-4, muon=1.2e-3, decay=0.0, measure_every=15),
    windows=StageConfig(minutes=10_000, max_steps=12_000, lr=6e-4, muon=1.2e-3, decay=0.0, measure_every=15),
    images=StageConfig(minutes=2_500, max_steps=3_000, lr=6e-4, muon=1.2e-3, decay=1.0, measure_every=15),
    videos=StageConfig(minutes=1_250, max_steps=1_500, lr=4e-4, muon=8e-4, decay=1.0, measure_every=15),
    semantic_rotary="zero",
    color_rank=96,
    color_shapes=2,
    frame_waves=8,
    chunk=640,
    image_batch=32,
    shift=24.0,
    word_dropout=0.15,
    video_stills=0.5,
    video_windows=0.75,
)

# From finished weights on: the autoencoder's decoder alone. An editor stays right with it, since the code is fixed.
DECODER = TinyConfig(
    **{name: StageConfig(minutes=0) for name in ("autoencoder", "semantic", "images", "videos")},
    decoder=LAPTOP.decoder.model_copy(update={"minutes": 60}),
    decoder_answers=4,
)

# The same on a GPU for minutes: batches of thousands, and the machine's other cores draw.
CORE_GPU = CORE.model_copy(
    update={
        "pictures": StageConfig(minutes=0.5, lr=1e-3, muon=2e-3, decay=0.0, ema=0.98),
        "windows": StageConfig(minutes=4.0, lr=1e-3, muon=2e-3, decay=0.0, ema=0.99, measure_every=2),
        "images": StageConfig(minutes=1.5, lr=1e-3, muon=2e-3, decay=1.0, ema=0.98, measure_every=2),
        "videos": StageConfig(minutes=0),
        "picture_batch": 2048,
        "window_batch": 4096,
        "image_batch": 1024,
        "chunk": 4096,
        "chunk_steps": 120,
        "workers": 14,
    }
)

# The whole path in about a minute: it proves that everything works and teaches nothing.
SMOKE = TinyConfig(
    autoencoder=StageConfig(minutes=5, max_steps=3),
    semantic=StageConfig(minutes=5, max_steps=3),
    images=StageConfig(minutes=5, max_steps=3),
    videos=StageConfig(minutes=5, max_steps=2),
    width=64,
    layers=2,
    text_width=32,
    text_layers=1,
    semantic_width=32,
    texts=300,
    drawings=16,
    textures=4,
    image_edits=16,
    video_edits=8,
    image_batch=8,
    video_batch=2,
    pretext_clips=8,
)

# The embedded ICVE, beside the embedded SAMA's frozen parts: unpaired clips first, then edits.
ICVE = TinyConfig(
    family="icve",
    pretrain=StageConfig(minutes=18, lr=1e-3, muon=2e-3, decay=0.2),
    images=StageConfig(minutes=60, lr=1e-3, muon=2e-3),
    videos=StageConfig(minutes=18, lr=6e-4, muon=1.2e-3, decay=0.6),
    width=160,
    head=80,
    layers=4,
    joint_layers=1,
    pretext=0.0,
)
# The same from finished weights on, as `CORE` is for the embedded SAMA.
ICVE_CORE = CORE.model_copy(
    update={
        "family": "icve",
        **{name: getattr(ICVE, name) for name in ("width", "head", "layers", "joint_layers", "pretext")},
        "pictures": StageConfig(minutes=0),
        "objects": 0.06,
        "full_share": 0.25,
    }
)
ICVE_SMOKE = SMOKE.model_copy(
    update={
        "family": "icve",
        "pretrain": StageConfig(minutes=5, max_steps=2),
        "text_width": 128,  # the embedded SAMA's
        "semantic_width": 96,
        "unpaired_stills": 16,
        "unpaired_clips": 4,
        "pretext": 0.0,
        "layers": 1,
    }
)

RECIPES = {
    "tiny": LAPTOP,
    "core": CORE,
    "core-gpu": CORE_GPU,
    "decoder": DECODER,
    "smoke": SMOKE,
    "icve": ICVE,
    "icve-core": ICVE_CORE,
    "icve-smoke": ICVE_SMOKE,
}
