"""What edits owe, on hardware: done, nothing is stale; left out, it is seen wherever QEMU shows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import effort
from opening import oracle_or_skip
from stage2.conform import tlb
from stage2.conform.oracles import usual
from stage2.conform.oracles.qemu_aarch64 import QemuAArch64
from stage2.conform.tlb import shows_its_tlb
from stage2.conform.tlb_scenes import INVISIBLE, SCENES, not_shown
from stage2.conform.tlb_truth import (
    ALONE,
    GUEST,
    UNDER,
    Hardware,
    Kind,
    LeftOut,
    Scene,
    left_out,
    played,
    started,
    wander,
)
from stage2.errors import StaleTranslationError
from stage2.machines.aarch64 import AArch64Machine

PLAYED = [(scene, kind) for scene in SCENES for kind in scene.kinds]
every_scene = pytest.mark.parametrize(
    ("scene", "kind"), PLAYED, ids=[f"{scene.name}, {kind.name}" for scene, kind in PLAYED]
)
EVERYTHING = range(1000)
HARDWARE = [found.name for found in usual() if shows_its_tlb(found)]


@pytest.fixture(scope="module", params=HARDWARE if effort.FACTOR > 1 else HARDWARE[:1])
def hardware(request: pytest.FixtureRequest) -> Iterator[Hardware]:
    oracle = oracle_or_skip(request.param)
    assert isinstance(oracle, QemuAArch64)
    with started(oracle) as found:
        yield found


@every_scene
def test_an_edit_that_does_what_it_owes_leaves_nothing_stale(hardware: Hardware, scene: Scene, kind: Kind) -> None:
    stale, owed = played(hardware, scene, kind)
    assert stale == 0
    assert owed


@every_scene
def test_an_edit_that_does_nothing_of_it_leaves_stale_entries(hardware: Hardware, scene: Scene, kind: Kind) -> None:
    assert (played(hardware, scene, kind, leave_out=EVERYTHING)[0] == 0) == (scene.name in INVISIBLE)


@every_scene
def test_each_operation_that_is_left_out_is_seen_or_it_is_known_why_not(
    hardware: Hardware, scene: Scene, kind: Kind
) -> None:
    for found in left_out(hardware, scene, kind):
        assert (found.stale == 0) == (not_shown(found) is not None), found


def test_every_operation_that_edits_owe_is_seen_somewhere(hardware: Hardware) -> None:
    seen, owed = set(), set()
    for scene, kind in PLAYED:
        for found in left_out(hardware, scene, kind):
            owed.add(found.operation)
            if found.stale:
                seen.add(found.operation)
    assert seen == owed == {
        "TLBI IPAS2E1IS", "TLBI VMALLE1IS", "TLBI VMALLS12E1IS", "TLBI VAE1IS",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [ALONE, UNDER, GUEST], ids=lambda kind: kind.name)
@pytest.mark.parametrize("seed", range(3 if effort.FACTOR > 1 else 1))
def test_nothing_is_stale_after_any_of_many_random_edits(hardware: Hardware, kind: Kind, seed: int) -> None:
    assert wander(hardware, kind, seed, 100) == 100 * 96


def test_random_edits_that_flush_nothing_are_caught(hardware: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AArch64Machine, "invalidate", lambda self, operations: None)
    for kind in (ALONE, UNDER, GUEST):
        with pytest.raises(StaleTranslationError, match="stale accesses after edit"):
            wander(hardware, kind, 1, 100)


def test_reasons_name_scenes_that_there_are() -> None:
    names = {scene.name for scene in SCENES}
    assert set(INVISIBLE) <= names
    assert not_shown(LeftOut("unmap a page", ALONE.name, "TLBI VMALLE1IS", 0)) is None


def test_the_command_plays_every_scene(hardware: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlb, "SEEDS", 1)
    report = tlb.run_tlb(hardware.oracle)
    assert report.wrong == []
    assert report.scenes == len(PLAYED)
    assert report.accesses == 3 * 100 * 96
    assert set(report.seen) == {"TLBI IPAS2E1IS", "TLBI VMALLE1IS", "TLBI VMALLS12E1IS", "TLBI VAE1IS"}
