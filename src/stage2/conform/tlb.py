"""What edits owe to TLBs, on an oracle's machine: every scene with what it owes, without it, and edits at random."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ..errors import StaleTranslationError
from .oracle import Oracle
from .oracles.qemu_aarch64 import QemuAArch64
from .tlb_scenes import INVISIBLE, SCENES, not_shown
from .tlb_truth import ALONE, GUEST, UNDER, Hardware, Kind, Scene, left_out, played, started, wander

EDITS, SEEDS = 100, 3
"""Of the random edits: so many one after the other, with so many seeds."""
_EVERYTHING = range(1000)


@dataclass(slots=True)
class TlbReport:
    """What an oracle's TLB showed.

    Args:
        oracle, version: whose.
        scenes: edits that were played with all that they owe, and left nothing stale.
        seen: operation -> how often it was seen that it was left out.
        hidden: operation -> how often it was not, as is known of this emulator.
        accesses: made after random edits, none of them stale.
        wrong: what was otherwise than it ought to be, in sentences.
        seconds: wall time.
    """

    oracle: str
    version: str
    scenes: int = 0
    seen: dict[str, int] = field(default_factory=dict)
    hidden: dict[str, int] = field(default_factory=dict)
    accesses: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """The JSON object."""
        return {
            "oracle": self.oracle,
            "version": self.version,
            "scenes": self.scenes,
            "seen": dict(sorted(self.seen.items())),
            "hidden": dict(sorted(self.hidden.items())),
            "accesses": self.accesses,
            "wrong": self.wrong,
            "seconds": round(self.seconds, 2),
        }


def shows_its_tlb(oracle: Oracle) -> bool:
    """Whether there are scenes for an oracle: those of QEMU's AArch64, whose TLB keeps what it is not told to drop."""
    return isinstance(oracle, QemuAArch64)


def run_tlb(oracle: Oracle) -> TlbReport:
    """Play all scenes on a machine of an oracle.

    Raises:
        HostToolError, MachineError: it cannot be had, or is lost.
    """
    assert isinstance(oracle, QemuAArch64)
    report, began = TlbReport(oracle.name, oracle.version()), time.perf_counter()
    with started(oracle) as hardware:
        for scene in SCENES:
            for kind in scene.kinds:
                _play(report, hardware, scene, kind)
        for kind in (ALONE, UNDER, GUEST):
            for seed in range(SEEDS):
                try:
                    report.accesses += wander(hardware, kind, seed, EDITS)
                except StaleTranslationError as error:
                    report.wrong.append(str(error))
    report.seconds = time.perf_counter() - began
    return report


def _play(report: TlbReport, hardware: Hardware, scene: Scene, kind: Kind) -> None:
    """One scene: with what it owes, without any of it, and without one operation at a time."""
    where = f"{scene.name}, {kind.name}"
    stale, owed = played(hardware, scene, kind)
    if stale or not owed:
        report.wrong.append(f"{where}: {stale} stale accesses after {len(owed)} operations")
    else:
        report.scenes += 1
    if (played(hardware, scene, kind, leave_out=_EVERYTHING)[0] == 0) != (scene.name in INVISIBLE):
        report.wrong.append(f"{where}: what shows without any operation is not what is known of this emulator")
    for found in left_out(hardware, scene, kind):
        counts = report.seen if found.stale else report.hidden
        counts[found.operation] = counts.get(found.operation, 0) + 1
        if (found.stale == 0) != (not_shown(found) is not None):
            report.wrong.append(f"{where}, without {found.operation}: {found.stale} stale accesses")
