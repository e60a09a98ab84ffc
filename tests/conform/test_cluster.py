"""A campaign on a cluster of two workers on loopback; a stand-in answers for a machine."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from stand_in import StandIn
from test_campaign import KINDS, PAIRS, alone, asked, told

from stage2.cli.main import call
from stage2.conform.batch import Batch, Judge, in_this_process
from stage2.conform.cluster import ClusterCrew, Sent, do
from stage2.conform.run import OracleReport
from stage2.errors import HostToolError, MachineError

NOBODY = "tcp://127.0.0.1:9"
"""Nobody listens at the port of the discard protocol."""


def dask_or_skip() -> Any:
    """The package; without it the test is skipped, but in CI it fails."""
    return import_module("distributed") if os.environ.get("CI") else pytest.importorskip("distributed")


def local_cluster(workers: int, *, processes: bool) -> Any:
    """A cluster that listens on loopback only."""
    return dask_or_skip().LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=processes, protocol="tcp://", host="127.0.0.1",
        dashboard_address="127.0.0.1:0", worker_dashboard_address="127.0.0.1:0", silence_logs=50,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with local_cluster(2, processes=True) as found:
        yield found


def test_a_cluster_tells_what_one_process_does_though_a_worker_is_killed(cluster: Any) -> None:
    killed: list[int] = []

    def kill_one(report: OracleReport) -> None:
        if report.batches == 1:
            worker = next(iter(cluster.workers.values()))
            killed.append(worker.process.pid)
            os.kill(killed[0], signal.SIGKILL)

    with ClusterCrew(cluster.scheduler_address, task=2) as crew:
        report = asked(crew, cases=6000, progress=kill_one)
    assert len(killed) == 1
    assert told(report) == told(asked(in_this_process, cases=6000))


def test_several_campaigns_can_be_run_one_after_the_other(cluster: Any) -> None:
    with ClusterCrew(cluster.scheduler_address, task=3) as crew:
        for kind, (oracle, planted) in KINDS.items():
            assert told(asked(crew, oracle, planted=planted)) == told(alone(kind))


def test_a_scheduler_that_is_lost_ends_the_run_with_a_sentence() -> None:
    cluster = local_cluster(1, processes=False)
    address = cluster.scheduler_address
    with cluster, ClusterCrew(address, task=1) as crew:
        # So long Dask waits for the scheduler to come back; what is told then is the same.
        crew._client._timeout = 1
        with pytest.raises(MachineError, match=f"^--scheduler {re.escape(address)}: "):
            asked(crew, progress=lambda _: cluster.close())


def test_a_worker_of_another_version_refuses(cluster: Any) -> None:
    batches = [Batch(PAIRS[0], 1, 64, 0)]
    with pytest.raises(HostToolError, match="a worker has other sources of stage2, or another numpy, than whoever"):
        do(Sent(Judge(StandIn(PAIRS), "0"), "other sources"), batches)
    with (
        ClusterCrew(cluster.scheduler_address) as crew,
        pytest.raises(HostToolError, match="a worker has stand-in 0, and whoever asks it 1"),
    ):
        list(crew(Judge(StandIn(PAIRS), "1"), iter(batches)))


def test_a_scheduler_that_does_not_answer_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dask_or_skip()
    monkeypatch.setattr("stage2.conform.cluster._ANSWER_S", 1)
    assert call(["conform", "--oracle", "qemu-aarch64", "--scheduler", NOBODY]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"--scheduler {NOBODY}: no scheduler of Dask answers there" in error


def test_a_cluster_without_workers_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stage2.conform.cluster._WORKERS_S", 0.1)
    with local_cluster(0, processes=False) as empty:
        assert call(["conform", "--oracle", "qemu-aarch64", "--scheduler", empty.scheduler_address]) == 2
    assert "it has no workers: start some with dask worker tcp://127.0.0.1:" in capsys.readouterr().err


def test_without_dask_one_line_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert call(["conform", "--oracle", "qemu-aarch64", "--scheduler", NOBODY]) == 2
    error = capsys.readouterr().err
    assert error == "stage2: error: --scheduler needs Dask, which is not installed: pip install 'distributed>=2026.8'\n"
