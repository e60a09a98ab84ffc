"""`stage2 conform`: our walker against MMUs that others wrote."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import Parameter

from ..errors import ConfigError, HostToolError, MachineError

if TYPE_CHECKING:
    from ..conform.batch import Crew
    from ..conform.oracle import Oracle, Pair
    from ..conform.run import OracleReport

T = TypeVar("T")
MAX_JOBS = 1024
_LINE_S = 60
_CLEAR = "\r\x1b[K"
"""Begins a line of the terminal anew."""


def conform(
    *,
    oracle: Annotated[list[str] | None, Parameter(negative="")] = None,
    cases: int | None = None,
    seed: int = 1,
    format_name: Annotated[list[str] | None, Parameter(name="--format", negative="")] = None,
    long: Annotated[bool, Parameter(negative="")] = False,
    tlb: Annotated[bool, Parameter(negative="")] = False,
    jobs: int = 1,
    scheduler: str | None = None,
    plant: str | None = None,
    report: Path | None = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Compare our walker with the MMUs of QEMU and Bochs on random tables.

    Exit code 0: nothing is unexplained; 1: something is; 2: bad input, or an emulator is missing or does not start.

    Parameters
    ----------
    oracle
        qemu-aarch64, qemu-riscv64, qemu-x86-svm or bochs-ept, which are the emulators of this machine; or of a
        generation that `stage2 fetch` fetches, such as qemu-10-aarch64 or bochs-3-ept. May be given several times. All
        that can be had by default.
    cases
        Accesses and translations to compare, for each oracle. A short form by default.
    seed
        Of the first batch of tables. The same seed makes the same tables.
    format_name
        Only pairs with this format (sv39x4), a pair as reports name it ("sv39 over sv39x4"), or the hypervisor's own
        regimes on QEMU's AArch64: el2, el2-vhe.
    long
        The long form: two million for QEMU's AArch64 and RISC-V, a million for x86 NPT, 100,000 for EPT; and --tlb.
    tlb
        Also what edits owe to TLBs: every kind of edit on QEMU's AArch64, with its invalidations and without.
    jobs
        Do the batches on so many processes, each with an emulator of its own; the report is the same.
    scheduler
        Do them on the Dask cluster whose scheduler is at this address, such as tcp://10.0.0.1:8786 (docs/campaigns.md).
    plant
        Plant an error in our walker, to see that it is found: writable, address, reserved, hole.
    report
        Write the page for the documentation to this file.
    json_output
        Print JSON instead of text.
    """
    from ..conform.batch import in_this_process
    from ..conform.oracles import by_name, usual
    from ..conform.plant import plant as planted
    from ..conform.run import LONG, SHORT, run
    from ..conform.tlb import run_tlb, shows_its_tlb
    from ..conform.trial import as_it_is
    from ..render.conform import render_reports, report_json, report_markdown
    from ..render.json_text import json_text
    from ..render.tables import print_renderable

    if cases is not None and cases < 1:
        raise ConfigError(f"--cases {cases}: at least one case is needed")
    if seed < 0:
        raise ConfigError(f"--seed {seed}: a seed is not negative")
    if jobs < 1 or jobs > MAX_JOBS:
        raise ConfigError(f"--jobs {jobs}: at least one process is needed. Limit: {MAX_JOBS:,}")
    if jobs > 1 and scheduler is not None:
        raise ConfigError("--jobs and --scheduler: say one of them; a cluster has as many processes as it has workers")
    put = planted(plant) if plant is not None else as_it_is
    work = _work([by_name(name) for name in oracle] if oracle else list(usual()), format_name or [])
    missing = _Missing(named=bool(oracle))
    reports, tlbs = [], []
    with ExitStack() as stack:
        crew = _crew(jobs, scheduler, stack)
        for found, pairs in work:
            count = cases if cases is not None else (LONG if long else SHORT)[found.kind]

            def ask(found: Oracle = found, pairs: tuple[Pair, ...] = pairs, count: int = count) -> OracleReport:
                progress = _Progress(count, lines=crew is not in_this_process)
                return run(found, cases=count, seed=seed, pairs=pairs, planted=put, progress=progress, crew=crew)

            made = missing.unless(found, ask)
            reports += [] if made is None else [made]
            if made is not None and (tlb or long) and shows_its_tlb(found):
                shown = missing.unless(found, lambda found=found: run_tlb(found))  # type: ignore[misc]
                tlbs += [] if shown is None else [shown]
    missing.tell()
    if report is not None and reports:
        try:
            report.write_text(report_markdown(reports, seed, tlbs), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--report {report}: {error.strerror}") from None
    if json_output:
        print(json_text("conform", report_json(reports, tlbs)))
    elif reports:
        print_renderable(render_reports(reports, tlbs))
    if any(found.mismatches for found in reports) or any(found.wrong for found in tlbs):
        return 1
    return 2 if missing.is_failure else 0


def _work(chosen: list[Oracle], wanted: list[str]) -> list[tuple[Oracle, tuple[Pair, ...]]]:
    """The oracles that have something to do, and their pairs."""
    from ..conform.run import chosen_pairs

    work = []
    for found in chosen:
        try:
            work.append((found, chosen_pairs(found, wanted)))
        except ConfigError:
            # Several oracles: those that do not know the format have nothing to do.
            if len(chosen) == 1:
                raise
    if not work:
        known = ", ".join(pair.name for found in chosen for pair in found.pairs)
        raise ConfigError(f"--format {', '.join(wanted)}: no oracle answers for that; they answer for {known}")
    return work


def _crew(jobs: int, scheduler: str | None, stack: ExitStack) -> Crew:
    """Who does the batches.

    Raises:
        HostToolError: Dask is not installed, or its scheduler does not answer.
    """
    from ..conform.batch import in_this_process

    if scheduler is not None:
        from ..conform.cluster import ClusterCrew

        return stack.enter_context(ClusterCrew(scheduler))
    if jobs > 1:
        from ..conform.workers import LocalCrew

        return LocalCrew(jobs, notice=_notice)
    return in_this_process


def _notice(sentence: str) -> None:
    print(f"{_CLEAR if sys.stderr.isatty() else ''}stage2: notice: {sentence}", file=sys.stderr, flush=True)


class _Progress:
    """How far a run is: on a terminal after each batch, in a log once a minute.

    Args:
        cases: wanted.
        lines: whether it is to be told where standard error is no terminal.
    """

    def __init__(self, cases: int, *, lines: bool) -> None:
        self._cases, self._lines, self._told = cases, lines, 0.0

    def __call__(self, done: OracleReport) -> None:
        text = f"{done.oracle}: {done.verdict.cases:,} of {self._cases:,} cases, {done.mismatches:,} mismatches"
        if sys.stderr.isatty():
            print(f"{_CLEAR}{text}", end="", file=sys.stderr, flush=True)
        elif self._lines and done.seconds >= self._told + _LINE_S:
            self._told = done.seconds
            print(f"{text}, {done.seconds:,.0f} s", file=sys.stderr, flush=True)


class _Missing:
    """Emulators that are not there: a line for each, however many oracles it would have been.

    Args:
        named: whether the oracles were named; then one that is missing is a failure. Otherwise another generation than
            the machine's own may be missing, but not in CI.
    """

    def __init__(self, *, named: bool) -> None:
        self._strict = named or bool(os.environ.get("CI"))
        self._left_out: dict[str, list[str]] = {}
        self.is_failure = False

    def unless(self, oracle: Oracle, ask: Callable[[], T]) -> T | None:
        """What an oracle says, None if its emulator is missing or is lost."""
        try:
            return ask()
        except HostToolError as error:
            self.is_failure |= self._strict or oracle.name == oracle.kind
            self._left_out.setdefault(str(error), []).append(oracle.name)
        except MachineError as error:
            self.is_failure = True
            print(f"stage2: {oracle.name}: {error}", file=sys.stderr)
        finally:
            if sys.stderr.isatty():
                print(_CLEAR, end="", file=sys.stderr, flush=True)
        return None

    def tell(self) -> None:
        """Say what is missing."""
        for reason, oracles in self._left_out.items():
            print(f"stage2: {', '.join(oracles)}: {reason}", file=sys.stderr)
