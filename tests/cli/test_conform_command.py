"""What `stage2 conform` says of wrong input; what it finds is tested in tests/conform."""

from __future__ import annotations

import pytest

from stage2.cli.main import call


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
