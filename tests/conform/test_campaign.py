"""Batches done by other processes come to the same report, and a process that is lost changes nothing.

A stand-in answers for a machine, but for the last test.
"""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from rich.console import Console
from stand_in import StandIn

import effort
from opening import oracle_or_skip
from stage2.conform.batch import Batch, BatchRunner, Crew, Done, Judge, in_this_process, unpack
from stage2.conform.once import first_of_a_pair
from stage2.conform.oracle import Case, Machine, Oracle, Pair, Places
from stage2.conform.plant import plant
from stage2.conform.probe import Answers
from stage2.conform.run import OracleReport, run
from stage2.conform.trial import Replace, as_it_is
from stage2.conform.workers import LocalCrew
from stage2.errors import HostToolError, MachineError
from stage2.render.conform import render_reports, report_json
from waiting import HANG_S, comes_to_rest, until

PAIRS = (
    Pair("sv39x4 alone", None, "sv39x4", (), ("ad",)),
    Pair("sv39 over sv39x4", "sv39", "sv39x4", ("ad", "sum"), ("ad",)),
)


def told(report: OracleReport) -> tuple[str, str]:
    """All that is told of a run, as JSON and as text, but for how long it took."""
    timeless = replace(report, seconds=0.0)
    text = io.StringIO()
    Console(file=text, width=200).print(render_reports([timeless]))
    return json.dumps(report_json([timeless])), text.getvalue()


def asked(
    crew: Crew,
    oracle: Oracle | None = None,
    *,
    cases: int = 3000,
    planted: Replace = as_it_is,
    progress: Callable[[OracleReport], None] = lambda _: None,
) -> OracleReport:
    found = StandIn(PAIRS) if oracle is None else oracle
    return run(found, cases=cases, seed=3, planted=planted, crew=crew, progress=progress)


KINDS: dict[str, tuple[StandIn, Replace]] = {
    "right": (StandIn(PAIRS), as_it_is),
    "planted": (StandIn(PAIRS), plant("writable")),
    "a little in each batch": (StandIn(PAIRS, forgets=True), as_it_is),
}


@cache
def alone(kind: str) -> OracleReport:
    """What one process finds, without any other."""
    oracle, planted = KINDS[kind]
    return asked(in_this_process, oracle, planted=planted)


@pytest.mark.parametrize("jobs", [1, 2, 3] if effort.FACTOR > 1 else [2])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_processes_tells_what_one_does(kind: str, jobs: int) -> None:
    oracle, planted = KINDS[kind]
    wanted = alone(kind)
    assert told(asked(LocalCrew(jobs), oracle, planted=planted)) == told(wanted)
    assert (wanted.mismatches > 0) == (kind != "right")
    assert (wanted.batches > 1) == (kind != "planted")


def test_the_batches_of_a_worker_that_is_killed_are_repeated() -> None:
    oracle, _ = KINDS["a little in each batch"]
    notices: list[str] = []
    crew = LocalCrew(2, notices.append)
    killed: list[int] = []

    def kill_one(report: OracleReport) -> None:
        if report.batches in (1, 4):
            killed.append(crew.pids[report.batches % 2])
            os.kill(killed[-1], signal.SIGKILL)

    report = asked(crew, oracle, progress=kill_one)
    assert told(report) == told(alone("a little in each batch"))
    assert report.found
    assert killed
    # One that is killed when all is done is not missed.
    assert {notice.split()[1] for notice in notices} <= {str(pid) for pid in killed}
    assert notices
    assert all(notice.endswith("its batches are repeated") for notice in notices)


@dataclass
class Loses(StandIn):
    """Args: how: what is lost by every batch of the second pair."""

    how: str = "machine"

    def answers(self, machine: Machine, case: Case) -> Answers:
        if case.pair.name == PAIRS[1].name:
            if self.how == "worker":
                os.kill(os.getpid(), signal.SIGKILL)
            raise MachineError("the machine is lost")
        return super().answers(machine, case)


def test_a_machine_that_is_lost_is_told_as_by_one_process_and_given_up_as_soon() -> None:
    alone = asked(in_this_process, Loses(PAIRS))
    assert [found.lost for found in alone.found] == ["the machine is lost"] * 4
    assert told(asked(LocalCrew(2), Loses(PAIRS))) == told(alone)


def test_a_batch_that_ends_one_worker_after_the_other_is_given_up_and_named() -> None:
    crew = LocalCrew(2)
    with pytest.raises(MachineError, match=r"3 workers ended one after the other on sv39 over sv39x4, seed \d+, 256 "):
        asked(crew, Loses(PAIRS, how="worker"))
    assert crew.pids == []


@dataclass
class Absent(StandIn):
    def places(self, machine: Machine, pair: Pair) -> Places:
        raise HostToolError("it is not installed")


def test_what_a_worker_raises_is_raised_here() -> None:
    with pytest.raises(HostToolError, match="it is not installed"):
        asked(LocalCrew(2), Absent(PAIRS))


def test_workers_end_with_the_run_however_it_ends() -> None:
    crew = LocalCrew(2)
    pids: set[int] = set()

    def interrupt(_: OracleReport) -> None:
        pids.update(crew.pids)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked(crew, progress=interrupt)
    assert len(pids) == 2
    assert crew.pids == []
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "a worker outlived its run")


def test_a_plan_is_not_asked_for_much_more_than_is_done() -> None:
    """A campaign of 10^9 cases has more batches than memory may hold."""
    drawn = 0

    def plan() -> Iterator[Batch]:
        nonlocal drawn
        for seed in range(40):
            drawn += 1
            yield Batch(PAIRS[0], seed, 64, 0)

    done: Done = LocalCrew(2)(Judge(StandIn(PAIRS), "0"), plan())
    for number, (batch, _) in enumerate(done):
        assert batch.seed == number
        assert drawn <= number + 1 + 8
    assert drawn == 40


def test_an_outcome_comes_through_as_it_was_with_the_walkers_own_formats() -> None:
    judge = Judge(StandIn(PAIRS), "0", plant("writable"))
    there = judge.trial()
    with BatchRunner(judge) as runner:
        for pair in PAIRS:
            for seed in range(20):
                outcome = runner.run(Batch(pair, seed, 256, 1))
                if outcome.shrunk and outcome.shrunk[0].mismatch.difference is not None:
                    break
            same = unpack(runner.pack(outcome), there)
            assert same.verdict is not None
            assert outcome.verdict is not None
            assert same.verdict.outcomes == outcome.verdict.outcomes
            was, now = outcome.shrunk[0].mismatch, same.shrunk[0].mismatch
            assert now.case.stage_2 == was.case.stage_2
            assert now.case.probes.tolist() == was.case.probes.tolist()
            assert now.words.tolist() == was.words.tolist()
            assert was.difference is not None
            assert now.difference is not None
            assert now.difference.walk.steps == was.difference.walk.steps
            regime = now.difference.walk.stage_2
            assert regime is not None
            assert regime.format.name == f"{pair.second} (writable)"


def _meet(pair: Pair, inside: Event, go_on: Event) -> None:
    with first_of_a_pair(pair):
        inside.set()
        assert go_on.wait(HANG_S)


def test_while_one_process_compiles_for_a_pair_the_others_wait_and_other_pairs_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGE2_CACHE", str(tmp_path))
    context = get_context("spawn")
    entered, go_on = [context.Event() for _ in range(3)], context.Event()
    first = context.Process(target=_meet, args=(PAIRS[0], entered[0], go_on), daemon=True)
    second = context.Process(target=_meet, args=(PAIRS[0], entered[1], go_on), daemon=True)
    other = context.Process(target=_meet, args=(PAIRS[1], entered[2], go_on), daemon=True)
    first.start()
    assert entered[0].wait(HANG_S)
    second.start()
    other.start()
    assert entered[2].wait(HANG_S)
    assert second.pid is not None
    # However late it starts, it ends up waiting and not inside.
    assert comes_to_rest(second.pid)
    assert not entered[1].is_set()
    go_on.set()
    for process in (first, second, other):
        process.join(HANG_S)
        assert process.exitcode == 0
    assert entered[1].is_set()


def test_without_a_place_for_locks_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STAGE2_CACHE", str(tmp_path / "file"))
    with first_of_a_pair(Pair("nowhere", None, "sv39x4")), first_of_a_pair(Pair("nowhere", None, "sv39x4")):
        pass


def test_two_processes_tell_of_a_real_machine_what_one_does() -> None:
    oracle = oracle_or_skip("qemu-aarch64")
    pairs = [pair for pair in oracle.pairs if "arm-s2-4k-40" in (pair.first, pair.second)]

    def of(crew: Crew) -> OracleReport:
        return run(oracle, cases=8000, seed=11, pairs=pairs, crew=crew)

    alone = of(in_this_process)
    assert told(of(LocalCrew(2))) == told(alone)
    assert alone.verdict.cases >= 8000
