"""A record that would build wrong bytes is refused when it is made, in a sentence that names what it breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stage2.errors import EncodingError
from stage2.formats import by_name, names
from stage2.formats.record import Format


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("sv39x4", {"levels": 2, "bits": 10}, r"1024 entries \(10 index bits\) of 8 bytes take 0x2000 bytes"),
        ("sv39x4", {"levels": 2, "top_leaf_level": 1}, "3 to 5 levels, not 2: the 2 levels of Sv32 have 32-bit ones"),
        ("sv39x4", {"entry_size": 4, "bits": 10}, "entries of 8 bytes, and its have 4"),
        ("sv39x4", {"root_bits": 9}, "root at stage 2 has 11 index bits, not 9"),
        ("sv39", {"root_bits": 11}, "root at stage 1 has 9 index bits, not 11"),
        ("sv48x4", {"page_shift": 14, "bits": 11}, "pages of 4 KiB and 9 index bits"),
        ("sv39x4", {"page_shift": 14}, "a page has 0x4000"),
        ("sv39x4", {"group_bits": ()}, "both a size and a mark of groups"),
        ("sv39x4", {"group_bits": (10,)}, "a group of 2.10 leaves at level 0 does not fit a table of 2.9"),
        ("sv39x4", {"stage": 3}, "stage 3 does not exist"),
        ("ept4", {"levels": 3}, "4 or 5 levels, not 3"),
        ("ept4", {"root_bits": 11}, "9 index bits at every level, the root's included"),
        ("ept4", {"top_leaf_level": 3}, "no leaf above 1 GiB"),
        ("npt4", {"top_leaf_level": 4}, "leaves up to level 4 need more than its 4 levels"),
        ("x86-4level", {"output_bits": 57}, "are wider than the 56 bits that a compiled translation answers with"),
        ("ept4", {"output_bits": 56}, "is not decoded as such"),
        ("ept4", {"group_bits": (4,)}, "both a size and a mark of groups"),
        ("arm-s2-4k-40", {"page_shift": 14, "bits": 11}, "rules of pages of 2.12 bytes, and its pages have 2.14"),
        ("arm-s2-4k-48", {"root_bits": 14}, "its root has 14 index bits; 1 to 13 are possible"),
        ("arm-s2-4k-40", {"group_bits": (4, 4, 4, 4, 4)}, "it has groups at level 3, and only 3 levels"),
        ("arm-s2-4k-48", {"output_bits": 52}, "is not decoded as such"),
    ],
)
def test_a_record_that_contradicts_its_rules_is_refused(name: str, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(EncodingError, match=problem):
        replace(by_name(name), name="changed", **changes)


@pytest.mark.parametrize("name", names())
def test_a_decode_that_reads_something_else_than_was_encoded_is_refused(name: str) -> None:
    fmt = by_name(name)

    def a_page_further(entry: int, level: int, controls: int) -> tuple[int, int, int]:
        kind, address, attributes = fmt.decode(entry, level, controls)
        return kind, address ^ 1 << 30, attributes

    with pytest.raises(EncodingError, match="is no sound format: the leaf that it encodes at level 0"):
        replace(fmt, rules=replace(fmt.rules, decode=a_page_further))


@pytest.mark.parametrize("name", names())
def test_a_decode_whose_attributes_hang_on_the_address_is_refused(name: str) -> None:
    fmt = by_name(name)

    def high_pages_are_marked(entry: int, level: int, controls: int) -> tuple[int, int, int]:
        kind, address, attributes = fmt.decode(entry, level, controls)
        return kind, address, attributes | (address >> 30 & 1) << 23

    with pytest.raises(EncodingError, match="differ in nothing but their addresses are not decoded alike"):
        replace(fmt, rules=replace(fmt.rules, decode=high_pages_are_marked))


@pytest.mark.parametrize("name", names())
def test_an_error_can_still_be_planted_on_purpose(name: str) -> None:
    def nothing_there(entry: int, level: int, controls: int) -> tuple[int, int, int]:
        return 0, 0, 0

    planted: Format = by_name(name).with_rules("planted", decode=nothing_there)
    assert planted.decode(1, 0, 0) == (0, 0, 0)
    assert planted.name == "planted"
