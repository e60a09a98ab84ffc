"""What a quick run takes, and that every mark is set."""

from __future__ import annotations

import pytest

import layers


@pytest.mark.parametrize(
    ("files", "rooms"),
    [
        (["src/stage2/formats/x86/ept.py", "tests/formats/test_ept.py"], ["formats"]),
        (["src/stage2/flags.py", "tests/test_address.py", "src/stage2/tlb/model.py"], ["flags", "address", "tlb"]),
        (["README.md", "docs/testing.md", "benchmarks/guard.py"], []),
    ],
)
def test_a_changed_file_touches_its_room(files: list[str], rooms: list[str]) -> None:
    assert layers.rooms_of(files) == rooms


def test_a_quick_run_begins_with_touched_rooms_and_needs_no_emulator_and_no_guest(
    request: pytest.FixtureRequest,
) -> None:
    items = request.session.items
    marks = {item.nodeid: {mark.name for mark in item.iter_markers()} for item in items}
    taken, left_out = layers.quick(items, ["tlb", "machines"])
    assert {item.nodeid for item in taken + left_out} == marks.keys()
    folders = [layers.place(item.path)[0] for item in taken]
    assert folders == sorted(folders, key=lambda folder: folder != "tlb")
    assert not any(marks[item.nodeid] & {"slow", "machine", "guest"} for item in taken)


def test_every_place_that_marks_speak_of_is_there() -> None:
    for name in (*layers.NEEDS, *layers.PLAIN):
        assert (layers.TESTS / name).exists()
