"""One loop that trains everything: editors of every family, the embedded models' parts, the reproduction's variants.

    loop.py, stage.py         the loop, and what it trains: a stage reads batches from a source and gives a loss
    edit_stage.py             the step of every editor: noise, the model's call, the losses
    sources.py, dataset.py, drawn.py   what is read: manifests, latents on disk, the drawn world
    train_editor.py           the large models, from settings to a model; loading.py, frozen.py, export.py
    tiny.py                   the embedded models; drawing.py, pool.py, windows.py, textures.py, footage.py
    parallel.py, checkpoint.py, ema.py, optim.py   shards, resuming, averages, steps
    plan.py, monitor.py       what a run will cost, and what it says while it runs

Recipes are in `recipes`; files of training data are in `data`.
"""
