"""Options that every command has in one form.

`--out`, `--output` and `-o` are one: the file or the folder that a command writes. What is there is never replaced
unless `--overwrite` says so. A run's folder is gone on with where the command says that it goes on (`train --resume`,
benchmarks, curation, reproduction).
"""

from __future__ import annotations

from cyclopts import Parameter

OUT = Parameter(name=["--out", "--output", "-o"])
OVERWRITE = Parameter(negative=())
