"""Two states of the sources side by side: the rows of `benchmarks` and the figure of `benchmarks.edits`, in turns.

Run with `python -m benchmarks.compare OLD NEW [--rounds N] [--formats NAME ...]`, where OLD and NEW are folders that
hold a `src`. Both run this folder's benchmarks, one after the other in every round, so that what else the machine does
meets both. The figures are CPU times; to read are the ratios, new over old: of the rounds' medians, and of their best.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

Key = tuple[str, str]
"""(format, figure)."""
HERE = Path(__file__).resolve().parent.parent


def program(source: Path, *arguments: str) -> str:
    """What a benchmark prints, run on the sources of a folder with a kernel cache of their own there."""
    environment = os.environ | {
        "PYTHONPATH": str(source / "src"),
        "STAGE2_CACHE": str(source / ".benchmark-cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, cwd=HERE, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def figures(source: Path, formats: list[str], edits: int, match: str) -> dict[Key, float]:
    """The CPU time of every row, median of its runs."""
    found: dict[Key, float] = {}
    with tempfile.TemporaryDirectory() as held:
        file = Path(held) / "rows.json"
        program(source, "benchmarks", "--only", "rows", "--json", str(file), "--match", match, "--formats", *formats)
        for row in json.loads(file.read_text())["rows"]:
            found[row["format"], row["name"]] = row["ours"]
    if edits:
        text = program(source, "benchmarks.edits", "--edits", str(edits), "--formats", *formats)
        for name, each in re.findall(r"^(\S+): .* pages, (\d+) us an edit", text, re.MULTILINE):
            found[name, f"{edits} random edits"] = float(each)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="how often each runs (default 5)")
    parser.add_argument("--edits", type=int, default=3000, help="random edits (default 3000; 0 for none)")
    parser.add_argument("--match", default="", help="only rows whose name has this in it")
    parser.add_argument("--formats", nargs="+", default=["ept4", "sv39x4", "arm-s2-4k-40"])
    arguments = parser.parse_args()
    sources = arguments.old.resolve(), arguments.new.resolve()
    seen: list[dict[Key, list[float]]] = [defaultdict(list), defaultdict(list)]
    for _ in range(arguments.rounds):
        for side, source in enumerate(sources):
            for key, cost in figures(source, arguments.formats, arguments.edits, arguments.match).items():
                seen[side][key].append(cost)
    print(f"{'figure':34} {'format':14} {'old':>10} {'new':>10} {'ratio':>6} {'of the best':>11}")
    for key in seen[0]:
        old, new = (statistics.median(side[key]) for side in seen)
        best = min(seen[1][key]) / min(seen[0][key])
        print(f"{key[1]:34} {key[0]:14} {old:10.3f} {new:10.3f} {new / old:6.2f} {best:11.2f}")


if __name__ == "__main__":
    main()
