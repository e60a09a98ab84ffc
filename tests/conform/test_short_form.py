"""The short form of every oracle, as CI runs it: nothing is unexplained, and an error that is planted is found."""

from __future__ import annotations

import pytest

import effort
from opening import oracle_or_skip
from stage2.conform.oracles import by_name, usual
from stage2.conform.plant import plant
from stage2.conform.run import SHORT, run
from stage2.formats import by_name as format_by_name
from stage2.formats import names as format_names
from stage2.formats.record import Format

ASKED = [found.name for found in usual()]
"""The oracles of both generations: the machine's own, and what can be fetched."""


@pytest.mark.parametrize("name", ASKED)
def test_the_machine_agrees_with_our_walker(name: str) -> None:
    found = oracle_or_skip(name)
    # The other generation is asked less of the same; a soak asks both everything.
    part = 1 if effort.FACTOR > 1 else 2 if found.name == found.kind else 8
    cases = SHORT[found.kind] // part
    report = run(found, cases=cases, seed=1)
    assert report.mismatches == 0, [(item.pair.name, item.seed, item.lost) for item in report.found]
    assert report.verdict.cases >= cases
    # Every pair was met, and every way in which an access can end.
    assert set(report.verdict.formats) == {pair.name for pair in found.pairs}
    assert report.verdict.outcomes["made"] > cases // 50
    assert report.verdict.outcomes["refused by stage 1"] > cases // 50
    assert report.verdict.outcomes["refused by stage 2"] > cases // 50
    # What cannot be asked is the smaller part.
    assert report.verdict.unjudged < 2 * report.verdict.cases


PLANTED = [
    ("qemu-aarch64", "arm-s1-64k-48-lpa over arm-s2-64k-48-lpa", 1),
    ("qemu-aarch64", "arm-s2-4k-40 alone", 2),
    ("qemu-riscv64", "sv48 over sv48x4", 1),
    ("qemu-riscv64", "sv39x4 alone", 2),
    ("qemu-x86-svm", "x86-4level over npt4", 1),
    ("qemu-x86-svm", "x86-5level over npt5", 2),
    ("bochs-ept", "x86-4level over ept4", 2),
]
"""(oracle, pair, stage): every decode function there is, in some format of it."""


def test_every_decode_is_planted_with_an_error() -> None:
    decodes = set()
    for name, pair_name, stage in PLANTED:
        pair = next(pair for pair in by_name(name).pairs if pair.name == pair_name)
        decodes.add(format_by_name((pair.first if stage == 1 else pair.second) or "").decode)
    assert decodes == {format_by_name(name).decode for name in format_names()}


@pytest.mark.parametrize(("name", "pair_name", "stage"), PLANTED)
def test_a_planted_error_is_found(name: str, pair_name: str, stage: int) -> None:
    found = oracle_or_skip(name)
    pairs = [pair for pair in found.pairs if pair.name == pair_name]
    put = plant("writable")

    def planted(fmt: Format) -> Format:
        return put(fmt) if fmt.stage == stage else fmt

    # Fewer than the short form makes of one pair.
    report = run(found, cases=SHORT[found.kind] // len(found.pairs), seed=1, pairs=pairs, planted=planted)
    assert report.mismatches
