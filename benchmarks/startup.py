"""How long a person waits before anything happens: importing the package, and the help of the command line.

    python benchmarks/startup.py [--runs 10]

Each figure is the quickest of several fresh processes; the ratio is against an empty Python on the same machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

CASES = {
    "python -c pass": ["-c", "pass"],
    "import opensama": ["-c", "import opensama"],
    "opensama --version": ["-m", "opensama.apps.cli", "--version"],
    "opensama --help": ["-m", "opensama.apps.cli", "--help"],
    "opensama edit --help": ["-m", "opensama.apps.cli", "edit", "--help"],
    "opensama edit no-such-file.mp4 x": ["-m", "opensama.apps.cli", "edit", "no-such-file.mp4", "x"],
}


def measure(arguments: list[str], runs: int) -> float:
    """Seconds of the quickest of `runs` fresh interpreters."""
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True)
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description="Times of import and help.")
    parser.add_argument("--runs", type=int, default=10, help="fresh processes for each case")
    runs = parser.parse_args().runs
    print("| what | seconds | times an empty Python |\n|---|---:|---:|")
    empty = None
    for name, arguments in CASES.items():
        seconds = measure(arguments, runs)
        empty = empty or seconds
        print(f"| `{name}` | {seconds:.3f} | {seconds / empty:.1f} |")


if __name__ == "__main__":
    main()
