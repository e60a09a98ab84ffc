"""The options of `stage2 run` that save a VM or go on from a saved one, and what is said of it at the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..engines.saving import Saved, Saving


def saving_of(
    restore: Path | None,
    snapshot: Path | None,
    precopy: Path | None,
    save_at: float | None,
    rounds: int | None,
    until: int | None,
    *,
    several: bool,
) -> Saving | None:
    """What the options ask for; None where they ask for nothing.

    Raises:
        ConfigError: they contradict each other, or the number of VMs.
    """
    files = {"--restore": restore, "--snapshot": snapshot, "--precopy": precopy}
    used = [option for option, file in files.items() if file is not None]
    if snapshot is not None and precopy is not None:
        raise ConfigError("--snapshot and --precopy both save the VM: give one of them")
    if save_at is not None and snapshot is None and precopy is None:
        raise ConfigError("--save-at says when --snapshot is taken or --precopy begins: give one of them")
    if save_at is not None and not 0 <= save_at <= _LATEST_MS:
        raise ConfigError(f"--save-at {save_at:g} must be from 0 to {_LATEST_MS:g} ms")
    for option, value, least in (("--precopy-rounds", rounds, 1), ("--precopy-until", until, 0)):
        if value is not None and precopy is None:
            raise ConfigError(f"{option} is about --precopy, which is not given")
        if value is not None and value < least:
            raise ConfigError(f"{option} {value} must be {least} or more")
    if not used:
        return None
    if several:
        raise ConfigError(f"{used[0]} with several VMs: a file holds one, which must run alone")
    from ..engines.saving import Saving
    from ..hypervisor.time import NANOS_PER_MS, TimeValue
    from ..vm.snapshots.precopy import ROUNDS, UNTIL

    return Saving(
        restore=restore,
        snapshot=snapshot,
        precopy=precopy,
        at=None if save_at is None else TimeValue(int(save_at * NANOS_PER_MS)),
        rounds=ROUNDS if rounds is None else rounds,
        until=UNTIL if until is None else until,
    )


_LATEST_MS = 1e12
"""Some thirty years, far below where a clock's 64 bits end."""


def print_saved(saved: Saved | None, *, quiet: bool) -> None:
    """Say what was saved; why something was not goes to standard error, whatever else is to be quiet."""
    if saved is None:
        return
    if saved.problem is not None:
        print(f"error: {saved.problem}", file=sys.stderr)
    if quiet:
        return
    from ..hypervisor.time import NANOS_PER_SEC

    if saved.restored is not None:
        one = saved.restored
        print(f"went on from {one.file}: {one.pages:,} pages, at {one.nanos / NANOS_PER_SEC:.6f} s of the guest's time")
    if saved.snapshot is not None:
        one = saved.snapshot
        print(f"snapshot in {one.file}: {one.pages:,} pages, at {one.nanos / NANOS_PER_SEC:.6f} s of the guest's time")
    if saved.precopy is not None:
        copy = saved.precopy
        rounds = ", ".join(f"{one.pages:,}" for one in copy.rounds)
        print(
            f"copied to {copy.file}: {copy.pages:,} pages, at {copy.nanos / NANOS_PER_SEC:.6f} s of the guest's time; "
            f"by round {rounds} pages, then {copy.last.pages:,} in {copy.downtime_s * 1000:.1f} ms of downtime"
        )
