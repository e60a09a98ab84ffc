"""QEMU's AArch64 CPU as an oracle of EL2's own stage 1: the EL2 regime, and EL2&0 (HCR_EL2.E2H and TGE).

The one stage stands in `Case.stage_2`, as every format that is judged alone does. Privileged accesses are made by EL2.
Unprivileged ones are EL0's, which exists in EL2&0 alone: half of the loads and stores are made by EL0 itself, the
others by EL2's LDTR and STTR.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...flags import Access, MappingFlags
from ...formats import by_name
from ...formats.arm.layout import HD
from ...formats.arm.stage1 import ONE_PRIVILEGE, PAN
from ...formats.arm.syndromes import ARM_LAST_LEVEL, encode_esr
from ...formats.outcome import PERMISSION
from ...machines.aarch64 import (
    ESR_EL2,
    FAR_EL2,
    IMAGE,
    IMAGE_OF_EL0,
    MADE,
    OWN_LOW_BITS,
    STRANGE,
    TAKEN_BY_EL2,
    AArch64Machine,
    OwnInstruction,
)
from ...machines.mailbox import UNPRIVILEGED
from ...tables.result import fault_from_status
from ..oracle import Case, Fixture, Pair, Predictions
from ..probe import ANSWER, Answers, Means, Probes
from .aarch64 import (
    LEVELS_TO_MINUS_ONE,
    PAR_ADDRESS,
    PAR_FAULT,
    STATUS,
    SYNDROME,
    Faults,
    fetched,
    groups,
    listed,
    seen,
    u,
)

EL2, EL2_VHE = "el2", "el2-vhe"
"""The regimes as `--format` names them."""
_SWITCHES = ("af", "ad", "wxn", "hpd")
_LOW = (
    "arm-s1-4k-39", "arm-s1-4k-48", "arm-s1-4k-52-lpa2", "arm-s1-16k-36", "arm-s1-16k-47", "arm-s1-64k-48-lpa",
    "arm-s1-64k-52",
)  # fmt: skip
_HIGH = ("arm-s1-4k-39-high", "arm-s1-4k-52-lpa2-high", "arm-s1-16k-47-high", "arm-s1-64k-48-lpa-high")
"""With 64 KiB granules those of FEAT_LPA, which a CPU of 52 bits has."""
_NARROW = "arm-s1-4k-39"
"""The format under which narrow addresses (PS, IPS) are tried."""
_SHARE = 0.15
"""Of all cases of the oracle, of either regime."""
_ITSELF = 1 << 3
"""Of an address: EL0 itself makes the access; else EL2 does for it. Of a privileged AT: which of the two it is."""


def own_pairs(others: float) -> tuple[Pair, ...]:
    """The formats of both regimes.

    Args:
        others: the weights of all pairs of VMs.
    """
    weight = others * _SHARE / (1 - 2 * _SHARE)
    found = []
    for regime, names in ((EL2, _LOW), (EL2_VHE, (*_LOW, *_HIGH))):
        each = weight / (len(names) + 1)
        found += [_pair(regime, name, each) for name in names] + [_pair(regime, _NARROW, each, "pa36")]
    return tuple(found)


def _pair(regime: str, name: str, weight: float, *more: str) -> Pair:
    own = regime == EL2
    switches = (*_SWITCHES, *more) if own else (*_SWITCHES, "pan", *more)
    title = f"{name} in {regime}" + "".join(f", {switch}" for switch in more)
    return Pair(title, None, name, (), switches, weight, regime, (False,) if own else (False, True))


def controls(pair: Pair) -> int:
    """The format's own, with the regime's privileges."""
    return by_name(pair.second).default_controls | (ONE_PRIVILEGE if pair.regime == EL2 else 0)


def fixtures(pair: Pair) -> tuple[Fixture, ...]:
    """What tables of the low half must map: the monitor's image, for EL2 and for EL0."""
    if by_name(pair.second).high_half:
        return ()
    code = MappingFlags.READ | MappingFlags.EXECUTE
    own = Fixture(2, IMAGE.start, IMAGE.start, IMAGE.size, code)
    of_el0 = Fixture(2, IMAGE_OF_EL0, IMAGE.start, IMAGE.size, code | MappingFlags.USER)
    return (own,) if pair.regime == EL2 else (own, of_el0)


def allows(case: Case, faults: Faults, *, newer: bool) -> npt.NDArray[np.bool_]:
    """Which probes may be asked besides what forbids those of any regime."""
    probes, own = case.probes, case.stage_2
    asked = np.ones(len(probes), np.bool_)
    if own.format.levels == LEVELS_TO_MINUS_ONE and not newer:
        asked &= ~faults.at_minus_one
    if own.controls & HD:
        # QEMU takes clean pages for read-only ones, which may be executed, and then executes what is there.
        asked &= ~((faults.kind == PERMISSION) & (probes["access"] == Access.FETCH))
    if own.format.high_half:
        # There the monitor itself is mapped.
        asked &= probes["address"] >> u(OWN_LOW_BITS) != 0
    return asked


def answers(machine: AArch64Machine, case: Case) -> Answers:
    """Make the probes of a case."""
    machine.enter_own(case.stage_2)
    probes = case.probes
    asked = listed(machine, case)
    asked["kind"] |= np.where(_at_el0(probes), u(UNPRIVILEGED), u(0))
    asked["reserved"] = _instructions(case)
    results = machine.probe(asked)

    found = np.zeros(len(probes), ANSWER)
    translated = probes["means"] == Means.TRANSLATE
    outcome, value = results["outcome"], results["value"]
    esr, far = results["syndrome"][:, ESR_EL2], results["syndrome"][:, FAR_EL2]
    made = outcome == MADE
    found["ok"] = made
    found["hpa"] = np.where(made & translated, value & u(PAR_ADDRESS) | probes["address"] & u(0xFFF), 0)
    value_read = np.where(probes["access"] == Access.FETCH, fetched(value, esr), value)
    found["value"] = np.where(made & ~translated & (probes["access"] != Access.WRITE), value_read, 0)
    failed = translated & ~made & (outcome != TAKEN_BY_EL2) & (outcome != STRANGE)
    taken = outcome == TAKEN_BY_EL2
    found["stage"] = np.where(failed | taken, 1, 0)
    found["code"] = np.where(failed, value & u(PAR_FAULT), np.where(made, 0, esr & u(SYNDROME)))
    found["gva"] = np.where(taken, far, 0)
    return found


def expected(case: Case, predictions: Predictions) -> Answers:
    """What the answers ought to be."""
    probes, made = case.probes, predictions.status == 0
    found = np.zeros(len(probes), ANSWER)
    translated = probes["means"] == Means.TRANSLATE
    found["ok"] = made
    found["hpa"] = np.where(made & translated, predictions.hpa, 0)
    read = made & ~translated & (probes["access"] != Access.WRITE)
    found["value"] = np.where(read, seen(probes, predictions), 0)
    found["stage"] = np.where(made, 0, 1)
    found["gva"] = np.where(made | translated, 0, probes["address"])
    faults, lower = Faults(case, predictions), _at_el0(probes)
    examples, which = groups(case, predictions.status, faults.wide, lower)
    codes = [
        0 if made[at] else _code(case, predictions, at, bool(faults.wide[at]), lower=bool(lower[at])) for at in examples
    ]
    found["code"] = np.array(codes, np.uint64)[which]
    return found


def _code(case: Case, predictions: Predictions, at: int, wide: bool, *, lower: bool) -> int:
    """The syndrome of one probe that is refused, or what PAR_EL1 has of it."""
    probe = case.probes[at]
    access = Access(int(probe["access"]))
    fault = fault_from_status(int(predictions.status[at]), int(predictions.gpa[at]), stage=1, access=access)
    # An address that no table has bits for is refused before the first lookup, and reported as Arm's level 0.
    level = ARM_LAST_LEVEL if wide else fault.level
    esr = encode_esr(fault.kind, 1, level, access, lower=lower)
    return esr if int(probe["means"]) == Means.ACCESS else (esr & STATUS) << 1


def _at_el0(probes: Probes) -> npt.NDArray[np.bool_]:
    """Which accesses EL0 itself makes: it fetches, and every other address it loads and stores."""
    itself = (probes["access"] == Access.FETCH) | (probes["address"] & u(_ITSELF) != 0)
    at_el0: npt.NDArray[np.bool_] = (probes["user"] != 0) & (probes["means"] == Means.ACCESS) & itself
    return at_el0


def _instructions(case: Case) -> npt.NDArray[np.uint64]:
    """What each probe executes, if it is no fetch."""
    probes, controls = case.probes, case.stage_2.controls
    user, translated = probes["user"] != 0, probes["means"] == Means.TRANSLATE
    # Of EL2&0 there are two that translate as EL2 does, of which one alone looks at PAN.
    of_el2 = np.full(len(probes), bool(controls & ONE_PRIVILEGE))
    if not controls & PAN:
        of_el2 |= probes["address"] & u(_ITSELF) != 0
    privileged = np.where(of_el2, OwnInstruction.AT_S1E2R, OwnInstruction.AT_S1E1RP)
    translates = np.where(user, OwnInstruction.AT_S1E0R, privileged)
    accesses = np.where(user & ~_at_el0(probes), OwnInstruction.LDTR, OwnInstruction.LDR)
    # Each is followed by the same of a write.
    found: npt.NDArray[np.uint64] = np.where(translated, translates, accesses).astype(np.uint64)
    return found + np.where(probes["access"] == Access.WRITE, u(1), u(0))
