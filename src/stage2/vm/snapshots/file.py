"""Snapshots as files.

A file is a first block of 4096 bytes, then the pages, each 4096 bytes, then a description in JSON:

* The block begins with one line of text, `stage2-snapshot 1 AT SIZE SHA256`: the version of the format, where in the
  file the description begins (a multiple of 4096), its bytes, and its SHA-256 in hexadecimal. Zeros follow.
* The pages stand in the order of the description's `pages`, runs of [first GPA, number of pages]; a run whose GPA is
  null stands for pages of the file that mean nothing. Their SHA-256, those included, is in `sha256`.
* `leaves` are runs of [first GPA, leaf size, number of leaves]; registers are hexadecimal text.

A file comes from anywhere: sizes and sums are checked before anything is believed, and values again by the machine that
is to hold them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import SnapshotError, Stage2Error
from ...flags import MappingFlags, MapType
from ...tables.mapping import U64Array
from ...whole_file import written_whole
from .machine import MachineState
from .pages import PAGE, Bytes, Pages
from .snapshot import RegionShape, Snapshot, VmState

MAGIC = "stage2-snapshot"
VERSION = 1
_LONGEST_DESCRIPTION = 256 << 20
_PIECE = 4 << 20
NO_GPA = (1 << 64) - 1
"""In an array of GPAs: a page of the file that means nothing."""


def write_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Write a file, whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    with written_whole(path) as file:
        file.seek(PAGE)
        for piece in snapshot.pages.pieces():
            file.write(piece.data)
        finish(file, snapshot.state, snapshot.pages.gpas)


def finish(file: BinaryIO, state: VmState, gpas: U64Array) -> None:
    """Write what stands around the pages, which are in the file already.

    Args:
        file: readable too.
        state: all that they are not.
        gpas: of each page of the file, in its order; `NO_GPA` for none.
    """
    at = PAGE * (1 + len(gpas))
    digest = hashlib.sha256()
    file.seek(PAGE)
    for piece in _pieces(file, at - PAGE):
        digest.update(piece)
    text = json.dumps(_described(state, gpas, digest.hexdigest()), separators=(",", ":")).encode()
    file.seek(at)
    file.write(text)
    file.seek(0)
    line = f"{MAGIC} {VERSION} {at} {len(text)} {hashlib.sha256(text).hexdigest()}\n"
    file.write(line.encode().ljust(PAGE, b"\0"))


def read_snapshot(path: Path) -> Snapshot:
    """Read a file.

    Raises:
        SnapshotError: it is not there, no snapshot, of another version, or damaged.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror}") from None
    except SnapshotError as error:
        raise SnapshotError(f"{path}: {error}") from None
    except MemoryError:
        raise SnapshotError(f"{path}: there is not enough memory to read it") from None


# --- writing -------------------------------------------------------------------------------------------------


def _runs(firsts: U64Array, step: int) -> list[tuple[int, int]]:
    """Addresses at equal distances joined: first, and how many."""
    if not len(firsts):
        return []
    cut = np.flatnonzero(firsts[1:] - firsts[:-1] != np.uint64(step)) + 1
    begin, end = np.concatenate(([0], cut)), np.concatenate((cut, [len(firsts)]))
    return list(zip(firsts[begin].tolist(), (end - begin).tolist(), strict=True))


def _described(state: VmState, gpas: U64Array, digest: str) -> dict[str, Any]:
    machine = state.machine
    leaves: list[list[int]] = []
    sizes = state.leaves[:, 1]
    cut = np.flatnonzero(sizes[1:] != sizes[:-1]) + 1 if len(sizes) else np.zeros(0, np.int64)
    for part in np.split(state.leaves, cut):
        if len(part):
            leaves += [[first, int(part[0, 1]), count] for first, count in _runs(part[:, 0], int(part[0, 1]))]
    return {
        "vm": state.vm,
        "arch": state.arch,
        "format": state.format,
        "regions": [
            {
                "name": one.name,
                "start": one.start,
                "size": one.size,
                "flags": int(one.flags),
                "type": one.map_type.value,
            }
            for one in state.regions
        ],
        "leaves": leaves,
        "machine": {
            "engine": machine.engine,
            "nanos": machine.nanos,
            "started": machine.started,
            "off": machine.off,
            "cpus": [{name: hex(value) for name, value in cpu.items()} for cpu in machine.cpus],
            "more": dict(machine.more),
        },
        "devices": {name: dict(device) for name, device in state.devices.items()},
        "console": {"position": state.console_position, "kept": base64.b64encode(state.console).decode()},
        "pages": [[None if first == NO_GPA else first, count] for first, count in _runs(gpas, PAGE)],
        "sha256": digest,
    }


# --- reading -------------------------------------------------------------------------------------------------


def _pieces(file: BinaryIO, size: int) -> Any:
    while size:
        piece = file.read(min(size, _PIECE))
        if not piece:
            raise SnapshotError("it ends too soon; it was damaged")
        size -= len(piece)
        yield piece


def _read(file: BinaryIO) -> Snapshot:
    at, described = _description(file)
    try:
        return _made(file, at, described)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, Stage2Error) as error:
        if isinstance(error, SnapshotError):
            raise
        raise SnapshotError(f"its description is not one of a snapshot: {type(error).__name__} {error}") from None


def _description(file: BinaryIO) -> tuple[int, dict[str, Any]]:
    """Where the pages end, and the description."""
    first = file.read(PAGE)
    words = first.split(b"\n", 1)[0].decode("ascii", "replace").split(" ")
    if words[0] != MAGIC:
        raise SnapshotError("it is no snapshot of stage2")
    if len(words) != 5 or not all(word.isascii() and word.isdigit() and len(word) < 20 for word in words[1:4]):
        raise SnapshotError("its first line is not that of a snapshot; it was damaged")
    version, at, size = (int(word) for word in words[1:4])
    if version != VERSION:
        raise SnapshotError(f"it has version {version} of the format; this stage2 reads version {VERSION}")
    whole = file.seek(0, 2)
    if at % PAGE or at < PAGE or size > _LONGEST_DESCRIPTION or at + size != whole:
        raise SnapshotError(f"it has {whole} bytes, and its first line says {at} + {size}; it was damaged")
    file.seek(at)
    text = file.read(size)
    if hashlib.sha256(text).hexdigest() != words[4]:
        raise SnapshotError("the checksum of its description is wrong; it was damaged")
    try:
        described = json.loads(text)
    except (ValueError, RecursionError):
        described = None
    if not isinstance(described, dict):
        raise SnapshotError("its description is no JSON object")
    return at, described


def _made(file: BinaryIO, at: int, described: dict[str, Any]) -> Snapshot:
    pages = _pages(file, at, described)
    leaves = _leaves(described["leaves"], len(pages))
    machine, console = described["machine"], described["console"]
    kept = base64.b64decode(console["kept"], validate=True)
    state = VmState(
        vm=_text(described["vm"]),
        arch=_text(described["arch"]),
        format=_text(described["format"]),
        regions=tuple(
            RegionShape(
                _text(one["name"]), _number(one["start"]), _number(one["size"]),
                MappingFlags.from_bits(_number(one["flags"])), MapType(one["type"]),
            )
            for one in described["regions"]
        ),
        leaves=leaves,
        machine=MachineState(
            engine=_text(machine["engine"]),
            nanos=_number(machine["nanos"]),
            started=bool(machine["started"]),
            off=None if machine["off"] is None else _text(machine["off"]),
            cpus=tuple({_text(name): int(value, 16) for name, value in cpu.items()} for cpu in machine["cpus"]),
            more=dict(machine["more"]),
        ),
        devices={_text(name): dict(device) for name, device in described["devices"].items()},
        console_position=_number(console["position"]),
        console=kept,
    )  # fmt: skip
    if state.console_position < len(kept):
        raise SnapshotError("its console has more text than the guest printed")
    return Snapshot(state, pages, len(pages))


def _pages(file: BinaryIO, at: int, described: dict[str, Any]) -> Pages:
    count = at // PAGE - 1
    runs = [(NO_GPA if first is None else _number(first), _number(number)) for first, number in described["pages"]]
    if sum(number for _, number in runs) != count:
        raise SnapshotError(f"it has {count} pages and describes {sum(number for _, number in runs)}")
    if any(first != NO_GPA and (first % PAGE or first + number * PAGE > 1 << 64) for first, number in runs):
        raise SnapshotError("its pages are at addresses that no page has")
    gpas: U64Array = np.empty(count, np.uint64)
    filled = 0
    for first, number in runs:
        step = 0 if first == NO_GPA else PAGE
        gpas[filled : filled + number] = np.uint64(first) + np.arange(number, dtype=np.uint64) * np.uint64(step)
        filled += number
    data: Bytes = np.empty((count, PAGE // 8), np.uint64)
    octets = data.reshape(-1).view(np.uint8)
    digest = hashlib.sha256()
    file.seek(PAGE)
    done = 0
    for piece in _pieces(file, count * PAGE):
        digest.update(piece)
        octets[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)
    if digest.hexdigest() != described["sha256"]:
        raise SnapshotError("the checksum of its pages is wrong; it was damaged")
    meant = np.flatnonzero(gpas != np.uint64(NO_GPA))
    if len(meant) != count or not (gpas[1:] > gpas[:-1]).all():
        order = meant[np.argsort(gpas[meant], kind="stable")]
        gpas, data = gpas[order], data[order]
        if not (gpas[1:] > gpas[:-1]).all():
            raise SnapshotError("it has a page twice")
    return Pages.of(gpas, data)


def _leaves(runs: list[list[int]], pages: int) -> U64Array:
    """The leaves, (start, size), which have exactly so many pages."""
    total = 0
    parts: list[U64Array] = [np.zeros((0, 2), np.uint64)]
    for first, size, count in runs:
        total += _number(count) * (_number(size) // PAGE)
        if size < PAGE or size & (size - 1) or total > pages or _number(first) + size * count > 1 << 64:
            raise SnapshotError("its leaves are not those of its pages")
        starts = np.uint64(first) + np.arange(count, dtype=np.uint64) * np.uint64(size)
        parts.append(np.stack((starts, np.full(count, size, np.uint64)), axis=1))
    if total != pages:
        raise SnapshotError("its leaves are not those of its pages")
    return np.concatenate(parts)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise TypeError(f"{value!r} is no number of 64 bits")
    return value
