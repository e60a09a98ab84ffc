"""Snapshots as files: read back as they were written, and refused in one sentence where they were damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.address import MIB
from stage2.errors import ConfigError, SnapshotError
from stage2.flags import RWX, MapType
from stage2.vm.snapshots.machine import MachineState
from stage2.vm.snapshots.pages import PAGE, Pages
from stage2.vm.snapshots.snapshot import RegionShape, Snapshot, VmState

RAM = 0x8000_0000


def made(pages: list[int], console: bytes = b"hello\r\n\xff") -> Snapshot:
    """A snapshot of pages of RAM, by number."""
    gpas = np.array([RAM + PAGE * page for page in pages], np.uint64)
    data = (np.arange(512 * len(pages), dtype=np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)).reshape(-1, 512)
    state = VmState(
        vm="vm",
        arch="riscv64",
        format="sv39x4",
        regions=(RegionShape("ram", RAM, 4 * MIB, RWX, MapType.MAP_ALLOC),),
        leaves=np.stack((gpas, np.full(len(gpas), PAGE, np.uint64)), axis=1),
        machine=MachineState("unicorn", 17, True, None, ({"x1": (1 << 64) - 1, "q0": 1 << 127},), {"executed": 3}),
        devices={"uart": {"registers": "00"}},
        console_position=len(console) + 5,
        console=console,
    )
    return Snapshot(state, Pages.of(gpas, data), len(gpas))


@given(pages=st.sets(st.integers(0, 1023), max_size=40), console=st.binary(max_size=40))
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, pages: set[int], console: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "round.snapshot"
    snapshot = made(sorted(pages), console)
    snapshot.save(file)
    found = Snapshot.open(file)
    for name in ("vm", "arch", "format", "regions", "machine", "devices", "console_position", "console"):
        assert getattr(found.state, name) == getattr(snapshot.state, name)
    assert found.state.leaves.tolist() == snapshot.state.leaves.tolist()
    assert found.pages.gpas.tolist() == snapshot.pages.gpas.tolist()
    assert np.array_equal(found.pages.of_gpas(found.pages.gpas), snapshot.pages.of_gpas(snapshot.pages.gpas))


def test_the_format_is_as_it_is_documented(tmp_path: Path) -> None:
    file = tmp_path / "a.snapshot"
    snapshot = made([0, 1, 7])
    snapshot.save(file)
    data = file.read_bytes()
    word, version, at, size, digest = data[:PAGE].split(b"\n")[0].decode().split()
    assert (word, version) == ("stage2-snapshot", "1")
    text = data[int(at) : int(at) + int(size)]
    assert (int(at) % PAGE, int(at) + int(size)) == (0, len(data))
    assert hashlib.sha256(text).hexdigest() == digest
    described = json.loads(text)
    assert described["pages"] == [[RAM, 2], [RAM + 7 * PAGE, 1]]
    assert described["leaves"] == [[RAM, PAGE, 2], [RAM + 7 * PAGE, PAGE, 1]]
    assert described["machine"]["cpus"] == [{"x1": "0xffffffffffffffff", "q0": hex(1 << 127)}]
    assert hashlib.sha256(data[PAGE : int(at)]).hexdigest() == described["sha256"]
    assert data[3 * PAGE : 4 * PAGE] == snapshot.read(RAM + 7 * PAGE, PAGE)


@given(where=st.integers(0, 1 << 20), what=st.integers(1, 255))
def test_no_byte_can_be_changed_without_that_being_noticed(
    tmp_path_factory: pytest.TempPathFactory, where: int, what: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.snapshot"
    made([0, 3]).save(file)
    data = bytearray(file.read_bytes())
    # What follows the first line is not looked at.
    places = [*range(data.index(b"\n")), *range(PAGE, len(data))]
    data[places[where % len(places)]] ^= what
    file.write_bytes(data)
    with pytest.raises(SnapshotError) as refused:
        Snapshot.open(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert "\n" not in str(refused.value)


def forged(file: Path, change: Callable[[dict[str, Any]], object], pages: bytes | None = None) -> None:
    """Change a file's description, with sums that are right."""
    data = file.read_bytes()
    at = int(data[:PAGE].split(b" ")[2])
    described = json.loads(data[at:])
    change(described)
    body = data[PAGE:at] if pages is None else pages
    text = json.dumps(described).encode()
    line = f"stage2-snapshot 1 {PAGE + len(body)} {len(text)} {hashlib.sha256(text).hexdigest()}\n"
    file.write_bytes(line.encode().ljust(PAGE, b"\0") + body + text)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.pop("vm"), "its description is not one of a snapshot: KeyError 'vm'"),
        (lambda d: d.update(vm=3), "its description is not one of a snapshot: TypeError 3 is no text"),
        (lambda d: d.update(pages=[[RAM, 1]]), "it has 2 pages and describes 1"),
        (lambda d: d.update(pages=[[RAM, 1], [RAM, 1]]), "it has a page twice"),
        (lambda d: d.update(pages=[[RAM + 1, 2]]), "its pages are at addresses that no page has"),
        (lambda d: d.update(pages=[[(1 << 64) - 4096, 2]]), "its pages are at addresses that no page has"),
        (lambda d: d.update(leaves=[[RAM, PAGE, 1]]), "its leaves are not those of its pages"),
        (lambda d: d.update(leaves=[[RAM, PAGE, 1 << 62]]), "its leaves are not those of its pages"),
        (lambda d: d["console"].update(position=0), "its console has more text than the guest printed"),
        (lambda d: d["regions"][0].update(flags=64), "its description is not one of a snapshot: EncodingError"),
        (lambda d: d["machine"].update(cpus=[{"x1": 5}]), "its description is not one of a snapshot: TypeError"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    file = tmp_path / "a.snapshot"
    made([0, 3]).save(file)
    forged(file, change)
    with pytest.raises(SnapshotError) as refused:
        Snapshot.open(file)
    assert str(refused.value).startswith(f"{file}: {problem}")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        (b"", "it is no snapshot of stage2"),
        (b"\x7fELF" + bytes(5000), "it is no snapshot of stage2"),
        (b"stage2-snapshot 2 4096 2 ab\n", "it has version 2 of the format; this stage2 reads version 1"),
        (b"stage2-snapshot 1 4096\n", "its first line is not that of a snapshot; it was damaged"),
        (b"stage2-snapshot 1 4096 2 ab\n", "it has 28 bytes, and its first line says 4096 + 2; it was damaged"),
    ],
)
def test_what_is_no_snapshot_is_said_to_be_none(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "a.snapshot"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SnapshotError) as refused:
        Snapshot.open(file)
    assert str(refused.value) == f"{file}: {problem}"


def test_a_snapshot_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.snapshot"
    file.write_bytes(b"before")
    snapshot = made([0, 3])

    def broken(_self: Pages) -> object:
        yield np.zeros((1, 512), np.uint64)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Pages, "pieces", broken)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        snapshot.save(file)
    assert file.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.snapshot"]


def test_pages_share_what_did_not_change() -> None:
    first = made([0, 1, 2, 3]).pages
    gpas = np.array([RAM + PAGE * page for page in (0, 2, 3, 9)], np.uint64)
    fresh = np.array([RAM + PAGE * page for page in (2, 9)], np.uint64)
    second = first.renewed(gpas, fresh, np.full((2, 512), 7, np.uint64))
    assert second.gpas.tolist() == gpas.tolist()
    assert second.differing(first).tolist() == fresh.tolist()
    assert first.differing(second).tolist() == [RAM + PAGE, RAM + 2 * PAGE]
    assert second.read(RAM, 2 * PAGE) == first.read(RAM, PAGE) + bytes(PAGE)
    assert second.read(RAM + 2 * PAGE + 8, 16) == (7).to_bytes(8, "little") * 2
    third = second.renewed(gpas, gpas, np.zeros((4, 512), np.uint64))
    assert third.differing(first).tolist() == gpas.tolist()
