"""Dumps of machines whose tables other hypervisors wrote, made by hand: `python scripts/hypervisor_dumps.py OUTDIR`.

Linux with its KVM and two VMs on each architecture, and Xen with two domains: what the tests make for themselves.
NAME.elf is what `stage2 walk` and its siblings read; NAME.json has the registers, the roots, and what the kernels told.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "inspect")]

import kvm_machines  # noqa: E402
import xen_machine  # noqa: E402

XEN = "xen"


def main(words: list[str]) -> None:
    """Make dumps.

    Args:
        words: of the command line.
    """
    names = [*kvm_machines.VARIANTS, XEN]
    usual = [*kvm_machines.USUAL, XEN]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("outdir", type=Path)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(names)}; without any {', '.join(usual)}")
    given = parser.parse_args(words)
    if not set(given.name) <= set(names):
        parser.error(f"there is {', '.join(names)}")
    given.outdir.mkdir(parents=True, exist_ok=True)
    for name in given.name or usual:
        with tempfile.TemporaryDirectory(dir=given.outdir) as work:
            made, facts = _made(name, Path(work))
            made.core.rename(given.outdir / f"{name}.elf")
        (given.outdir / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
        print(f"{name}: {made.seconds[0]:.1f} s to boot, {made.seconds[1]:.1f} s to dump", flush=True)


def _made(name: str, work: Path) -> tuple[kvm_machines.KvmMachine | xen_machine.XenMachine, dict[str, object]]:
    if name == XEN:
        xen = xen_machine.make(work)
        return xen, xen_machine.facts(xen)
    kvm = kvm_machines.make(name, work)
    return kvm, kvm_machines.facts(kvm)


if __name__ == "__main__":
    main(sys.argv[1:])
