"""A campaign on a cluster of two workers on loopback; a stand-in answers for a machine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from stand_in import StandIn
from test_campaign import KINDS, PAIRS, asked, told

from stage2.cli.main import call
from stage2.conform.batch import Batch, Judge, in_this_process
from stage2.conform.cluster import ClusterCrew, Sent, do
from stage2.conform.run import OracleReport
from stage2.errors import HostToolError

NOBODY = "tcp://127.0.0.1:9"
"""Nobody listens at the port of the discard protocol."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    if not os.environ.get("CI"):
        pytest.importorskip("distributed")
    import distributed

    # A loopback address for everything, and no pages for people.
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as found:
        yield found


def test_a_cluster_tells_what_one_process_does_though_a_worker_is_killed(cluster: Any) -> None:
    oracle, _ = KINDS["a little in each batch"]
    killed: list[int] = []

    def kill_one(report: OracleReport) -> None:
        if report.batches == 1:
            worker = next(iter(cluster.workers.values()))
            killed.append(worker.process.pid)
            os.kill(killed[0], signal.SIGKILL)

    with ClusterCrew(cluster.scheduler_address, task=2) as crew:
        report = asked(crew, oracle, progress=kill_one)
    assert len(killed) == 1
    assert told(report) == told(asked(in_this_process, oracle))
    assert report.found


def test_several_campaigns_can_be_run_one_after_the_other(cluster: Any) -> None:
    with ClusterCrew(cluster.scheduler_address, task=3) as crew:
        first, second = (asked(crew, cases=4000) for _ in range(2))
    assert told(first) == told(second) == told(asked(in_this_process, cases=4000))


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
    if not os.environ.get("CI"):
        pytest.importorskip("distributed")
    monkeypatch.setattr("stage2.conform.cluster._ANSWER_S", 1)
    assert call(["conform", "--oracle", "qemu-aarch64", "--scheduler", NOBODY]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"--scheduler {NOBODY}: no scheduler of Dask answers there" in error


def test_without_dask_one_line_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert call(["conform", "--oracle", "qemu-aarch64", "--scheduler", NOBODY]) == 2
    error = capsys.readouterr().err
    assert error == "stage2: error: --scheduler needs Dask, which is not installed: pip install 'stage2[cluster]'\n"
