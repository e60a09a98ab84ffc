"""Text and numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.render.plain import about, counted, percent, plain


@given(st.text(st.characters()))
def test_plain_text_is_one_printable_line(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert plain(shown) == shown


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (4096, "4 KiB"),
        (1 << 20, "1 MiB"),
        ((1 << 20) - 1, "1 MiB"),
        (60124160, "57.3 MiB"),
        (100 << 20, "100 MiB"),
        (1234 << 30, "1.21 TiB"),
        (1 << 62, "4 EiB"),
    ],
)
def test_sizes_have_three_digits(size: int, text: str) -> None:
    assert about(size) == text


def test_shares_and_counts() -> None:
    assert [percent(0, 0), percent(0, 5), percent(1, 1000), percent(1, 4)] == ["0 %", "0 %", "0.1 %", "25 %"]
    assert [counted(1, "leaf", "leaves"), counted(14668, "leaf", "leaves")] == ["1 leaf", "14,668 leaves"]
