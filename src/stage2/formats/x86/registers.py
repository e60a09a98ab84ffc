"""The x86-64 registers of both stages in words; EPTP, CR3 and the nested CR3 computed and read back.

The fields one by one are in `register_fields`, with the sections of the manuals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...address import require_aligned
from ...errors import EncodingError, OutOfRangeError
from ..record import Field, Format
from ..register import Register, Summary
from . import ept, paging
from . import register_fields as fields
from .kinds import is_ept, is_nested

ADDRESS = 0x000F_FFFF_FFFF_F000
_BEYOND = 0xFFF << 52
_EPTP_UC, _EPTP_WB = 0, 6
_EPTP_AD, _EPTP_SSS = 1 << 6, 1 << 7
_EPTP_RESERVED = 0xF << 8
_LAM_U57, _LAM_U48, _NO_FLUSH = 1 << 61, 1 << 62, 1 << 63
_VPID_BITS, _ASID_BITS, _PCID_BITS = 16, 32, 12

EPT_FORMATS = {fmt.levels: fmt for fmt in ept.FORMATS}
"""Levels -> format; EPTP holds the levels minus one."""


@dataclass(frozen=True, slots=True)
class EptPointer:
    """What an EPTP says (SDM Vol. 3C, 26.6.11).

    Args:
        format: ept4 or ept5, by its walk length.
        root: HPA of the root table.
        write_back: walks are write-back; False for uncacheable.
        accessed_dirty: hardware sets accessed and dirty flags.
        shadow_stack: supervisor shadow-stack accesses are checked.
    """

    format: Format
    root: int
    write_back: bool = True
    accessed_dirty: bool = False
    shadow_stack: bool = False

    def value(self) -> int:
        """The 64 bits.

        Raises:
            MisalignedError: the root is no multiple of 4 KiB.
            OutOfRangeError: the root is above 2^52.
            EncodingError: the format is none of EPT's.
        """
        if not is_ept(self.format):
            raise EncodingError(f"no EPTP stands for {self.format.name}: ept4 and ept5 are all there are")
        found = _root(self.root) | (self.format.levels - 1) << 3 | (_EPTP_WB if self.write_back else _EPTP_UC)
        return found | (_EPTP_AD if self.accessed_dirty else 0) | (_EPTP_SSS if self.shadow_stack else 0)


def eptp(fmt: Format, root: int, *, accessed_dirty: bool = False) -> int:
    """The EPTP of write-back walks; `EptPointer` has the other choices and the errors."""
    return EptPointer(fmt, root, accessed_dirty=accessed_dirty).value()


def decode_eptp(value: int) -> EptPointer:
    """Read an EPTP.

    Raises:
        EncodingError: VM entry would refuse it (SDM Vol. 3C, 28.2.1.1): a reserved memory type or walk length, a
            reserved bit, or a root above 2^52.
    """
    memory_type, levels = value & 7, (value >> 3 & 7) + 1
    if memory_type not in (_EPTP_UC, _EPTP_WB):
        raise EncodingError(f"EPTP: memory type {memory_type} is reserved for walks: 0 (UC) and 6 (WB) are defined")
    if levels not in EPT_FORMATS:
        raise EncodingError(f"EPTP: walk length field {levels - 1} is reserved: 3 (4 levels) and 4 (5) are defined")
    if value & _EPTP_RESERVED:
        raise EncodingError(f"EPTP {value:#x}: bits 11:8 are reserved and must be zero: VM entry refuses it")
    return EptPointer(
        EPT_FORMATS[levels],
        _root_of("EPTP", value),
        memory_type == _EPTP_WB,
        bool(value & _EPTP_AD),
        bool(value & _EPTP_SSS),
    )


def nested_cr3(fmt: Format, root: int) -> int:
    """N_CR3 of the VMCB, with write-back walks (APM Vol. 2, 15.25.3); it does not hold the number of levels.

    Raises:
        MisalignedError: the root is no multiple of 4 KiB.
        OutOfRangeError: the root is above 2^52.
        EncodingError: the format is none of nested paging's.
    """
    if not is_nested(fmt):
        raise EncodingError(f"no N_CR3 stands for {fmt.name}: npt4 and npt5 are all there are")
    return _root(root)


@dataclass(frozen=True, slots=True)
class PageTableBase:
    """What CR3 says in long mode (SDM Vol. 3A, 5.5.2 "Use of CR3 with 4-Level Paging and 5-Level Paging").

    Args:
        root: address of the root table, a GPA under stage 2.
        pcid: process tag of TLB entries, where CR4.PCIDE is set; otherwise 0.
        write_through, cache_disable: PWT and PCD, where CR4.PCIDE is clear; otherwise False.
        tag_bits: ignored upper bits of user pointers by LAM: 0, 6 (LAM_U57) or 15 (LAM_U48).
        keep: writing it flushes nothing (bit 63).
    """

    root: int
    pcid: int = 0
    write_through: bool = False
    cache_disable: bool = False
    tag_bits: int = 0
    keep: bool = False

    def value(self) -> int:
        """The 64 bits.

        Raises:
            MisalignedError: the root is no multiple of 4 KiB.
            OutOfRangeError: the root is above 2^52, or the PCID has more than 12 bits.
            EncodingError: no LAM has so many tag bits, or a PCID goes with PWT or PCD.
        """
        if self.pcid < 0 or self.pcid >> _PCID_BITS:
            raise OutOfRangeError(f"PCID {self.pcid:#x} has more than {_PCID_BITS} bits")
        if self.pcid and (self.write_through or self.cache_disable):
            raise EncodingError("CR3: with a PCID there is no PWT and no PCD, which share its bits")
        if self.tag_bits not in (0, 6, 15):
            raise EncodingError(f"CR3: no LAM has {self.tag_bits} tag bits: 6 and 15 are all there are")
        found = _root(self.root) | self.pcid | self.write_through << 3 | self.cache_disable << 4
        found |= {0: 0, 6: _LAM_U57, 15: _LAM_U48}[self.tag_bits]
        return found | (_NO_FLUSH if self.keep else 0)


def decode_cr3(value: int, *, pcid_enabled: bool = False) -> PageTableBase:
    """Read CR3 of long mode.

    Args:
        value: the register, or what is written to it.
        pcid_enabled: CR4.PCIDE.
    """
    low = value & (1 << _PCID_BITS) - 1
    return PageTableBase(
        value & ADDRESS,
        low if pcid_enabled else 0,
        not pcid_enabled and bool(low >> 3 & 1),
        not pcid_enabled and bool(low >> 4 & 1),
        6 if value & _LAM_U57 else 15 if value & _LAM_U48 else 0,
        bool(value & _NO_FLUSH),
    )


def stage_2_registers(fmt: Format, root: int, controls: int, identifier: int) -> dict[str, int]:
    """What to load for a stage-2 regime: EPTP and VPID of the VMCS, or N_CR3, ASID and NP_ENABLE of the VMCB.

    NP_ENABLE is bit 0 at VMCB offset 0x90. npt5 needs a host that runs with CR4.LA57.

    Raises:
        MisalignedError: the root is no multiple of 4 KiB.
        OutOfRangeError: the root is above 2^52, the identifier has too many bits, or is 0, which is the host's.
    """
    if is_ept(fmt):
        _require_identifier("VPID", identifier, _VPID_BITS)
        if identifier == 0:
            raise OutOfRangeError("VPID 0 is the host's own: VM entry refuses it where VPIDs are enabled")
        return {"EPTP": eptp(fmt, root, accessed_dirty=bool(controls & ept.AD_ENABLED)), "VPID": identifier}
    _require_identifier("ASID", identifier, _ASID_BITS)
    if identifier == 0:
        raise OutOfRangeError("ASID 0 is the host's own: VMRUN refuses it")
    return {"N_CR3": nested_cr3(fmt, root), "ASID": identifier, "NP_ENABLE": 1}


def own_registers(halves: Sequence[tuple[Format, int, int]]) -> dict[str, int]:
    """What a hypervisor loads for its own tables: CR3 with PCID 0, and the bits of CR0, CR4 and EFER that long mode
    and the tables need (SDM Vol. 3A, 5.1.1 "Four Paging Modes", 11.8.5 "Initializing IA-32e Mode"); what else it sets
    there is its own business.

    Raises:
        MisalignedError: the root is no multiple of 4 KiB.
        OutOfRangeError: the root is above 2^52.
    """
    ((fmt, root, controls),) = halves
    cr0, cr4, efer = paging.registers_for(controls)
    wide = paging.CR4_LA57 if fmt.levels > 4 else 0
    return {
        "CR3": _root(root),
        "CR0": cr0 | paging.CR0_PG | paging.CR0_PE,
        "CR4": cr4 | paging.CR4_PAE | wide,
        "EFER": efer | paging.EFER_LME | paging.EFER_LMA,
    }


def _require_identifier(name: str, identifier: int, bits: int) -> None:
    if identifier < 0 or identifier >> bits:
        raise OutOfRangeError(f"{name} {identifier:#x} has more than {bits} bits")


def _root(root: int) -> int:
    """A root table's address, checked."""
    require_aligned("root table", root, 4096)
    if root < 0 or root >> 52:
        raise OutOfRangeError(f"root table {root:#x} is above 2^52")
    return root


def _root_of(name: str, value: int) -> int:
    if value & _BEYOND:
        raise EncodingError(f"{name} {value:#x}: the root table would be above 2^52, the widest physical address")
    return value & ADDRESS


# --- what values amount to ------------------------------------------------------------------------------------------
def _eptp_facts(value: int) -> Mapping[str, str]:
    pointer = decode_eptp(value)
    return {
        "format": f"{pointer.format.name} ({pointer.format.title})",
        "root": f"HPA {pointer.root:#x}",
        "walks": "write-back" if pointer.write_back else "uncacheable",
        "accessed and dirty": "set by hardware" if pointer.accessed_dirty else "not tracked",
    }


def _nested_facts(value: int) -> Mapping[str, str]:
    return {"format": "npt4, or npt5 if the host's CR4.LA57 is set", "root": f"HPA {_root_of('N_CR3', value):#x}"}


def _cr0_facts(value: int) -> Mapping[str, str]:
    if value & 1 << 31 and not value & 1:
        raise EncodingError("CR0: PG without PE: there is no paging in real mode")
    if value & 1 << 29 and not value & 1 << 30:
        raise EncodingError("CR0: NW without CD is refused by every processor")
    return {
        "paging": "on" if value >> 31 & 1 else "off: a GVA is a GPA",
        "supervisor writes": "obey R/W" if value >> 16 & 1 else "ignore R/W",
        "caches": "off" if value >> 30 & 1 else "as the memory types say",
    }


def _cr3_facts(value: int) -> Mapping[str, str]:
    base = decode_cr3(value)
    pcid = decode_cr3(value, pcid_enabled=True).pcid
    facts = {"root": f"{base.root:#x} (physical; a GPA in a guest)", "PCID": f"{pcid:#x}, if CR4.PCIDE is set"}
    if base.tag_bits:
        facts["tag of user pointers"] = f"{base.tag_bits} bits (LAM)"
    if base.keep:
        facts["note"] = "bit 63 is part of a write to CR3 only: it asks to flush nothing"
    return facts


def _cr4_facts(value: int) -> Mapping[str, str]:
    wide, tagged, long = value >> 12 & 1, value >> 17 & 1, value >> 5 & 1
    if tagged and not long:
        raise EncodingError("CR4: PCIDE without PAE: PCIDs exist in long mode only, which needs PAE")
    facts = {"format": f"x86-{5 if wide else 4}level, in long mode" if long else "32-bit paging, not known here"}
    guarded = [name for name, bit in (("fetches (SMEP)", 20), ("data accesses (SMAP)", 21)) if value >> bit & 1]
    facts["kernel on user pages"] = "no " + " and no ".join(guarded) if guarded else "as on its own"
    return facts


def _efer_facts(value: int) -> Mapping[str, str]:
    enabled, active = value >> 8 & 1, value >> 10 & 1
    if active and not enabled:
        raise EncodingError("EFER: LMA without LME: long mode cannot be active without being enabled")
    return {
        "long mode": "active" if active else "enabled, active once CR0.PG is set" if enabled else "off",
        "bit 63 of entries": "forbids fetches (NX)" if value >> 11 & 1 else "reserved",
    }


def _pat_facts(value: int) -> Mapping[str, str]:
    facts = {}
    for entry in range(8):
        found = value >> 8 * entry & 7
        if found not in fields.TYPE_NAMES:
            raise EncodingError(f"IA32_PAT: PA{entry} is {found}, a reserved memory type: WRMSR refuses it")
        bits = f"PAT {entry >> 2}, PCD {entry >> 1 & 1}, PWT {entry & 1}"
        facts[f"PA{entry}"] = f"{fields.TYPE_NAMES[found]}, for entries with {bits}"
    return facts


def _capability_facts(value: int) -> Mapping[str, str]:
    known = [fmt.name for levels, fmt in EPT_FORMATS.items() if value >> levels + 2 & 1]
    size = "1 GiB" if value >> 17 & 1 else "2 MiB" if value >> 16 & 1 else "4 KiB"
    return {
        "formats": ", ".join(known) or "none: EPT cannot be used",
        "largest leaf": size,
        "execute-only entries": "legal" if value & 1 else "misconfigurations",
        "accessed and dirty": "can be tracked" if value >> 21 & 1 else "cannot be tracked",
        "INVEPT": _kinds(value, 20, (("one EPTP", 25), ("all", 26))),
        "INVVPID": _kinds(
            value, 32, (("one address", 40), ("one VPID", 41), ("all", 42), ("one VPID but global pages", 43))
        ),
    }


def _kinds(value: int, there: int, kinds: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(name for name, bit in kinds if value >> there & value >> bit & 1) or "none"


def _vpid_facts(value: int) -> Mapping[str, str]:
    if value:
        return {"VPID": str(value)}
    return {"VPID": "0, the hypervisor's own: VM entry refuses it where VPIDs are enabled"}


def _register(
    name: str,
    title: str,
    described: tuple[Field, ...],
    summary: Summary,
    manual: str,
    aliases: tuple[str, ...] = (),
    bits: int = 64,
) -> Register:
    return Register(name, title, "x86_64", described, manual, bits, summary, aliases)


_VOL_3A, _VOL_3C = "Intel SDM Vol. 3A, ", "Intel SDM Vol. 3C, "
_CONTROL = _VOL_3A + '2.5 "Control Registers"'

REGISTERS: tuple[Register, ...] = (
    _register(
        "EPTP",
        "the EPT pointer: root table and format of stage 2",
        fields.EPTP,
        _eptp_facts,
        _VOL_3C + '26.6.11 "Extended-Page-Table Pointer (EPTP)"',
    ),
    _register(
        "VPID",
        "virtual-processor identifier",
        fields.VPID,
        _vpid_facts,
        _VOL_3C + '30.1 "Virtual Processor Identifiers (VPIDs)"',
        bits=_VPID_BITS,
    ),
    _register(
        "N_CR3",
        "nested CR3 of the VMCB: root table of stage 2",
        fields.N_CR3,
        _nested_facts,
        'AMD APM Vol. 2, 15.25.3 "Enabling Nested Paging"',
        ("nCR3", "hCR3"),
    ),
    _register("CR0", "whether paging is on", fields.CR0, _cr0_facts, _CONTROL),
    _register("CR3", "root table of stage 1, in long mode", fields.CR3, _cr3_facts, _CONTROL),
    _register("CR4", "how paging works", fields.CR4, _cr4_facts, _CONTROL),
    _register(
        "EFER",
        "extended features: long mode and no-execute",
        fields.EFER,
        _efer_facts,
        _VOL_3A + '2.2.1 "Extended Feature Enable Register"; AMD APM Vol. 2, 3.1.7',
        ("IA32_EFER",),
    ),
    _register(
        "IA32_PAT",
        "the eight memory types that entries choose from",
        fields.PAT,
        _pat_facts,
        _VOL_3A + '13.12 "Page Attribute Table (PAT)"',
        ("PAT", "G_PAT"),
    ),
    _register(
        "IA32_VMX_EPT_VPID_CAP",
        "what EPT and VPID can do on this processor",
        fields.EPT_VPID_CAP,
        _capability_facts,
        'Intel SDM Vol. 3D, A.10 "VPID and EPT Capabilities"',
    ),
)
