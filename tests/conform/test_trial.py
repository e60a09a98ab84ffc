"""Batches are made, compared, shrunk and reported as they should; a stand-in for a machine answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from stand_in import PLACES, StandIn

from stage2.conform.oracle import Oracle, Pair
from stage2.conform.plant import PLANTS, plant
from stage2.conform.run import chosen_pairs, run
from stage2.conform.tlb import TlbReport
from stage2.conform.trial import Trial
from stage2.errors import ConfigError
from stage2.render.conform import render_reports, report_json, report_markdown
from stage2.render.tables import print_renderable

PAIRS = (
    Pair("sv39x4 alone", None, "sv39x4", (), ("ad",)),
    Pair("sv39 over sv39x4", "sv39", "sv39x4", ("ad", "sum"), ("ad",)),
    Pair("x86-4level over ept4", "x86-4level", "ept4", ("smep",), ("ad",)),
    Pair("arm-s1-4k-39 over arm-s2-4k-40", "arm-s1-4k-39", "arm-s2-4k-40", ("pan",), ("ptw",)),
    Pair("arm-s2-64k-40 alone", None, "arm-s2-64k-40"),
)


def oracle(*pairs: Pair) -> Oracle:
    return StandIn(pairs)


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name for pair in PAIRS])
def test_a_stand_in_that_walks_as_we_do_finds_nothing_and_meets_everything(pair: Pair) -> None:
    report = run(oracle(pair), cases=1500, seed=3)
    assert report.mismatches == 0, report.found
    assert report.verdict.cases >= 1500
    assert report.verdict.formats == {pair.name: report.verdict.cases}
    assert report.verdict.outcomes["made"] > 60
    assert report.verdict.outcomes["refused by stage 2"] > 150
    if pair.first is not None:
        assert report.verdict.outcomes["refused by stage 1"] > 100


@pytest.mark.parametrize("name", ["writable", "address", "reserved"])
def test_a_planted_error_is_found_and_made_small(name: str) -> None:
    report = run(oracle(PAIRS[1]), cases=3000, seed=1, planted=plant(name))
    assert report.mismatches
    found = report.found[0].mismatch
    assert found is not None
    assert len(found.case.probes) == 1
    # A walk of both stages reads at most 3 entries of stage 1, each behind 3 of stage 2, and 3 more.
    assert np.count_nonzero(found.words) <= 15


def test_a_machine_that_leaves_other_bits_in_memory_is_found() -> None:
    report = run(StandIn((Pair("x", "x86-4level", "npt4"),), forgets=True), cases=3000, seed=1)
    slots = [slot for found in report.found if found.mismatch for slot in found.mismatch.slots]
    assert slots
    assert all(ours & ~theirs for _, ours, theirs in slots)


def test_the_same_seed_makes_the_same_batch() -> None:
    first, second = (run(oracle(PAIRS[1]), cases=500, seed=9) for _ in range(2))
    assert first.verdict == second.verdict


def test_reports_say_what_was_found_and_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    report = run(oracle(PAIRS[1]), cases=2000, seed=5, planted=plant("writable"))
    print_renderable(render_reports([report]))
    text = capsys.readouterr().out
    assert "MISMATCH on sv39 over sv39x4" in text
    assert "again: stage2 conform --oracle stand-in --format 'sv39 over sv39x4' --seed" in text
    assert "ours" in text
    assert "the machine's" in text
    (found,) = json.loads(json.dumps(report_json([report])))["oracles"]
    assert {"oracle", "version", "cases", "mismatches", "deviations", "formats"} <= set(found)
    assert found["mismatches"] >= 1
    page = report_markdown([report], 5)
    assert "| `stand-in` | 0 |" in page


def test_mismatches_of_arm_name_the_levels_as_arm_does_and_say_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    arm = Pair("arm", "arm-s1-4k-48", "arm-s2-4k-48")
    report = run(oracle(arm), cases=2000, seed=5, planted=plant("writable"))
    print_renderable(render_reports([report, report]))
    text = " ".join(capsys.readouterr().out.split())
    assert "(Arm's 3)" in text
    assert text.count("Levels count from 0, the smallest page; Arm's own numbers") == 1


def test_pairs_are_chosen_by_their_own_name_or_by_a_formats() -> None:
    stand_in = oracle(*PAIRS)
    assert chosen_pairs(stand_in, ["sv39x4"]) == PAIRS[:2]
    assert chosen_pairs(stand_in, ["sv39 over sv39x4"]) == PAIRS[1:2]
    with pytest.raises(ConfigError, match=r"stand-in does not answer for sv48x4; it answers for sv39x4 alone, "):
        chosen_pairs(stand_in, ["sv48x4"])


def test_unknown_plants_are_refused() -> None:
    with pytest.raises(ConfigError, match="--plant nothing: there are writable, address"):
        plant("nothing")
    assert PLACES.tables.size == 16 << 20
    assert set(PLANTS) >= {"writable", "address", "reserved", "hole"}


def test_the_command_that_a_mismatch_names_makes_it_again() -> None:
    report = run(oracle(*PAIRS[:2]), cases=2000, seed=5, planted=plant("writable"))
    first = next(found for found in report.found if found.mismatch is not None)
    again = run(oracle(first.pair), cases=first.count, seed=first.seed, planted=plant("writable"))
    same = next(found for found in again.found if found.seed == first.seed)
    assert same.mismatch is not None
    assert first.mismatch is not None
    assert same.mismatch.case.probes.tolist() == first.mismatch.case.probes.tolist()


def test_mismatches_beyond_those_that_are_kept_are_counted() -> None:
    """A batch after others that found something already."""
    report = run(oracle(PAIRS[1]), cases=4000, seed=1, planted=plant("writable"))
    alone = Trial(oracle(PAIRS[1]), "0", plant("writable"))
    found = 0
    with oracle(PAIRS[1]).open() as machine:
        for number in range(report.batches):
            verdict = alone.batch(machine, PAIRS[1], 1 + number, 256)
            found += len(verdict.mismatches) + verdict.more
    alone.close()
    assert report.batches > 1
    assert len(report.found) < found == report.mismatches


def test_what_tlbs_showed_is_in_the_text_the_json_and_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    report = run(oracle(PAIRS[0]), cases=200, seed=1)
    shown = TlbReport(
        "stand-in", "0", 32, {"TLBI VAE1IS": 21}, {"TLBI VAE1IS": 31}, 86_400, ["unmap, stage 1: 3 stale"]
    )
    print_renderable(render_reports([report], [shown]))
    text = capsys.readouterr().out
    assert "stand-in: TLB invalidation" in text
    assert "86,400 accesses, none stale" in text
    assert "WRONG: unmap, stage 1: 3 stale" in text
    (found,) = json.loads(json.dumps(report_json([report], [shown])))["tlb"]
    assert (found["seen"], found["hidden"], found["wrong"]) == (
        {"TLBI VAE1IS": 21}, {"TLBI VAE1IS": 31}, ["unmap, stage 1: 3 stale"],
    )  # fmt: skip
    assert "| `stand-in` | 32 | 86,400 | 21 | 31 | 1 |" in report_markdown([report], 1, [shown])
    assert "tlb" not in report_json([report])
