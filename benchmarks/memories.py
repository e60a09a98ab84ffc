"""All mappings of 1 GiB and of 64 GiB in 4 KiB pages that lie in a file, beside what peers take for them.

Every measurement is a process of its own that knows nothing yet; the file is in the page cache. Ways take turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .peers import PEERS, PROGRAM
from .starts import users_environment

START, TABLES_AT, DATA_AT = 1 << 39, 0x10_0000, 0x2000_0000
GIB, PAGE = 1 << 30, 0x1000
LARGE = 64
"""GiB of the large file."""
GOALS = {"1 GiB, in the process": 50.0, "1 GiB, whole command": 1000.0}
"""Milliseconds."""
MEMORY_GOAL = 2 << 30
"""Bytes that mapping the large file may take."""
_PRESENT = 0x67
_BOUND_S = 600
_IN_PROCESS = """
import sys, time
from stage2.inspect.inspection import open_memory
with open_memory(sys.argv[1], sys.argv[2], base=0) as memory:
    list(memory.map_parts())  # so that modules are there
with open_memory(sys.argv[1], sys.argv[2], base=0) as memory:
    began = time.perf_counter_ns()
    mapped = sum(int(part.size.sum()) for part in memory.map_parts())
    print((time.perf_counter_ns() - began) / 1e6, mapped)
"""
_START = """
import resource, subprocess, sys, time
began = time.perf_counter_ns()
code = subprocess.call(sys.argv[2:])
taken = time.perf_counter_ns() - began
with open(sys.argv[1], "w") as told:
    told.write(f"{taken} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}")
sys.exit(code)
"""
"""Starts a command from a process that holds next to nothing: what a parent held counts as its child's own."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """One way to list all mappings of a file.

    Args:
        name: which file, and how.
        ms: median of wall clock; None where it could not be had.
        ratio: over the whole command on the same file in the same round, median.
        memory: bytes, the most that a process had.
        runs: rounds.
        note: why there is no figure, or the version.
    """

    name: str
    ms: float | None
    ratio: float | None
    memory: int
    runs: int
    note: str = ""


def write_image(file: Path, gib: int, *, scattered: bool) -> int:
    """A sparse raw image whose x86-64 tables map so many GiB in pages of 4 KiB; the root's address."""
    last = gib * (GIB // PAGE) // 512
    middle = -(-last // 512)
    base = np.uint64(TABLES_AT)
    pages = np.arange(gib * (GIB // PAGE), dtype=np.uint64)
    if scattered:
        pages = np.random.default_rng(1).permutation(pages)
    tables = np.zeros((2 + middle + last, 512), np.uint64)
    tables[0, START >> 39] = TABLES_AT + PAGE | _PRESENT
    pointers = base + np.uint64(PAGE) * np.arange(2, 2 + middle + last, dtype=np.uint64) | np.uint64(_PRESENT)
    tables[1, :middle] = pointers[:middle]
    tables[2 : 2 + middle].reshape(-1)[:last] = pointers[middle:]
    tables[2 + middle :] = (np.uint64(DATA_AT) + pages * np.uint64(PAGE) | np.uint64(_PRESENT)).reshape(-1, 512)
    with file.open("wb") as out:
        out.truncate(DATA_AT + gib * GIB)
        out.seek(TABLES_AT)
        out.write(tables.tobytes())
    return TABLES_AT


def _timed(command: list[str]) -> tuple[float, int, str]:
    """Milliseconds, the most memory, and what a command printed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.NamedTemporaryFile("r") as told:
        starting = [sys.executable, "-I", "-S", "-c", _START, told.name, *command]
        done = subprocess.run(
            starting, stdout=out, stderr=subprocess.PIPE, text=True, env=users_environment(), check=False
        )
        if done.returncode:
            raise SystemExit(f"{command[:4]} ended with {done.returncode}: {done.stderr}")
        taken, memory = told.read().split()
        out.seek(0)
        return int(taken) / 1e6, int(memory) * 1024, out.read(200)


def mapped(runs: int, peers: Path | None) -> list[Mapped]:
    """All ways on all files.

    Args:
        runs: rounds.
        peers: the interpreter that has volatility3 and MemProcFS; None leaves them out.
    """
    found: list[Mapped] = []
    with tempfile.TemporaryDirectory() as held:
        for gib, scattered in ((1, False), (1, True), (LARGE, True)):
            image = Path(held) / f"{gib}-{scattered}.raw"
            root = write_image(image, gib, scattered=scattered)
            found += _ways(image, root, gib, "scattered" if scattered else "in order", runs, peers)
            image.unlink()
    return found


def _ways(image: Path, root: int, gib: int, order: str, runs: int, peers: Path | None) -> list[Mapped]:
    name = f"x86-4level@{root:#x}"
    command = [sys.executable, "-m", "stage2", "map", str(image), "--base", "0", "--root", name, "--csv"]
    ways = {"whole command": command, "in the process": [sys.executable, "-c", _IN_PROCESS, str(image), name]}
    question = image.with_suffix(".json")
    question.write_text(json.dumps({"image": str(image), "root": root, "start": START, "size": gib * GIB}))
    if peers is not None and gib == 1:
        ways |= {peer: [str(peers.absolute()), str(PROGRAM), peer, str(question)] for peer in PEERS}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    most, notes = dict.fromkeys(ways, 0), dict.fromkeys(ways, "")
    for _ in range(runs if gib == 1 else 1):
        for way, asked in ways.items():
            try:
                ms, memory, printed = _timed(asked)
                if way == "in the process":
                    ms, size = (float(word) for word in printed.split())
                    assert size == gib * GIB, f"{size} bytes are mapped, and {gib} GiB should be"
                elif way in PEERS:
                    answer = json.loads(printed.splitlines()[-1])
                    ms, notes[way] = answer["ms"], f"version {answer['version']}"
                    if answer["mapped"] != gib * GIB:
                        notes[way] += f", told {answer['mapped']:,} bytes"
                taken[way].append(ms)
                most[way] = max(most[way], memory)
            except (SystemExit, OSError, ValueError, IndexError) as error:
                notes[way] = str(error)[:100]
    return [
        Mapped(
            f"{gib} GiB {order}, {way}",
            statistics.median(taken[way]) if taken[way] else None,
            _ratio(taken, way),
            most[way],
            len(taken[way]),
            notes[way],
        )
        for way in ways
    ]


def _ratio(taken: dict[str, list[float]], way: str) -> float | None:
    ours = taken.get("in the process", [])
    pairs = list(zip(taken[way], ours, strict=False))
    return statistics.median(one / other for one, other in pairs) if pairs else None


def lines(found: list[Mapped]) -> list[str]:
    """The figures as a table of a page."""
    head = [
        "| mappings of | ms | over ours in the process | most memory | runs | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rows = [
        f"| {one.name} | {_figure(one.ms, 1)} | {_figure(one.ratio, 2)} | {one.memory >> 20:,} MiB | {one.runs} "
        f"| {one.note} |"
        for one in found
    ]
    return [*head, *rows, ""]


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
