"""Where people and programs come in: one file a command, each a thin call into the rooms below.

    cli.py        the list of commands, and how errors end             options.py, progress.py   what commands share
    edit.py       opensama edit; edit_checks.py: what it refuses        doctor.py                 what will run here
    *_report.py, *.html   pages that a browser shows                    reference.py              docs/commands.md

No model, loss or metric lives here, and nothing below imports from here.
"""
