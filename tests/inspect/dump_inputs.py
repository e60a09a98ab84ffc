"""Dumps for the fuzzer to begin with, and what must be true of every one, however damaged. scripts/fuzz_dumps.py"""

from __future__ import annotations

import gzip
import random
from itertools import pairwise
from pathlib import Path

import made_dumps as made
import numpy as np

from stage2.errors import SourceError
from stage2.inspect.file_bytes import FileBytes
from stage2.inspect.opened import read_file

CORPUS = Path(__file__).parent / "corpus"
MAGIC = {"core": b"\x7fELF", "lime": b"EMiL", "avml": b"AVML", "gzip": b""}
"""Kinds of files, and what each begins with: most of what chance makes begins otherwise, and would end there."""
_UNPACKED = 4 << 20
"""Limit: bytes that may come out of a packed input."""


def look(data: bytes, kind: str | None = None) -> None:
    """Open an input and read what it says to have; to be refused in a sentence is as good.

    Args:
        data: it.
        kind: a key of `MAGIC`, which it is then made to begin as.

    Raises:
        AssertionError: what is read is not what is said, or the sentence is none.
    """
    magic = MAGIC.get(kind or "", b"")
    problem = ""
    try:
        with read_file(FileBytes.of("dump", magic + data[len(magic) :]), limit=_UNPACKED) as source:
            spans = source.ranges()
            assert spans
            assert all(one.end < other.start for one, other in pairwise(spans)), "ranges are in order, and joined"
            assert sum(span.size for span in spans) <= max(len(data) * 100, 4 * _UNPACKED)
            for cpu in source.registers():
                assert all(0 <= value < 1 << 64 for value in cpu.values.values())
            for span in spans[:8]:
                assert source.contains(span.start, span.size)
                size = min(span.size, 4096)
                read = source.read(span.start, size)
                assert len(read) == size
                assert source.bytes_at(span.end - 1, 2) is None, "a hole follows each range"
                if size >= 16:
                    rows = source.tables(np.array([span.start, span.start + size - 8], np.uint64), 1)
                    assert rows[0, 0] == source.word_at(span.start)
                    assert rows[1, 0].tobytes() == read[-8:]
    except SourceError as error:
        problem = str(error)
    assert "\n" not in problem, "a sentence is one line"


def seeds(kind: str) -> list[bytes]:
    """Inputs of a kind to begin with."""
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
