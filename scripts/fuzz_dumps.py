"""Fuzz what reads dumps, guided by coverage: atheris, in this process, one kind of file at a time.

pip install atheris
python scripts/fuzz_dumps.py core --minutes 10
python scripts/fuzz_dumps.py lime --minutes 10 --keep build/fuzz/lime

Inputs begin with those of tests/inspect/corpus and what --keep holds from before. Each is opened as a file of its kind
is, and what it says to have is read. What raises anything but one sentence (`SourceError`), takes longer than 10 s or
more than 2 GiB ends the run and is kept. `--minimise` puts the smallest inputs with the same coverage into
tests/inspect/corpus.
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "tests" / "inspect" / "corpus"
KINDS = ("core", "lime", "avml", "gzip")
_LONGEST = {"core": 4096, "lime": 1024, "avml": 2048, "gzip": 1024}
_HANG_S, _MOST_MIB = 10, 2048
_UNPACKED = 4 << 20
"""Limit: bytes that may come out of a packed input."""


def look(data: bytes, kind: str) -> None:
    """Open an input and read what it says to have.

    Raises:
        AssertionError: what is read is not what is said.
    """
    from stage2.errors import SourceError
    from stage2.inspect.file_bytes import FileBytes
    from stage2.inspect.opened import read_file

    if kind == "gzip":
        file = FileBytes.of("dump", data)
    else:
        # Most of what chance makes has no magic number, and would end there.
        magic = {"core": b"\x7fELF", "lime": b"EMiL", "avml": b"AVML"}[kind]
        file = FileBytes.of("dump", magic + data[4:])
    problem = ""
    try:
        with read_file(file, limit=_UNPACKED) as source:
            spans = source.ranges()
            assert all(one.end < other.start for one, other in pairwise(spans)), "ranges meet"
            assert source.registers() is not None
            for span in spans[:8]:
                assert source.contains(span.start, span.size)
                size = min(span.size, 4096)
                read = source.read(span.start, size)
                assert len(read) == size
                assert source.bytes_at(span.end - 1, 2) is None or span.end in {other.start for other in spans}
                if size >= 16:
                    rows = source.tables(np.array([span.start, span.start + size - 8], np.uint64), 1)
                    assert rows[0, 0] == source.word_at(span.start)
                    assert rows[1, 0].tobytes() == read[-8:]
    except SourceError as error:
        problem = str(error)
    assert "\n" not in problem, "a sentence is one line"


def seeds(kind: str) -> list[bytes]:
    """Inputs to begin with, beside those that are kept."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "inspect")]
    import made_dumps as made

    body = made.page(1)[:64]
    notes = made.note("CORE", 1, bytes(376)) + made.note("VMCOREINFO", 0, b"OSRELEASE=6.1\n")
    headers = [
        made.segment(0, len(notes), 232, kind=made.NOTE),
        made.segment(0x8000_0000, 64, 232 + len(notes), virtual=1 << 63),
        made.segment(0x8000_0020, 64, 232 + len(notes), memory=4096),
    ]
    core = made.core(headers, notes + body)
    many = made.core(headers, bytes(44) + b"\3\0\0\0" + bytes(16) + body, count=0xFFFF, sections=232)
    lime = made.lime(0x1000, body) + made.lime(0x8000_0000, body)
    noise = random.Random(1).randbytes(64)
    found = {
        "core": [core, many, made.core(headers, notes + body, machine=62)],
        "lime": [lime, lime[:-70]],
        "avml": [made.avml(0x1000, b"\xff\x06\0\0sNaPpY\x01\x44\0\0" + bytes(4) + body, 64) + lime],
        "gzip": [gzip.compress(core, mtime=0), gzip.compress(lime, mtime=0), gzip.compress(noise, mtime=0)],
    }
    if kind == "avml":
        import cramjam

        stream = bytes(cramjam.snappy.compress(made.page(2)))
        found["avml"] += [made.avml(0x1000, stream, 4096), made.avml(0x1000, stream, 4096) + lime]
    return found[kind]


def fuzz(kind: str, arguments: list[str]) -> None:
    """Run atheris, which does not come back."""
    import atheris

    with atheris.instrument_imports(include=["stage2.inspect"]):
        import stage2.inspect.opened  # noqa: F401

    def one(data: bytes) -> None:
        look(data, kind)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, by the clock (default 1)")
    parser.add_argument("--seed", type=int, default=1, help="of chance (default 1)")
    parser.add_argument("--keep", type=Path, default=None, help="inputs found (default build/fuzz/dumps/KIND)")
    parser.add_argument("--minimise", action="store_true", help="into tests/inspect/corpus instead of a run")
    parser.add_argument("--within", nargs="*", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within is not None:
        fuzz(options.kind, [f"-{word}" if "=" in word else word for word in options.within])
    kept = options.keep or ROOT / "build" / "fuzz" / "dumps" / options.kind
    corpus = CORPUS / options.kind
    for folder in (kept, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    words = [f"max_len={_LONGEST[options.kind]}", f"rss_limit_mb={_MOST_MIB}"]
    if options.minimise:
        with tempfile.TemporaryDirectory() as name:
            code = _run(options.kind, [*words, "merge=1", name, str(corpus), str(kept)])
            if code == 0:
                for old in corpus.iterdir():
                    old.unlink()
                for number, new in enumerate(sorted(Path(name).iterdir(), key=lambda file: file.stat().st_size)):
                    (corpus / f"{number:03}").write_bytes(new.read_bytes())
        return code
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
