"""Files that are made to be slow, deep, huge or nonsense: one clear error, or findings, and no minutes of CPU time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import pack

import pytest

from stage2.address import MIB, Range
from stage2.cli.main import call
from stage2.images.fdt import Node, flatten
from stage2.ranges import RangeIndex
from trees import bus, need_dtc, small_tree, write_tree
from waiting import HANG_S

LIMIT_S = 10.0
"""CPU seconds of one command in this process: what is quadratic takes minutes on these files, and a busy machine does
not make a second ten. `scripts/fuzz_check.py` has the limit that is aimed at."""
HEAD = '[base]\nid = 1\nname = "guest"\narch = "riscv64"\nvm_type = 1\ncpu_num = 1\n'
KERNEL = "[kernel]\nentry_point = 0x8000_0000\nkernel_load_addr = 0x8000_0000\n"
RAM = "memory_regions = [[0x8000_0000, 0x20_0000, 0x7, 1]]\n"
DEEP = "vm.toml:1: nested deeper than 32 levels; no configuration file is"
GENERATION = ("--generation", "head")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Run a command; the better of two runs must be within the limit, for the first one may import much."""
    spent = []
    for _ in range(2):
        began = time.process_time()
        code = call([str(argument) for argument in arguments])
        spent.append(time.process_time() - began)
        told = capsys.readouterr()
    assert min(spent) < LIMIT_S, f"{min(spent):.2f} s of CPU time"
    assert code != 2 or told.err.count("\n") == 1
    return Outcome(code, told.out, told.err)


def refused(capsys: pytest.CaptureFixture[str], file: Path, *options: object) -> str:
    """What `check` says of a file that it does not take, without the file's folder."""
    outcome = run(capsys, "check", file, *options)
    assert outcome.code == 2
    return outcome.err.replace(f"{file.parent}/", "").removeprefix("stage2: error: ").rstrip()


def vm_file(folder: Path, text: str | bytes, name: str = "vm.toml") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def given(paths: Sequence[str]) -> str:
    nodes = ", ".join(f'["{path}"]' for path in paths)
    return f"{HEAD}{KERNEL}{RAM}\n[devices]\npassthrough_devices = [{nodes}]\n"


# --- files that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xff\xfe", "vm.toml:1: byte 0xff at offset 0 is no UTF-8: a TOML file is text"),
        (b"a = 1\n\x00\x00", "vm.toml:2: no valid TOML, column 1: Invalid statement"),
        (b"x = [" + b"[" * 10_000 + b"]" * 10_000 + b"]", DEEP),
        (b"x = " + b"{a = " * 10_000, DEEP),
        (b".".join([b"a"] * 10_000) + b" = 1", DEEP),
        (b"x = [" + b"1," * 100_000 + b"]", "vm.toml:1: more than 20,000 values in one file"),
        (b"".join(b"k%d = 1\n" % n for n in range(60_000)), "vm.toml:20001: more than 20,000 values in one file"),
        (b"x = [" + b"0," * (5 * MIB) + b"]", "vm.toml: is larger than 1 MiB, which no configuration is"),
        (b"id = " + b"9" * 5000, "vm.toml:1: a number has too many digits"),
    ],
    ids=["no-utf-8", "nul", "brackets", "braces", "dotted", "values", "keys", "10-mib", "digits"],
)  # fmt: skip
def test_a_file_that_no_vm_file_is_like_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, problem: str
) -> None:
    assert refused(capsys, vm_file(tmp_path, data)) == problem


def test_what_is_no_file_is_one_line_and_does_not_hang(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert refused(capsys, pipe) == "pipe: is no regular file"
    assert refused(capsys, Path("/dev/zero")) == "zero: is no regular file"
    assert "directory" in refused(capsys, tmp_path).lower()
    vm = vm_file(tmp_path, HEAD + KERNEL + RAM)
    for tree in (pipe, Path("/dev/zero"), tmp_path):
        assert run(capsys, "check", vm, "--host-dtb", tree).code == 2


# --- many of everything ------------------------------------------------------------------------------------------


def test_more_regions_than_an_array_may_have_are_refused_by_their_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ", ".join(f"[{0x20_0000 * n:#x}, 0x1000, 7, 1]" for n in range(1, 2000))
    file = vm_file(tmp_path, f"{HEAD}{KERNEL}memory_regions = [{rows}]\n")
    outcome = run(capsys, "check", file, *GENERATION)
    assert outcome.code == 1
    assert outcome.out.startswith("error S2300: an array of 1,999 elements found, 1,024 are allowed\n")


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("same", [True, False])
def test_a_thousand_regions_are_looked_at_in_a_second(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: int, same: bool
) -> None:
    rows = ", ".join(f"[{0x8000_0000 + (0 if same else n * 0x20_0000):#x}, 0x20_0000, 7, {kind}]" for n in range(1024))
    devices = ", ".join(f'["d{n}", 0x8000_0000, {n * 0x1000:#x}, 0x8000_0000, 0]' for n in range(1024))
    text = f"{HEAD}{KERNEL}memory_regions = [{rows}]\n[devices]\npassthrough_devices = [{devices}]\n"
    file = vm_file(tmp_path, text)
    assert run(capsys, "check", file, *GENERATION).code == 1


def test_a_device_of_two_hundred_vms_is_told_once_for_each_further_vm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for number in range(200):
        start = f"{0x8000_0000 + number * 0x20_0000:#x}"
        ram = f"entry_point = {start}\nkernel_load_addr = {start}\n"
        text = HEAD.replace("id = 1", f"id = {number}").replace("guest", f"guest{number}") + "[kernel]\n" + ram
        text += f"memory_regions = [[{start}, 0x20_0000, 7, 1]]\n"
        text += '[devices]\npassthrough_devices = [["uart", 0x1000_0000, 0x1000_0000, 0x1000, 0]]\n'
        files.append(vm_file(tmp_path, text, f"vm{number}.toml"))
    outcome = run(capsys, "check", *files, "--generation", "seed")
    assert outcome.code == 0
    assert outcome.out.rstrip().endswith("199 warnings.")


def test_comments_that_allow_findings_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = HEAD + KERNEL + RAM + "# stage2: allow S2301 reason\n" * 5000
    assert refused(capsys, vm_file(tmp_path, text)) == "vm.toml:1011: more than 1,000 comments allow a finding"


def test_only_the_first_two_hundred_findings_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ", ".join(f"[{0x8000_0000:#x}, 0x20_0000, 7, 0]" for n in range(500))
    file = vm_file(tmp_path, f"{HEAD}{KERNEL}memory_regions = [{rows}]\n")
    outcome = run(capsys, "check", file, "--generation", "seed")
    assert outcome.code == 1
    assert outcome.out.count("error S2301") == 200
    assert "and 299 more, which --json lists: 299 errors.\n" in outcome.out
    assert outcome.out.rstrip().endswith("499 errors.")


def test_a_file_of_one_line_takes_no_longer_than_one_of_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ", ".join(f"[{0x8000_0000 + n * 0x20_0000:#x}, 0x20_0000, 7, 0]{' ' * 800}" for n in range(1000))
    file = vm_file(tmp_path, f"{HEAD}{KERNEL}memory_regions = [{rows}]\n")
    assert run(capsys, "check", file, "--generation", "seed").code == 0


# --- device trees ------------------------------------------------------------------------------------------------


def check_tree(capsys: pytest.CaptureFixture[str], folder: Path, root: Node, paths: Sequence[str] = ()) -> Outcome:
    tree = write_tree(folder, root)
    return run(capsys, "check", vm_file(folder, given(paths)), *GENERATION, "--host-dtb", tree)


def test_a_tree_of_ten_mib_is_refused_by_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small_tree()
    root.child("big").set("data", bytes(10 * MIB))
    outcome = check_tree(capsys, tmp_path, root)
    assert outcome.err == f"stage2: error: {tmp_path}/host.dtb: is larger than 2 MiB, which no device tree is\n"


def test_a_source_that_becomes_too_large_is_named_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need_dtc()
    tree = tmp_path / "host.dts"
    tree.write_text("/dts-v1/;\n/ { a = <" + "0 " * 900_000 + ">; };\n")
    outcome = run(capsys, "check", vm_file(tmp_path, given([])), *GENERATION, "--host-dtb", tree)
    assert outcome.err == f"stage2: error: {tree}: is compiled to more than 2 MiB, which no device tree has\n"


def test_a_tree_of_too_many_nodes_or_too_deep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide, deep = small_tree(), small_tree()
    for number in range(20_000):
        wide.child(f"b@{number:x}")
    node = deep
    for _ in range(100):
        node = node.child("b")
    for root in (wide, deep):
        outcome = check_tree(capsys, tmp_path, root)
        assert outcome.err == (
            f"stage2: error: {tmp_path}/host.dtb: device tree is damaged: too many nodes or too deep\n"
        )


def test_reservations_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = tmp_path / "host.dtb"
    tree.write_bytes(flatten(small_tree(), [(0x9000_0000 + n * 0x1000, 0x1000) for n in range(100_000)]))
    outcome = run(capsys, "check", vm_file(tmp_path, given([])), *GENERATION, "--host-dtb", tree)
    assert outcome.err == f"stage2: error: {tree}: device tree is damaged: more than 1,024 reservations\n"


def test_interrupt_parents_in_a_circle_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small_tree()
    for number in range(2):
        plic = bus(root).child(f"plic@{0x1000_0000 + number * 0x1000:x}").set("compatible", "riscv,plic0")
        plic.set_u64("reg", 0x1000_0000 + number * 0x1000, 0x1000).set("interrupt-controller")
        plic.set("phandle", number + 1).set("interrupt-parent", 2 - number)
    outcome = check_tree(capsys, tmp_path, root, ["/soc/plic@10000000"])
    assert outcome.code == 2
    assert "its interrupt parents go in a circle: /soc/plic@10001000 -> /soc/plic@10000000" in outcome.err


def test_a_phandle_that_names_its_own_node_many_times_is_followed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_tree()
    for number in range(100):
        node = bus(root).child(f"dev@{0x1000_0000 + number * 0x1000:x}").set("phandle", number + 1)
        node.set_u64("reg", 0x1000_0000 + number * 0x1000, 0x1000).set("memory-region", [number + 1] * 1000)
        node.set("iommus", [number + 1] * 1000).set("interrupts-extended", [number + 1] * 1000)
    assert check_tree(capsys, tmp_path, root, ["/soc"]).code in (0, 1)


def test_thousands_of_devices_in_one_page_are_more_than_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_tree()
    for number in range(4000):
        bus(root).child(f"dev@{number:x}").set_u64("reg", 0x1000_0000, 0x10_0010 + number * 0x1000)
    paths = [f"/soc/dev@{number:x}" for number in range(1000)]
    outcome = check_tree(capsys, tmp_path, root, paths)
    assert outcome.err == (
        f"stage2: error: {tmp_path}/host.dtb: more devices have the same addresses than on any board\n"
    )


def test_thousands_of_interrupt_controllers_given_to_one_vm_are_more_than_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_tree()
    for number in range(3000):
        plic = bus(root).child(f"plic@{number:x}").set("compatible", "riscv,plic0").set("interrupt-controller")
        plic.set_u64("reg", 0x1000_0000, 0x1000)
    outcome = check_tree(capsys, tmp_path, root, ["/soc"])
    assert outcome.err == (
        f"stage2: error: {tmp_path}/host.dtb: more devices have the same addresses than on any board\n"
    )


def test_thousands_of_devices_with_dma_behind_an_iommu_and_not_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_tree()
    for number in range(12_000):
        dev = bus(root).child(f"ethernet@{number:x}").set_u64("reg", 0x1000_0000 + number * 0x1000, 0x1000)
        if number % 2:
            dev.set("iommus", 1)
    outcome = check_tree(capsys, tmp_path, root, ["/soc"])
    told = " ".join(outcome.out.split())
    assert "and 5997 more, whose DMA passes an IOMMU" in told
    assert "and 5997 more, whose DMA reaches all" in told


def test_thousands_of_nodes_that_are_not_there_are_looked_for_in_a_second(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_tree()
    for number in range(10_000):
        bus(root).child(f"dev@{number:x}").set_u64("reg", 0x1000_0000 + number * 0x1000, 0x1000)
    outcome = check_tree(capsys, tmp_path, root, [f"/soc/dev@f{number:05x}" for number in range(1000)])
    assert outcome.code == 1
    assert outcome.out.count("did you mean") == 8


def test_one_bus_given_a_thousand_times_is_more_nodes_than_a_vm_may_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_tree()
    for number in range(2000):
        bus(root).child(f"dev@{number:x}").set_u64("reg", 0x1000_0000 + number * 0x1000, 0x1000)
    outcome = check_tree(capsys, tmp_path, root, ["/soc"] * 1000)
    assert "the entries up to this one give more than 131,072 nodes" in outcome.out + outcome.err


def test_dma_ranges_that_no_bus_has_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small_tree()
    bus(root).set("dma-ranges", pack(">QQQ", 0, 0, 0x1000) * 20_000)
    for number in range(1000):
        dev = bus(root).child(f"ethernet@{number:x}").set_u64("reg", 0x1000_0000 + number * 0x1000, 0x1000)
        dev.set("dma-coherent")
    outcome = check_tree(capsys, tmp_path, root, ["/soc"])
    assert outcome.err == (
        f"stage2: error: {tmp_path}/host.dtb: /soc: has dma-ranges of 480,000 bytes: 4,096 are allowed\n"
    )


def test_a_reg_of_a_mebibyte_is_refused_before_it_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small_tree()
    bus(root).child("dev@0").set("reg", pack(">QQ", 0x1000_0000, 0x1000) * 100_000)
    outcome = check_tree(capsys, tmp_path, root)
    assert outcome.err == f"stage2: error: {tmp_path}/host.dtb: / has more than 16,384 ranges of registers\n"


@pytest.mark.parametrize("cells", [0, 3, 0x8000_0000, 0xFFFF_FFFF])
def test_odd_numbers_of_cells_are_no_addresses(tmp_path: Path, capsys: pytest.CaptureFixture[str], cells: int) -> None:
    root = small_tree()
    bus(root).set("#address-cells", cells).set("ranges", bytes(range(256)) * 4)
    bus(root).child("dev@0").set("reg", bytes(37))
    assert check_tree(capsys, tmp_path, root, ["/soc/dev@0"]).code in (0, 1)


# --- what all of that stands on ----------------------------------------------------------------------------------


def test_an_index_of_ranges_finds_what_a_look_at_all_of_them_finds() -> None:
    spans = [Range.sized(start * 7 % 101, 1 + start * start % 23) for start in range(60)]
    index = RangeIndex((span, number) for number, span in enumerate(spans))
    for start in range(0, 130, 3):
        for size in (1, 5, 40):
            asked = Range.sized(start, size)
            found = sorted(number for _, number in index.meeting(asked))
            assert found == [number for number, span in enumerate(spans) if span.overlaps(asked)]


def test_check_imports_neither_numba_nor_numpy(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, small_tree())
    vm = vm_file(tmp_path, given(["/soc"]))
    program = (
        "import sys; from stage2.cli.main import call; "
        f"code = call(['check', {str(vm)!r}, '--generation', 'head', '--host-dtb', {str(tree)!r}]); "
        "print(code, sorted({'numba', 'numpy', 'llvmlite'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_S, check=True)
    assert done.stderr in ("0 []\n", "1 []\n")
