"""`stage2 check` on many files: 1,000 VM files alone, and 20 VMs on a host whose device tree has 200 devices.

In this process beside what reading the same files with tomllib alone takes, and as whole commands beside
`import numpy`, which no check needs.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stage2.check.every import check_setup
from stage2.check.setup import Setup, set_up
from stage2.cli.main import call
from stage2.cli.vm_files import load_machine, read_vms
from stage2.images.fdt import Node, flatten

from .measure import Row
from .starts import STAGE2, Start, beside, run

FILES, VMS, NODES = 1000, 20, 200
GOALS_S = {"check 1,000 VM files": 2.0, "check 20 VMs on 200 nodes": 1.0}
"""Whole commands, CPU time."""
_MS = 1e-3
_SIZE = 0x20_0000


def _vm(number: int, base: int, devices: str) -> str:
    return (
        f'[base]\nid = {number}\nname = "vm{number}"\narch = "riscv64"\nvm_type = 1\ncpu_num = 1\n\n[kernel]\n'
        f"entry_point = {base:#x}\nkernel_load_addr = {base:#x}\nmemory_regions = [[{base:#x}, {_SIZE:#x}, 0x7, 1]]\n\n"
        f"[devices]\npassthrough_devices = [{devices}]\n"
    )


def many_files(folder: Path) -> list[str]:
    """Arguments of `check`: 1,000 VM files of the seed's format that fit together."""
    names = []
    for number in range(FILES):
        device = 0x1000_0000 + number * 0x1000
        text = _vm(number, 0x8000_0000 + number * _SIZE, f'["device", {device:#x}, {device:#x}, 0x1000, 0]')
        names.append(str(folder / f"vm{number}.toml"))
        Path(names[-1]).write_text(text)
    return [*names, "--generation", "seed"]


def on_a_tree(folder: Path) -> list[str]:
    """Arguments of `check`: 20 VMs that are given ten devices each of a tree's 200."""
    root = Node("").set("#address-cells", 2).set("#size-cells", 2).set("model", "benchmark")
    root.child("memory@80000000").set("device_type", "memory").set_u64("reg", 0x8000_0000, 0x1_0000_0000)
    cpu = root.child("cpus").set("#address-cells", 1).set("#size-cells", 0).child("cpu@0")
    cpu.set("device_type", "cpu").set("reg", 0).set("compatible", "riscv").set("mmu-type", "riscv,sv39")
    soc = root.child("soc").set("#address-cells", 2).set("#size-cells", 2).set("compatible", "simple-bus").set("ranges")
    paths = []
    for number in range(NODES):
        start = 0x1000_0000 + number * 0x1000
        soc.child(f"device@{start:x}").set("compatible", "virtio,mmio").set_u64("reg", start, 0x800)
        paths.append(f"/soc/device@{start:x}")
    tree = folder / "host.dtb"
    tree.write_bytes(flatten(root))
    names = []
    for number in range(VMS):
        devices = ", ".join(f'["{path}"]' for path in paths[number::VMS])
        names.append(str(folder / f"vm{number}.toml"))
        Path(names[-1]).write_text(_vm(number, 0x8000_0000 + number * _SIZE, devices))
    return [*names, "--generation", "head", "--host-dtb", str(tree)]


_CASES = {"check 1,000 VM files": many_files, "check 20 VMs on 200 nodes": on_a_tree}


def _vms(arguments: Sequence[str]) -> list[Path]:
    return [Path(name) for name in arguments if name.endswith(".toml")]


def _setup(arguments: Sequence[str]) -> Setup:
    tree = next((Path(name) for name in arguments if name.endswith(".dtb")), None)
    host, found = load_machine(None, tree)
    return set_up(read_vms(_vms(arguments), "head" if tree else "seed", None, found, lenient=True), host, found)


@contextmanager
def check_rows() -> Iterator[list[Row]]:
    """The rules alone on files that are read and planned, and everything that the command does."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as held:
        for name, make in _CASES.items():
            folder = Path(held, str(len(rows)))
            folder.mkdir()
            arguments = make(folder)
            setup = _setup(arguments)

            def command(arguments: Sequence[str] = tuple(arguments)) -> None:
                with contextlib.redirect_stdout(io.StringIO()):
                    code = call(["check", *arguments])
                if code not in (0, 1):
                    raise SystemExit(f"check ended with {code}")

            def rules(setup: Setup = setup) -> None:
                check_setup(setup)

            def toml(files: Sequence[Path] = tuple(_vms(arguments))) -> None:
                for file in files:
                    tomllib.loads(file.read_text())

            differs = "is tomllib, which reads the VM files and checks nothing"
            rows.append(Row(f"{name}: rules", "ms", _MS, rules, toml, differs=differs))
            rows.append(Row(name, "ms", _MS, command, toml, differs=differs))
        yield rows


def check_starts(runs: int) -> list[Start]:
    """The same as whole commands, beside `import numpy` in turns."""
    found = []
    numpy = (sys.executable, "-c", "import numpy")
    for name, make in _CASES.items():
        with tempfile.TemporaryDirectory() as held:
            folder = Path(held)
            command = (*STAGE2, "check", *make(folder))
            run(command, folder, folder)
            pairs = [(run(command, folder, folder), run(numpy, folder, folder)) for _ in range(runs)]
            found.append(beside(name, pairs, GOALS_S[name]))
    return found
