"""The table of known deviations: which versions each is of."""

from __future__ import annotations

import pytest

from stage2.conform.deviation import Versions
from stage2.conform.deviations import DEVIATIONS, of_oracle
from stage2.conform.oracles import all_names, by_name, names


@pytest.mark.parametrize(
    ("versions", "inside", "outside"),
    [
        (Versions("7.2", "7.2"), ["7.2.0", "7.2.22", "7.2"], ["7.1.9", "8.0.0", "10.0.13"]),
        (Versions("7.2"), ["7.2.22", "8.0.0", "10.0.13", "11.0"], ["7.1.9", "6.2.0"]),
        (Versions("7.0", "8.0"), ["7.2.22", "8.0.5"], ["8.1.0", "10.0.13"]),
        (Versions("2.7"), ["2.7", "3.0"], ["2.6.11"]),
    ],
)
def test_versions_are_compared_as_numbers(versions: Versions, inside: list[str], outside: list[str]) -> None:
    assert [version in versions for version in (*inside, *outside)] == [True] * len(inside) + [False] * len(outside)


def test_versions_are_said_in_words() -> None:
    said = [str(versions) for versions in (Versions("7.2"), Versions("7.2", "7.2"), Versions("7.0", "8.0"))]
    assert said == ["7.2 and later", "7.2", "7.0 to 8.0"]


def test_every_row_is_of_a_kind_of_oracle_and_named_once() -> None:
    assert {found.oracle for found in DEVIATIONS} <= set(names())
    assert len({found.name for found in DEVIATIONS}) == len(DEVIATIONS)
    assert all(found.manual and found.reason for found in DEVIATIONS)


def test_an_error_that_was_mended_is_of_the_old_generation_only() -> None:
    old, new = ({found.name for found in of_oracle("qemu-aarch64", version)} for version in ("7.2.22", "10.0.13"))
    assert old >= {"block-above", "level-of-stage-1"}
    assert not new & {"block-above", "level-of-stage-1"}


@pytest.mark.parametrize("name", all_names())
def test_a_generation_is_data_of_one_oracle(name: str) -> None:
    found = by_name(name)
    assert found.name == name
    assert type(found) is type(by_name(found.kind))
    assert found.kind in names()
