"""Fuzz what reads dumps, guided by coverage: atheris, in this process, one kind of file at a time.

pip install atheris
python scripts/fuzz_dumps.py core --minutes 10
python scripts/fuzz_dumps.py lime --minutes 10 --keep build/fuzz/lime

Inputs begin with those of tests/inspect/corpus and what --keep holds from before. Each is opened as a file of its kind
is, and what it says to have is read. What raises anything but one sentence (`SourceError`), takes longer than 10 s or
more than 2 GiB ends the run and is kept. `--save` puts what was found into tests/inspect/corpus: of inputs that
reach the same the engine keeps the shortest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
_LONGEST = {"core": 4096, "lime": 1024, "avml": 2048, "gzip": 1024}
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "inspect")]
_HANG_S, _MOST_MIB = 10, 2048


def fuzz(kind: str, arguments: list[str]) -> None:
    """Run atheris, which does not come back."""
    import atheris

    with atheris.instrument_imports(include=["stage2.inspect"]):
        from dump_inputs import look

    atheris.Setup([sys.argv[0], *arguments], partial(look, kind=kind))
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(_LONGEST))
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, by the clock (default 1)")
    parser.add_argument("--seed", type=int, default=1, help="of chance (default 1)")
    parser.add_argument("--keep", type=Path, default=None, help="inputs found (default build/fuzz/dumps/KIND)")
    parser.add_argument("--save", action="store_true", help="what was found into tests/inspect/corpus, and end")
    parser.add_argument("--within", nargs="*", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within is not None:
        fuzz(options.kind, [f"-{word}" if "=" in word else word for word in options.within])
    kept = options.keep or ROOT / "build" / "fuzz" / "dumps" / options.kind
    corpus = ROOT / "tests" / "inspect" / "corpus" / options.kind
    for folder in (kept, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    words = [f"max_len={_LONGEST[options.kind]}", f"rss_limit_mb={_MOST_MIB}"]
    if options.save:
        found = sorted((file.read_bytes() for file in kept.iterdir()), key=lambda data: (len(data), data))
        for old in corpus.iterdir():
            old.unlink()
        for number, data in enumerate(found):
            (corpus / f"{number:03}").write_bytes(data)
        return 0
    from dump_inputs import seeds

    for number, data in enumerate(seeds(options.kind)):
        (kept / f"seed-{number}").write_bytes(data)
    words += [f"max_total_time={int(60 * options.minutes)}", f"timeout={_HANG_S}", f"seed={options.seed}"]
    words += [f"artifact_prefix={kept.parent}/{options.kind}-", "print_final_stats=1", str(kept), str(corpus)]
    return _run(options.kind, words)


def _run(kind: str, words: list[str]) -> int:
    """Run atheris in a process of its own: its engine ends the one that it runs in."""
    command = [sys.executable, __file__, kind, "--within", *words]
    return subprocess.run(command, env=os.environ | {"PYTHONWARNINGS": "ignore"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
