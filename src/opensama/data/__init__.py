"""Training data on disk: from the tables that people publish to items that a training step reads.

    manifest.py                    one record for clips and pairs; every other file here makes or reads these
    datasets.py, importing.py      published datasets, by way of tables.py, rows.py, archives.py and locate.py
    samples.py, item_reader.py     rows of a manifest as samples of one shape a batch
    latents.py, shards.py          the same encoded beforehand, and files packed into few large ones
    prefetch.py                    reading ahead

Batches with noise, and what is learnt from them, are in `training`; making data of raw videos is in `curation`.
"""
