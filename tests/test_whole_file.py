"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stage2 import whole_file
from stage2.errors import ConfigError
from stage2.whole_file import write_whole, written_whole
from waiting import HANG_S


@pytest.fixture(params=[True, False])
def nameless(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether files without names are to be had."""
    if not request.param:
        monkeypatch.setattr(whole_file, "_nameless", lambda _folder: None)
        return False
    probe = whole_file._nameless(tmp_path)
    if probe is None:
        pytest.skip("this file system has no files without names")
    probe.close()
    return True


def test_a_file_takes_its_name_when_it_is_whole(nameless: bool, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    path.chmod(0o640)
    with written_whole(path) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
        assert len(list(tmp_path.iterdir())) == (1 if nameless else 2)
    assert path.read_bytes() == b"after"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_mode_that_any_new_file_has(nameless: bool, tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "text\r\n")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").read_bytes() == b"text\r\n"
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def write_and_fail(path: Path, error: Exception) -> None:
    with written_whole(path) as file:
        file.write(b"after")
        raise error


def test_an_error_on_the_way_leaves_what_was_there(nameless: bool, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    for error, said in (
        (ZeroDivisionError("so it is"), "so it is"),
        (OSError(28, os.strerror(28)), "cannot be written: No space left on device"),
    ):
        with pytest.raises((ZeroDivisionError, ConfigError), match=said):
            write_and_fail(path, error)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        write_whole(tmp_path / "missing" / "a", b"")


def test_nothing_is_left_of_a_file_whose_writer_is_killed(tmp_path: Path) -> None:
    probe = whole_file._nameless(tmp_path)
    if probe is None:
        pytest.skip("this file system has no files without names")
    probe.close()
    code = (
        "import sys, time, pathlib; from stage2.whole_file import written_whole\n"
        "with written_whole(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(bytes(1 << 20)); print('written', flush=True); time.sleep(1000)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"written\n"
    child.send_signal(signal.SIGKILL)
    child.wait(HANG_S)
    child.stdout.close()
    assert not list(tmp_path.iterdir())
