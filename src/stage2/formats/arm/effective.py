"""Memory types of both stages combined (Arm ARM DDI 0487, D8.6 "Memory region attributes").

Without FEAT_S2FWB the stages limit each other: Device wins, the strictest Device type, the least cacheability of inner
and outer each, the widest shareability. With HCR_EL2.FWB, stage 2 decides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...errors import EncodingError
from ...flags import MemoryType
from ..effective import EffectiveType, Leaf, TypeSources
from .layout import LPA2
from .stage1 import MAIR
from .stage2 import FWB

DEVICES = ("Device-nGnRnE", "Device-nGnRE", "Device-nGRE", "Device-GRE")
"""Strictest first, as both stages number them."""
NON_CACHEABLE, WRITE_THROUGH, WRITE_BACK = "Non-cacheable", "Write-Through", "Write-Back"
_CACHEABILITY = (NON_CACHEABLE, WRITE_THROUGH, WRITE_BACK)
"""Least cacheable first."""
NON_SHAREABLE, OUTER_SHAREABLE, INNER_SHAREABLE = "Non-shareable", "Outer Shareable", "Inner Shareable"
_INNER = 0b11
_SHAREABILITY = {0b00: NON_SHAREABLE, 0b10: OUTER_SHAREABLE, _INNER: INNER_SHAREABLE}
_WIDTH = (NON_SHAREABLE, INNER_SHAREABLE, OUTER_SHAREABLE)

_FWB_DEVICE = 0b100
_FWB_NON_CACHEABLE, _FWB_WRITE_BACK, _FWB_STAGE_1 = 0b101, 0b110, 0b111

_MANUAL = "Arm ARM DDI 0487, D8.6 "
_MANUAL_COMBINED = _MANUAL + '"Combining stage 1 and stage 2 memory type attributes"'
_MANUAL_FWB = _MANUAL + '"Stage 2 memory type and Cacheability attributes when FWB is enabled"'
_MANUAL_STAGE_1 = _MANUAL + '"Stage 1 memory type and Cacheability attributes"'


@dataclass(frozen=True, slots=True)
class ArmType(EffectiveType):
    """What accesses to a page are like; the name is the type in the manual's words: `Normal Write-Back`.

    Args:
        device: "Device-nGnRnE" and so on; None for Normal memory.
        inner, outer: cacheability of Normal memory; Non-cacheable for Device.
        shareability: of the result; Device and wholly Non-cacheable memory is always Outer Shareable.
    """

    device: str | None
    inner: str
    outer: str
    shareability: str

    @property
    def memory_type(self) -> MemoryType:
        """The nearest of the types common to all architectures."""
        if self.device is not None:
            return MemoryType.DEVICE
        least = min(self.inner, self.outer, key=_CACHEABILITY.index)
        return {
            NON_CACHEABLE: MemoryType.UNCACHED,
            WRITE_THROUGH: MemoryType.WRITE_THROUGH,
            WRITE_BACK: MemoryType.WRITE_BACK,
        }[least]


@dataclass(frozen=True, slots=True)
class _Type:
    """The type of one stage, or of both, without shareability."""

    device: str | None
    inner: str = NON_CACHEABLE
    outer: str = NON_CACHEABLE

    @property
    def name(self) -> str:
        if self.device is not None:
            return self.device
        if self.inner == self.outer:
            return f"Normal {self.inner}"
        return f"Normal Inner {self.inner}, Outer {self.outer}"


_NORMAL_NC = _Type(None)
_NORMAL_WB = _Type(None, WRITE_BACK, WRITE_BACK)


def combine(
    stage_1: tuple[int, int] | None,
    stage_2: tuple[int, int] | None,
    *,
    fwb: bool = False,
    cache_disabled: bool = False,
    stage_2_cache_disabled: bool = False,
    dc: bool = False,
) -> ArmType:
    """The memory type that data accesses see.

    Args:
        stage_1: (MAIR attribute byte, SH) of the stage-1 leaf; None while SCTLR_EL1.M is 0. With LPA2, SH is TCR's.
        stage_2: (MemAttr[3:0], SH) of the stage-2 leaf; None while HCR_EL2.VM is 0. With LPA2, SH is VTCR_EL2's.
        fwb: HCR_EL2.FWB.
        cache_disabled: SCTLR_EL1.C is 0: stage 1's Normal memory counts as Non-cacheable.
        stage_2_cache_disabled: HCR_EL2.CD is 1: Normal memory ends as Non-cacheable.
        dc: HCR_EL2.DC: stage 1 is off and gives Normal Write-Back, Non-shareable.

    Raises:
        EncodingError: an attribute or a shareability is reserved.
    """
    first, share, why = _stage_1(stage_1, cache_disabled, dc)
    if stage_2 is None:
        return _result(first, share, f"stage 1 alone decides: {why}", _MANUAL_STAGE_1, stage_2_cache_disabled)
    share = max(share, _shareability("stage 2", stage_2[1]), key=_WIDTH.index)
    if fwb:
        merged, rule = _forced(first, stage_2[0])
        return _result(merged, share, f"{why}; {rule}", _MANUAL_FWB, stage_2_cache_disabled)
    second = _mem_attr(stage_2[0])
    return _result(
        _least(first, second), share, f"{why}; stage 2 has {second.name}", _MANUAL_COMBINED, stage_2_cache_disabled
    )


def effective_type(stage_1: Leaf | None, stage_2: Leaf | None, sources: TypeSources) -> EffectiveType:
    """What data accesses get.

    With LPA2, SH is TCR_EL1's and VTCR_EL2's; it is taken as Inner Shareable, which `vtcr_el2` sets.

    Args:
        stage_1: the leaf of EL1&0; None while SCTLR_EL1.M is 0.
        stage_2: None while HCR_EL2.VM is 0.
        sources: MAIR_EL1 and SCTLR_EL1.C.

    Raises:
        EncodingError: an attribute or a shareability is reserved.
    """
    mair = MAIR if sources.mair is None else sources.mair
    first = None if stage_1 is None else (mair >> 8 * (stage_1.memory_type & 7) & 0xFF, _sh(stage_1))
    second = None if stage_2 is None else (stage_2.memory_type, _sh(stage_2))
    fwb = stage_2 is not None and bool(stage_2.controls & FWB)
    found = combine(first, second, fwb=fwb, cache_disabled=sources.cache_disabled)
    if stage_1 is None:
        return found
    shown = f"{mair:#x}" if sources.mair is not None else f"(taken to be {mair:#x})"
    return replace(found, text=f"{found.text} Stage 1's is attribute {stage_1.memory_type & 7} of MAIR_EL1 {shown}.")


def _sh(leaf: Leaf) -> int:
    return _INNER if leaf.controls & LPA2 else leaf.shareability


def describe_mair(attribute: int) -> str:
    """An attribute byte of MAIR in the manual's words.

    Raises:
        EncodingError: the encoding is reserved.
    """
    return _mair(attribute).name


def _stage_1(stage_1: tuple[int, int] | None, cache_disabled: bool, dc: bool) -> tuple[_Type, str, str]:
    """Type, shareability and a clause about them."""
    if dc:
        return _NORMAL_WB, NON_SHAREABLE, f"HCR_EL2.DC makes stage 1 {_NORMAL_WB.name}"
    if stage_1 is None:
        return _Type(DEVICES[0]), OUTER_SHAREABLE, f"stage 1 is off, which makes data {DEVICES[0]}"
    found, share = _mair(stage_1[0]), _shareability("stage 1", stage_1[1])
    if cache_disabled and found.device is None and found != _NORMAL_NC:
        return _NORMAL_NC, share, f"stage 1 has {found.name}, made Non-cacheable by SCTLR_EL1.C"
    return found, share, f"stage 1 has {found.name}"


def _least(first: _Type, second: _Type) -> _Type:
    """Both stages limit each other."""
    devices = [stage.device for stage in (first, second) if stage.device is not None]
    if devices:
        return _Type(min(devices, key=DEVICES.index))
    inner = min(first.inner, second.inner, key=_CACHEABILITY.index)
    return _Type(None, inner, min(first.outer, second.outer, key=_CACHEABILITY.index))


def _forced(first: _Type, attribute: int) -> tuple[_Type, str]:
    """Stage 2 decides; MemAttr[3] is RES0 and MemAttr[2:0] the rule (FEAT_S2FWB)."""
    if not 0 <= attribute < _FWB_NON_CACHEABLE + 3 or attribute == _FWB_DEVICE:
        raise EncodingError(f"MemAttr {attribute:#06b} is reserved under HCR_EL2.FWB: 0 to 3 and 5 to 7 are defined")
    if attribute < _FWB_DEVICE:
        second = _Type(DEVICES[attribute])
        return _least(first, second), f"stage 2 forces {second.name} (FWB)"
    if attribute == _FWB_WRITE_BACK:
        return _NORMAL_WB, "stage 2 forces Write-Back (FWB)"
    if attribute == _FWB_STAGE_1:
        return first, "stage 2 leaves it as it is (FWB)"
    return (first if first.device else _NORMAL_NC), "stage 2 forces Non-cacheable unless it is Device (FWB)"


def _result(found: _Type, share: str, why: str, manual: str, cache_disabled: bool) -> ArmType:
    if cache_disabled and found.device is None and found != _NORMAL_NC:
        found, why = _NORMAL_NC, why + "; HCR_EL2.CD makes it Non-cacheable"
    if found.device is not None or found == _NORMAL_NC:
        share = OUTER_SHAREABLE
    text = f"Accesses are {found.name}, {share}: {why}."
    return ArmType(found.name, text, manual, found.device, found.inner, found.outer, share)


def _shareability(stage: str, code: int) -> str:
    if code not in _SHAREABILITY:
        raise EncodingError(f"{stage}: SH {code} is reserved: 0 Non-shareable, 2 Outer, 3 Inner Shareable are defined")
    return _SHAREABILITY[code]


def _mem_attr(attribute: int) -> _Type:
    """MemAttr[3:0] without FWB: [3:2] outer, [1:0] inner, both numbered from 1; [3:2] = 0 is Device."""
    if 0 <= attribute < 4:
        return _Type(DEVICES[attribute])
    if not 0 <= attribute < 16 or attribute & 3 == 0:
        raise EncodingError(f"MemAttr {attribute:#06b} of stage 2 is reserved")
    return _Type(None, _CACHEABILITY[(attribute & 3) - 1], _CACHEABILITY[(attribute >> 2) - 1])


_XS_AND_TAGGED = {0x40: _NORMAL_NC, 0xA0: _Type(None, WRITE_THROUGH, WRITE_THROUGH), 0xF0: _NORMAL_WB}
"""Bytes whose inner half is 0: the same types with XS clear (FEAT_XS) or Tagged (FEAT_MTE2)."""


def _mair(attribute: int) -> _Type:
    """An attribute byte of MAIR_EL1: 0b0000dd0x Device, otherwise outer and inner halves."""
    if 0 <= attribute < 16 and not attribute & 2:
        return _Type(DEVICES[attribute >> 2])
    if attribute in _XS_AND_TAGGED:
        return _XS_AND_TAGGED[attribute]
    if not 16 <= attribute < 256 or attribute & 15 == 0:
        raise EncodingError(f"MAIR attribute {attribute:#x} is reserved")
    return _Type(None, _mair_half(attribute & 15), _mair_half(attribute >> 4))


def _mair_half(half: int) -> str:
    """0b0100 Non-cacheable, 0b00RW and 0b10RW Write-Through, 0b01RW and 0b11RW Write-Back."""
    if half == 4:
        return NON_CACHEABLE
    return WRITE_BACK if half & 4 else WRITE_THROUGH
