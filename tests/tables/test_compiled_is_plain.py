"""The compiled form of every format's functions against the plain one: on any 64-bit words they answer the same."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from effort import examples
from stage2.formats import by_name, names
from stage2.formats.record import Format
from stage2.formats.u64 import MASK_64, u64
from stage2.tables.compiled import inlined, kernel

COLUMNS = 8


@cache
def compiled(fmt: Format) -> Any:
    """kernel(words, others, levels, controls, out): every function of the format on every row."""
    decode, permissions, mark = inlined(fmt.decode), inlined(fmt.permissions), inlined(fmt.mark)
    pack_address, resize, inherit = inlined(fmt.pack_address), inlined(fmt.resize), inlined(fmt.inherit)

    def run(words: Any, others: Any, levels: Any, controls: Any, out: Any) -> None:
        for i in range(words.shape[0]):
            kind, address, attributes = decode(words[i], levels[i], controls[i])
            out[i, 0], out[i, 1], out[i, 2] = kind, address, attributes
            out[i, 3] = permissions(attributes, controls[i])
            out[i, 4] = mark(words[i], others[i] & u64(1), controls[i])
            out[i, 5] = pack_address(others[i] & u64((1 << 56) - (1 << 12)))
            out[i, 6] = resize(words[i], levels[i], others[i] % u64(3))
            out[i, 7] = inherit(words[i], others[i])

    return kernel(run, fmt)


def plain(fmt: Format, word: int, other: int, level: int, controls: int) -> list[int]:
    kind, address, attributes = fmt.decode(word, level, controls)
    return [
        kind,
        address,
        attributes,
        fmt.permissions(attributes, controls),
        fmt.mark(word, other & 1, controls),
        fmt.pack_address(other & (1 << 56) - (1 << 12)),
        fmt.resize(word, level, other % 3),
        fmt.inherit(word, other),
    ]


def compare(fmt: Format, rows: list[tuple[int, int, int, int]]) -> None:
    words, others, levels, controls = (np.array(column, np.uint64) for column in zip(*rows, strict=True))
    out = np.empty((len(rows), COLUMNS), np.uint64)
    compiled(fmt)(words, others, levels, controls, out)
    for row, answer in zip(rows, out.tolist(), strict=True):
        assert answer == plain(fmt, *row), f"entry {row[0]:#x}, other {row[1]:#x}, level {row[2]}, controls {row[3]:#x}"


WORDS = st.integers(0, MASK_64)


@pytest.mark.parametrize("name", names())
@example(rows=[(MASK_64, MASK_64, 0, 0), (1 << 63, 0, 0, MASK_64), (1 << 63 | 0xCF, 1 << 63, 1, 8), (0xB7, 1, 2, 0)])
@given(rows=st.lists(st.tuples(WORDS, WORDS, st.integers(0, 4), st.integers(0, 0xFFFF_FFFF)), min_size=1, max_size=30))
@settings(max_examples=examples(30))
def test_compiled_functions_answer_as_the_plain_ones(name: str, rows: list[tuple[int, int, int, int]]) -> None:
    compare(by_name(name), rows)


@pytest.mark.parametrize("name", names())
def test_compiled_functions_agree_on_thousands_of_nearly_legal_entries(name: str) -> None:
    fmt = by_name(name)
    rng = np.random.default_rng(2)
    rows = []
    for _ in range(3000):
        low = int(rng.integers(0, 1 << 12))
        frame = int(rng.integers(0, 1 << 40)) << 12 + int(rng.choice([0, 9, 18]))
        entry = (low | fmt.pack_address(frame)) & MASK_64
        if rng.random() < 0.2:
            entry ^= 1 << int(rng.integers(52, 64))
        controls = fmt.default_controls ^ int(rng.integers(0, 8)) if fmt.family == "riscv" else fmt.default_controls
        if fmt.family == "x86":
            controls ^= int(rng.choice([0, 0x300, 0x400, 0x700]))
        rows.append((entry, int(rng.integers(0, 1 << 64, dtype=np.uint64)), int(rng.integers(0, fmt.levels)), controls))
    compare(fmt, rows)
