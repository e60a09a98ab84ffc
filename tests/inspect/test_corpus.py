"""What the fuzzer found is opened again: none of it may end otherwise than in a source or in a sentence."""

from __future__ import annotations

import os

import pytest
from dump_inputs import CORPUS, MAGIC, look, seeds


def test_the_corpus_is_small_and_has_every_kind() -> None:
    assert {file.name for file in CORPUS.iterdir()} == set(MAGIC)
    assert sum(file.stat().st_size for file in CORPUS.rglob("*") if file.is_file()) < 512 << 10


@pytest.mark.parametrize("kind", MAGIC)
def test_every_input_of_the_corpus_ends_in_a_source_or_in_a_sentence(kind: str) -> None:
    if kind == "avml" and not os.environ.get("CI"):
        pytest.importorskip("cramjam")
    for data in [*seeds(kind), *(file.read_bytes() for file in sorted((CORPUS / kind).iterdir()))]:
        look(data, kind)
