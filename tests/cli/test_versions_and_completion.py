"""What the installation consists of, how it is started, and how shells complete it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from stage2 import requirement
from stage2.cli.main import call
from stage2.engines.unicorn import abi
from stage2.errors import EngineError
from waiting import HANG_S

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def room_for_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary folders have long names, which 80 columns break into lines."""
    monkeypatch.setenv("COLUMNS", "400")


def test_python_runs_the_package_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stage2", "--version"], capture_output=True, text=True, timeout=HANG_S, check=True
    )
    assert done.stdout.strip() == version("stage2")


def test_all_versions_are_told_with_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("STAGE2_CACHE", str(tmp_path))
    assert call(["--version", "--all"]) == 0
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert version("numba") in lines["numba"]
    assert version("numpy") in lines["numpy"]
    assert sys.executable in lines["Python"]
    assert version("unicorn") in lines["unicorn"]
    assert "not found" in lines["qemu-system-aarch64"]
    assert "apt-get install qemu-system-arm" in lines["qemu-system-aarch64"]
    assert "apt-get install bochs-term" in lines["bochs-bin"]
    assert "stage2 fetch qemu-10" in lines["fetched qemu-10"]


def test_a_missing_package_is_named_as_pip_takes_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stage2.cli.versions.version", _absent)
    assert call(["--version", "--all"]) == 0
    assert "pip install 'unicorn==2.1.4'" in capsys.readouterr().out


def _absent(name: str) -> str:
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)


def test_nothing_else_follows_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--version", "--everything"]) == 2
    assert capsys.readouterr().err == "stage2: error: --version --everything: only --all may follow --version\n"


def test_hints_name_the_package_in_the_versions_of_the_projects_metadata() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert requirement.pip_install("unicorn") == f"pip install '{extras['unicorn'][0]}'"
    assert extras["unicorn"] == [f"unicorn=={abi.VERSION}"]
    assert requirement.pip_install("distributed") == f"pip install '{extras['cluster'][0]}'"


def test_the_engine_says_how_to_get_unicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unicorn", None)
    abi.unicorn.cache_clear()
    try:
        with pytest.raises(EngineError, match=r"pip install 'unicorn==2\.1\.4'$"):
            abi.unicorn()
    finally:
        abi.unicorn.cache_clear()


def test_no_text_sends_users_to_another_project_of_our_name() -> None:
    texts = [*ROOT.glob("src/**/*.py"), *ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
    named = [
        path for path in texts if "pip install 'stage2" in path.read_text() or "pip install stage2" in path.read_text()
    ]
    assert named == []


def test_completion_is_installed_for_the_shell_and_completes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call(["--install-completion", "--shell", "bash"]) == 0
    script = tmp_path / ".local/share/bash-completion/completions/stage2"
    assert str(script) in capsys.readouterr().out.replace("\n", "")
    assert completed(script, "wal") == ["walk"]
    assert "--gpa" in completed(script, "walk", "--g")
    assert completed(script, "walk", "--arch", "risc") == ["riscv64"]


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers behind `stage2 words...`."""
    line = " ".join(["stage2", *words])
    code = f"""
        source {script}
        COMP_WORDS=({line}) COMP_CWORD={len(words)} COMP_LINE='{line}' COMP_POINT={len(line)}
        function=$(complete -p stage2 | sed 's/.*-F //; s/ .*//')
        "$function" stage2 "{words[-1]}" ""
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", code], capture_output=True, text=True, timeout=HANG_S, env=dict(os.environ), check=True
    )
    return [word.strip() for word in done.stdout.splitlines() if word.strip()]


def test_an_unknown_shell_is_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from cyclopts.completion import ShellDetectionError

    def lost() -> str:
        raise ShellDetectionError("no shell")

    monkeypatch.setattr("cyclopts.completion.detect.detect_shell", lost)
    with pytest.raises(SystemExit) as ended:
        call(["--install-completion"])
    assert ended.value.code == 1
    assert "specify --shell" in capsys.readouterr().err
