"""What `stage2 conform` says of wrong input; what it finds is tested in tests/conform."""

from __future__ import annotations

import pytest

from stage2.cli.main import call
from stage2.conform import oracles, run
from stage2.conform.oracle import Pair
from stage2.errors import HostToolError


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--oracle", "qemu-arm"], "no oracle is called 'qemu-arm' (did you mean qemu-aarch64?)"),
        (["--cases", "0"], "--cases 0: at least one case is needed"),
        (["--seed", "-1"], "--seed -1: a seed is not negative"),
        (["--format", "sv32"], "--format sv32: no oracle answers for that; they answer for "),
        (
            ["--oracle", "bochs-ept", "--format", "sv39"],
            "bochs-ept does not answer for sv39; it answers for x86-4level over ept4",
        ),
        (["--plant", "nothing"], "--plant nothing: there are writable, address, reserved, hole"),
        (["--cases", "many"], "--cases"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["conform", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error


class Absent:
    """An oracle whose emulator is not there."""

    pairs: tuple[Pair, ...] = ()
    kind = "qemu-aarch64"

    def __init__(self, name: str, reason: str) -> None:
        self.name, self._reason = name, reason

    def version(self) -> str:
        raise HostToolError(self._reason)


@pytest.mark.parametrize(("ci", "code"), [(None, 0), ("true", 2)])
def test_another_generation_that_is_not_there_is_one_line_and_a_failure_in_ci_only(
    ci: str | None, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "run", lambda oracle, **_: oracle.version())
    absent = [Absent(name, "qemu-10 is not there yet") for name in ("qemu-10-aarch64", "qemu-10-riscv64")]
    monkeypatch.setattr(oracles, "usual", lambda: absent)
    monkeypatch.setenv("CI", ci) if ci else monkeypatch.delenv("CI", raising=False)
    assert call(["conform", "--cases", "1"]) == code
    assert capsys.readouterr().err == "stage2: qemu-10-aarch64, qemu-10-riscv64: qemu-10 is not there yet\n"


@pytest.mark.parametrize(
    ("name", "named"), [("qemu-aarch64", False), ("qemu-10-aarch64", True)], ids=["the machine's own", "a named one"]
)
def test_the_machines_own_or_a_named_one_must_be_there(
    name: str, named: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(run, "run", lambda oracle, **_: oracle.version())
    monkeypatch.setattr(oracles, "by_name", lambda _: Absent(name, "it is not there"))
    monkeypatch.setattr(oracles, "usual", lambda: (Absent(name, "it is not there"),))
    assert call(["conform", "--cases", "1", *(["--oracle", name] if named else [])]) == 2
    assert capsys.readouterr().err == f"stage2: {name}: it is not there\n"
