"""The short form of every judge, as CI runs it: nothing is unexplained, and an error that is planted is found."""

from __future__ import annotations

import pytest

from opening import or_skip
from stage2.conform.oracle import Oracle
from stage2.conform.oracles import by_name, names
from stage2.conform.plant import plant
from stage2.conform.run import SHORT, run


def judge(name: str) -> Oracle:
    """The judge; in CI it must be there, elsewhere a missing emulator skips the test with its reason."""
    found = by_name(name)
    or_skip(found.version)
    return found


@pytest.mark.parametrize("name", names())
def test_the_machine_agrees_with_our_walker(name: str) -> None:
    found = judge(name)
    report = run(found, cases=SHORT[name], seed=1)
    assert report.mismatches == 0, [(item.pair.name, item.seed, item.lost) for item in report.found]
    assert report.verdict.cases >= SHORT[name]
    # Every pair was met, and every way in which an access can end.
    assert set(report.verdict.formats) == {pair.name for pair in found.pairs}
    assert report.verdict.outcomes["made"] > SHORT[name] // 50
    assert report.verdict.outcomes["refused by stage 1"] > SHORT[name] // 50
    assert report.verdict.outcomes["refused by stage 2"] > SHORT[name] // 50
    # What cannot be asked is the smaller part.
    assert report.verdict.unjudged < 2 * report.verdict.cases


def planted_pairs() -> list[tuple[str, str]]:
    """(judge, a pair for each of its formats)."""
    found = []
    for name in names():
        try:
            oracle = by_name(name)
        except ImportError:
            continue
        seen: set[str] = set()
        for pair in oracle.pairs:
            if not {pair.first or pair.second, pair.second} <= seen:
                seen |= {pair.first or pair.second, pair.second}
                found.append((name, pair.name))
    return found


@pytest.mark.parametrize(("name", "pair_name"), planted_pairs())
def test_a_planted_error_is_found(name: str, pair_name: str) -> None:
    found = judge(name)
    pairs = [pair for pair in found.pairs if pair.name == pair_name]
    report = run(found, cases=min(SHORT[name], 4 * found.batch), seed=1, pairs=pairs, planted=plant("writable"))
    assert report.mismatches
