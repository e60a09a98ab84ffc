"""`stage2 run --paranoid`: what is said of the proofs, and what it does not go with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stage2.cli.main import call

pytest.importorskip("unicorn")

GUEST = Path(__file__).parents[2] / "src" / "stage2" / "vm" / "guests" / "demo-riscv64.toml"


def test_a_paranoid_run_says_how_often_it_proved_what(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = tmp_path / "run.json"
    assert call(["run", str(GUEST), "--paranoid", "--json", str(report)]) == 0
    found = json.loads(report.read_text())["isolation"]
    holds = {one["name"]: one["holds"] for one in found["theorems"]}
    assert found["proved"]
    assert holds == {
        "apart": True, "owned": True, "declared": True, "wx": None, "wellformed": True, "tlb": True, "dma": None,
    }  # fmt: skip
    assert found["proofs"] > 2
    last = capsys.readouterr().out.rstrip().splitlines()[-2:]
    assert " ".join(" ".join(last).split()).endswith(
        f"isolation proved: apart, owned, declared, wellformed, tlb (wx, dma: not applicable) ({found['proofs']} times "
        "while the VMs ran)"
    )


def test_a_run_without_it_proves_once_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", str(GUEST), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)["isolation"]
    assert (found["proved"], found["proofs"]) == (True, 0)


def test_a_trace_of_edits_does_not_go_with_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call(["run", str(GUEST), "--paranoid", "--trace-edits", str(tmp_path / "trace")]) == 2
    assert "--paranoid and --trace-edits both watch the tables: give one of them" in capsys.readouterr().err
    assert not (tmp_path / "trace").exists()
