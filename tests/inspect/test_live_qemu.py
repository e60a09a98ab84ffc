"""A live QEMU as a memory source: its memory and registers, however they are had, and what becomes of the machine."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from linux_machines import ARCHITECTURES, LinuxMachine, Sockets, linux_fixture, machine, started

from stage2.errors import OutOfRangeError, SourceError
from stage2.inspect.opened import open_source
from stage2.inspect.qemu.live import Way, open_live
from stage2.inspect.qemu.process_memory import NotAllowedError, ProcessMemory

stopped_linux = linux_fixture(*ARCHITECTURES)
WAYS: tuple[Way, ...] = ("process", "stub", "file", "words")


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Sockets]:
    """A machine that runs its firmware."""
    with machine("riscv64", tmp_path, "-m", "64M") as made:
        yield made


def test_live_memory_is_what_qemu_dumps(stopped_linux: LinuxMachine) -> None:
    with open_live(stopped_linux.both) as source:
        assert source.arch == stopped_linux.arch
        for start, data in stopped_linux.dumped:
            assert source.contains(start, len(data)), (hex(start), source.ranges())
            assert source.read(start, len(data)) == data.tobytes(), hex(start)


def test_every_way_reads_the_same(stopped_linux: LinuxMachine) -> None:
    start, data = max(stopped_linux.dumped, key=lambda piece: len(piece[1]))
    generator = np.random.default_rng(0)
    pages = np.uint64(start) + (generator.permutation(len(data) >> 12)[:64].astype(np.uint64) << np.uint64(12))
    want = [data[int(page) - start :][:4096].tobytes() for page in pages]
    odd = [(start + 5, 3), (start + 4093, 9), (start, 0), (start + len(data) - 1, 1), (start + 1, 70_001)]
    for way in WAYS:
        with open_live(stopped_linux.both, way=way) as source:
            assert [row.tobytes() for row in source.tables(pages, 512)] == want, way
            for at, size in odd:
                assert source.read(at, size) == data[at - start :][:size].tobytes(), (way, hex(at), size)
            assert source.word_at(int(pages[0])) == int.from_bytes(want[0][:8], "little"), way
            assert any("memory is read" in notice for notice in source.notices)


def test_a_table_over_two_pieces_of_memory_is_read_from_both(request: pytest.FixtureRequest) -> None:
    one = started("x86_64", request)
    with open_live(one.both, way="process") as source:
        # 0xca000 is where read-only memory ends and RAM begins; to us both are memory.
        at = np.array([0xC9000], np.uint64)
        assert source.tables(at, 1024).tobytes() == source.read(0xC9000, 8192)


def test_what_is_no_memory_is_a_hole(stopped_linux: LinuxMachine) -> None:
    hole = {"x86_64": 0xFEE0_0000, "aarch64": 0x0900_0000, "riscv64": 0x0C00_0000}[stopped_linux.arch]
    with open_live(stopped_linux.both) as source:
        assert source.bytes_at(hole, 8) is None
        assert source.word_at(hole) is None
        with pytest.raises(OutOfRangeError, match="not all there"):
            source.read(hole, 8)
        end = source.ranges()[-1].end
        assert source.bytes_at(end - 8, 16) is None


def test_the_stub_and_the_monitor_tell_the_same_registers(stopped_linux: LinuxMachine) -> None:
    with open_live(f"qmp:{stopped_linux.qmp}") as source:
        (by_monitor,) = source.registers()
    with open_live(f"gdb:{stopped_linux.gdb},qmp:{stopped_linux.qmp}") as source:
        (by_stub,) = source.registers()
    common = by_monitor.values.keys() & by_stub.values.keys()
    told: dict[str, set[str]] = {"x86_64": {"CR0", "CR3", "CR4", "EFER"}, "riscv64": {"satp", "mstatus"}}
    assert common >= told.get(stopped_linux.arch, set()) | {"pc"}
    assert {name: by_monitor.values[name] for name in common} == {name: by_stub.values[name] for name in common}
    roots = {
        "x86_64": {"CR3", "EFER"},
        "aarch64": {"TTBR0_EL1", "TTBR1_EL1", "TCR_EL1", "SCTLR_EL1", "MAIR_EL1", "cpsr"},
        "riscv64": {"satp", "vsatp", "hgatp", "sstatus", "vsstatus", "mstatus", "priv", "virt"},
    }
    assert by_stub.values.keys() >= roots[stopped_linux.arch]


def test_hypervisor_registers_and_all_cpus_come_from_the_stub(tmp_path: Path) -> None:
    """A machine with EL2 that has executed nothing yet: VTCR_EL2 and VTTBR_EL2 are there under the manual's names."""
    more = ("-M", "virtualization=on", "-smp", "3", "-m", "64M", "-S")
    with machine("aarch64", tmp_path, *more) as made, open_live(made.both) as source:
        found = source.registers()
    assert [cpu.number for cpu in found] == [0, 1, 2]
    for cpu in found:
        assert cpu.values.keys() >= {
            "VTTBR_EL2", "VTCR_EL2", "HCR_EL2", "TTBR0_EL2", "TCR_EL2", "SCTLR_EL2", "MAIR_EL2", "TTBR0_EL1",
            "TTBR1_EL1", "TCR_EL1", "SCTLR_EL1", "MAIR_EL1",
        }  # fmt: skip


@pytest.mark.parametrize("which", ["qmp", "gdb", "both"])
@pytest.mark.parametrize("stop", [False, True])
def test_a_machine_that_ran_runs_again(bare: Sockets, which: str, stop: bool) -> None:
    with open_live(named(bare, which), stop=stop) as source:
        assert source.read(0x8000_0000, 4096)
        told = " ".join(source.notices)
        runs = which != "gdb" and not stop
        assert ("runs on" in told) is runs
        if which == "gdb":
            assert bare.ask("info status")[0].startswith("VM status: paused")
    assert bare.ask("info status")[0].startswith("VM status: running")


@pytest.mark.parametrize("which", ["qmp", "both"])
def test_a_machine_that_was_stopped_stays_so(bare: Sockets, which: str) -> None:
    bare.ask("stop")
    for stop in (False, True):
        with open_live(named(bare, which), stop=stop):
            pass
        assert bare.ask("info status")[0].startswith("VM status: paused")


def test_a_machine_that_was_stopped_stays_so_by_the_stub_alone_where_that_can_be_told(bare: Sockets) -> None:
    bare.ask("stop")
    with open_live(f"gdb:{bare.gdb}") as source:
        told = not any("does not tell whether" in notice for notice in source.notices)
    assert bare.ask("info status")[0].startswith("VM status: paused") is told


def test_a_machine_runs_again_after_a_way_that_cannot_be_had(bare: Sockets) -> None:
    with pytest.raises(SourceError, match="needs the other socket"):
        open_live(f"gdb:{bare.gdb}", way="file")
    assert bare.ask("info status")[0].startswith("VM status: running")


def test_tcp_ports_do_as_well_and_the_stub_or_files_stand_in(tmp_path: Path) -> None:
    qmp, gdb = free_port(), free_port()
    more = ("-m", "64M", "-qmp", f"tcp:127.0.0.1:{qmp},server=on,wait=off")
    with machine("riscv64", tmp_path, *more, stub=f"tcp:127.0.0.1:{gdb}"):
        with open_live(f"qmp:127.0.0.1:{qmp},gdb:localhost:{gdb}", stop=True) as source:
            assert any("does not tell the process" in notice for notice in source.notices)
            assert any("through the gdb stub" in notice for notice in source.notices)
            by_stub = source.read(0x8000_0000, 1 << 16)
            assert by_stub != bytes(1 << 16)
        with open_live(f"qmp:127.0.0.1:{qmp}", stop=True) as source:
            assert any("pmemsave" in notice for notice in source.notices)
            assert len(source.read(0x8000_0000, 1 << 16)) == len(by_stub)


def test_a_process_that_may_not_be_read_is_read_by_files(
    stopped_linux: LinuxMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's refusal is made up here: root is refused nothing."""

    def refused(self: ProcessMemory, pid: int, name: str) -> None:
        raise NotAllowedError(f"{name}: process {pid} is not ours to read")

    monkeypatch.setattr(ProcessMemory, "__init__", refused)
    start, data = stopped_linux.dumped[-1]
    with open_live(f"qmp:{stopped_linux.qmp}") as source:
        assert any("is not ours to read" in notice for notice in source.notices)
        assert any("pmemsave" in notice for notice in source.notices)
        assert source.read(start, 4096) == data[:4096].tobytes()


@pytest.mark.parametrize("way", WAYS)
def test_a_qemu_that_is_killed_ends_in_one_sentence(bare: Sockets, way: Way) -> None:
    with open_live(bare.both, way=way, stop=True, seconds=20) as source:
        assert source.read(0x8000_0000, 8192)
        bare.child.kill()
        bare.child.wait(60)
        for _ in range(2):
            with pytest.raises(SourceError, match=r"(qmp|gdb):/.*QEMU has ended"):
                source.read(0x8000_0000, 8192)
            with pytest.raises(SourceError, match=r"(qmp|gdb):/.*QEMU has ended"):
                source.tables(np.arange(0x8000_0000, 0x8004_0000, 0x2000, dtype=np.uint64), 512)


@pytest.mark.parametrize("way", ["stub", "file"])
def test_a_qemu_that_hangs_is_waited_for_once(bare: Sockets, way: Way) -> None:
    with open_live(bare.both, way=way, stop=True, seconds=5) as source:
        os.kill(bare.child.pid, signal.SIGSTOP)
        try:
            for _ in range(100):  # all after the first fail at once
                with pytest.raises(SourceError, match=r"(qmp|gdb):/.*does not answer"):
                    source.read(0x8000_0000, 8192)
            if way == "stub":
                with pytest.raises(SourceError, match="connecting"):
                    open_live(f"qmp:{bare.qmp}", seconds=1)
        finally:
            source.close()
            os.kill(bare.child.pid, signal.SIGCONT)


@pytest.mark.parametrize("protocol", ["qmp", "gdb"])
@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$#00" * 100,
        b"$" + b"m" * (3 << 20),
        b"+$m#6d" * 100_000,
        b"$T05#b9" * 100_000,
        b'{"QMP": {"version": {}, "capabilities": []}}\n{"return": {}, "id": "x"}\n',
        b'{"QMP": {"version": {"qemu": {"major": 9}}, "capabilities": []}}\n{"return": {}}\n{"return": 5}\n',
        b"[" * 100_000 + b"\n",
        bytes(range(256)) * 100,
    ],
)
def test_a_made_up_peer_that_speaks_nonsense_ends_in_one_sentence(tmp_path: Path, protocol: str, said: bytes) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        talking = threading.Thread(target=speak, args=(server, said))
        talking.start()
        try:
            with pytest.raises(SourceError, match=re.escape(f"{protocol}:{path}")) as caught:
                open_live(f"{protocol}:{path}", seconds=2)
            assert "\n" not in str(caught.value)
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # nobody may have come
            talking.join()


def speak(server: socket.socket, said: bytes) -> None:
    """Say something to the first who connects, and hang up; who says nothing waits for the other to hang up."""
    try:
        connection, _ = server.accept()
    except OSError:
        return
    with connection, suppress(OSError):
        connection.sendall(said)
        if said:
            connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("qmp:", "no live QEMU"),
        ("gdb", "no live QEMU"),
        ("http:/x", "no live QEMU"),
        ("qmp:/a,qmp:/b", "names qmp twice"),
        ("qmp:/a,", "does a QEMU listen there"),
        ("qmp:192.0.2.1:4444", "only ports of this machine"),
        ("gdb:example.org:1234", "only ports of this machine"),
        ("gdb:127.0.0.1:0", "only ports of this machine"),
        ("gdb:127.0.0.1:99999", "only ports of this machine"),
        ("qmp:/" + "long" * 100, "too long"),
        ("qmp:/nothing/there", "No such file or directory"),
    ],
)
def test_a_place_where_no_qemu_can_be_is_said_to_be_wrong(text: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        open_live(text)


def test_a_name_with_a_prefix_opens_a_live_machine(bare: Sockets) -> None:
    with open_source(bare.both) as source:
        assert source.arch == "riscv64"


def test_without_the_library_the_monitor_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qemu.qmp", None)
    with pytest.raises(SourceError, match=r"pip install 'qemu\.qmp"):
        open_live(f"qmp:{tmp_path / 'qmp'}")


def named(one: Sockets, which: str) -> str:
    """Its sockets as a user writes them."""
    return {"qmp": f"qmp:{one.qmp}", "gdb": f"gdb:{one.gdb}", "both": one.both}[which]


def free_port() -> int:
    """A port that nobody listens on for the moment."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port: int = made.getsockname()[1]
    return port
