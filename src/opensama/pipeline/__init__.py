"""From a request to an edited video.

    editor.py            load() and Editor: what `opensama.edit` calls
    request_checks.py, room.py, advice.py   what is said before a model is loaded, and after
    diffusion.py         the sampling that all families share; sama.py, bernini.py, icve.py: what each adds
    guidance.py          which forward passes a step makes, and how they are combined; wan.py: Wan's text encoder
    windows.py           long clips                 preserve.py, masks.py, changes.py   pixels that stay as they were
    assemble.py, memory.py   building a pipeline, and where its weights lie

Files of videos are read and written in `media`; the networks are in `models`.
"""
