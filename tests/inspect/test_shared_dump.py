"""A dump that tests share is made once, and nobody who uses it keeps others from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared_dump import shared


def test_whoever_holds_a_dump_keeps_nobody_from_it_and_the_last_removes_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made: list[Path] = []

    def make(folder: Path) -> Path:
        made.append(folder)
        return folder

    with shared("held-twice", tmp_path_factory, make) as first:
        with shared("held-twice", tmp_path_factory, make) as second:
            assert (first, second) == (made[0], made[0])
        assert made[0].is_dir()
    assert not made[0].exists()
    assert len(made) == 1
