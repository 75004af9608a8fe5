"""The networks and their weights: no pipeline, no data, no training.

    families/            one typed value a family: all that sets the families apart
    sama.py, bernini.py, icve.py   the transformers, on diffusers' blocks; wan.py, rotary.py: what those on Wan share
    tiny.py, semantic.py           the embedded models' other parts
    registry.py          models by name, with their defaults and what they were taught
    weights.py, convert.py, lora.py   the released names of weights and ours, both ways
    attention.py, parallel.py, acceleration.py   done to a model from outside
    costs.py             operations and memory, by arithmetic

Sampling is in `pipeline`, losses are in `flow` and `training`.
"""
