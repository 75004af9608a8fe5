"""The papers' claims in small: variants of SAMA and ICVE trained on a micro world, and the report about them.

    arms.py, sama.py, icve.py      what is compared, and how each is trained
    runner.py                      all runs, shared among processes, each kept
    statistics.py, tables.py, report.py   intervals, verdicts, docs/reproduction.md

The trainer is that of the large models.
"""
