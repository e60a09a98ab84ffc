"""The entry point: what it loads, what it answers to mistakes, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from stage2.cli import main as entry
from stage2.cli.main import call
from stage2.cli.notices import MAX_NOTICES, print_notices
from stage2.config.document import Notice
from stage2.errors import ConfigError
from stage2.place import Place
from waiting import HANG_S

COMMANDS = ("run", "demo", "show", "walk", "fetch")
HEAVY = ("numba", "numpy", "unicorn", "elftools")


def loaded(code: str) -> str:
    """Which of the heavy packages a fresh interpreter has loaded after `code`."""
    after = f"{code}\nimport sys\nsys.stderr.write(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", after], capture_output=True, text=True, timeout=HANG_S, check=True)
    return done.stderr


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded("import stage2; from stage2 import MappingFlags, MemoryRegion; stage2.__version__") == ""


def test_help_and_version_load_nothing_heavy() -> None:
    lines = [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)]
    calls = "\n".join(f"assert call({line!r}) == 0" for line in lines)
    assert loaded(f"from stage2.cli.main import call\n{calls}") == ""


def test_showing_a_file_loads_nothing_heavy(tmp_path: Path) -> None:
    path = tmp_path / "defconfig.toml"
    path.write_text("smp = 2")
    assert loaded(f"from stage2.cli.main import call\nassert call(['show', {str(path)!r}]) == 0") == ""


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f" {command} " in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call([command, "--help"]) == 0
    assert f"Usage: stage2 {command}" in capsys.readouterr().out


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("stage2")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["shwo"], "shwo"),
        (["--bogus"], "--bogus"),
        (["show"], "stage2 show --help"),
        (["show", "vm.toml", "--bogus"], "--bogus"),
        (["walk", "vm.toml"], "--gpa"),
        (["walk", "vm.toml", "--gpa"], "--gpa"),
        (["walk", "vm.toml", "--gpa", "0", "--access", "execute"], '"fetch"'),
        (["fetch", "linux-riscv64", "more"], "more"),
        (["fetch", "windows"], "linux-riscv64"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_code_2(
    line: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(line) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("stage2: error: ")
    assert error.count("\n") == 1
    assert words in error


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(_arguments: object) -> int:
        raise error

    monkeypatch.setattr(entry, "_dispatch", fail)


def test_our_own_errors_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, ConfigError("is wrong", file="a.toml", line=3, key="base"))
    assert call([]) == 2
    assert capsys.readouterr().err == "stage2: error: a.toml:3: base: is wrong\n"


def test_an_error_of_the_system_names_its_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, PermissionError(13, "Permission denied", "/cache"))
    assert call([]) == 2
    assert capsys.readouterr().err == "stage2: error: /cache: Permission denied\n"


def test_a_mistake_of_ours_is_no_traceback_either(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, ValueError("two\nlines"))
    assert call([]) == 70
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "ValueError: two lines" in error


def test_developers_can_have_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ConfigError("is wrong"))
    monkeypatch.setenv("STAGE2_TRACEBACK", "1")
    with pytest.raises(ConfigError):
        call([])


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert call([]) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "defconfig.toml"
    path.write_text("smp = 2")
    # The child starts when its input ends, and by then nobody reads its output.
    code = f"import sys; sys.stdin.read()\nfrom stage2.cli.main import main\nmain(['show', {str(path)!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        error = process.stderr.read()
        assert process.wait(HANG_S) == 141
    assert error == b""


def test_a_locale_without_our_characters_gets_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "d\u00e9fconfig.toml"
    path.write_text("smp = 2")
    done = subprocess.run(
        [sys.executable, "-c", f"from stage2.cli.main import main; main(['show', {str(path)!r}])"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "d\\xe9fconfig.toml" in done.stdout


def test_many_notices_are_capped(capsys: pytest.CaptureFixture[str]) -> None:
    notices = [Notice(f"number {i}", Place("a.toml", i + 1, "key")) for i in range(MAX_NOTICES + 5)]
    print_notices(notices)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == MAX_NOTICES + 1
    assert lines[0] == "stage2: notice: a.toml:1: key: number 0"
    assert "5 more" in lines[-1]
    print_notices(notices[:MAX_NOTICES])
    assert len(capsys.readouterr().err.splitlines()) == MAX_NOTICES


def test_a_process_that_can_have_no_more_memory_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_memory(_arguments: object) -> int:
        raise MemoryError

    monkeypatch.setattr("stage2.cli.main._dispatch", without_memory)
    assert call(["show", "vm.toml"]) == 2
    assert capsys.readouterr().err == (
        "stage2: error: this process can have no more memory: a limit (ulimit -v), or the host's memory is used up\n"
    )
