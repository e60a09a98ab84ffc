"""The one table of names under which fault registers are printed, and whose registers they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..formats.riscv.syndromes import GUEST_CALL, MACHINE_CALL, SUPERVISOR_CALL, USER_CALL, cause_of


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Who can explain a fault: a function of a family's syndromes, and the keys in its parameters' order.

    Args:
        what: whose registers they are, in words.
        family: folder of `formats`.
        function: of its `syndromes`.
        keys: the first one is needed, or the one that may be given instead.
        instead: that one.
        neutral: names that texts of several architectures have, and the keys that they are here.
    """

    what: str
    family: str
    function: str
    keys: tuple[str, ...]
    instead: str = ""
    neutral: Mapping[str, str] | None = None


ADDRESS, GVA, GPA = "address", "gva", "gpa"
"""Keys that only the other registers give an architecture: a faulting virtual address; what hypervisors print."""

ARM = Source("Arm", "arm", "report", ("esr", "far", "hpfar", "el"), neutral={ADDRESS: "far", GVA: "far", GPA: "hpfar"})
EPT = Source(
    "an EPT violation", "x86", "ept_fault", ("qualification", "gpa", "gva", "exit_reason"), "exit_reason",
    {ADDRESS: "gva"},
)  # fmt: skip
NPF = Source("an AMD nested page fault", "x86", "nested_page_fault", ("exitinfo1", "exitinfo2"))
PAGE_FAULT = Source("an x86 page fault", "x86", "page_fault", ("error", "cr2"), neutral={ADDRESS: "cr2"})
SUPERVISOR = Source(
    "RISC-V", "riscv", "report", ("scause", "stval", "htval", "htinst"), neutral={ADDRESS: "stval", GVA: "stval"}
)
MACHINE = Source(
    "RISC-V's machine mode", "riscv", "machine_report", ("mcause", "mtval", "mtval2", "mtinst"),
    neutral={ADDRESS: "mtval"},
)  # fmt: skip
GUEST = Source("a RISC-V guest", "riscv", "guest_report", ("vscause", "vstval"), neutral={ADDRESS: "vstval"})
SOURCES = (ARM, EPT, NPF, PAGE_FAULT, SUPERVISOR, MACHINE, GUEST)

LEVEL = "el"
"""The key of the exception level whose registers were given."""
BY_KEY = {key: source for source in SOURCES for key in source.keys}

_ALSO: Mapping[str, tuple[str, ...]] = {
    # Arm: Linux, KVM, Xen, QEMU, TF-A (esr_el3), Zephyr (ESR_ELn), FreeBSD.
    "esr": ("hsr", "esr_eln", "esr_elx", "syndrome", "esr_hyp"),
    "far": ("far_eln", "hxfar", "hfar", "hdfar", "vaddr"),
    "hpfar": ("hpfar_hyp",),
    # x86: KVM's dump_vmcs, Xen, the SDM's and the APM's own names; EDK2 says ExceptionData.
    "qualification": ("exit_qualification", "exitqualification", "exit_qual", "qual"),
    "exit_reason": ("exitreason", "reason", "vmexit_reason"),
    "exitinfo1": ("exit_info1", "exit_info_1", "exitinfo_1"),
    "exitinfo2": ("exit_info2", "exit_info_2", "exitinfo_2"),
    "error": ("error_code", "errcode", "exceptiondata", "err_code"),
    "gpa": ("guest_physical_address", "guest_phys_addr", "guest_paddr", "guestphysicaladdress", "ipa"),
    "gva": ("guest_linear_address", "guest_vaddr", "gla", "guest_virtual_address"),
    # RISC-V: Linux (cause, badaddr; sbadaddr before 5.x), U-Boot (TVAL), QEMU (cause, tval), xv6, OpenSBI.
    "scause": ("cause",),
    "stval": ("badaddr", "sbadaddr", "tval"),
    "mtval": ("mbadaddr",),
    "address": ("fault_address", "faulting_address"),
}
NAMES: Mapping[str, str] = {
    **{key: key for key in BY_KEY},
    **{name: key for key, names in _ALSO.items() for name in (key, *names)},
}
"""What stands in texts, in lower case, by what it is."""
FIELDS: Mapping[str, frozenset[str]] = {
    # Linux's mem_abort_decode and data_abort_decode, KVM (xFSC), Zephyr.
    "esr": frozenset({
        "EC", "IL", "SET", "FnV", "EA", "S1PTW", "FSC", "xFSC", "DFSC", "IFSC", "ISV", "ISS", "ISS2", "CM", "WnR",
        "TnD", "TagAccess", "GCS", "Overlay", "DirtyBit", "Xs", "SSE", "SRT", "SF", "AR",
    }),
    # EDK2, behind ExceptionData.
    "error": frozenset({"P", "W", "U", "R", "I", "PK", "SS", "SGX"}),
}  # fmt: skip
"""Fields of a register that texts print beside it, by its key; written as here."""
_CALLS = {
    "environment call from u-mode": USER_CALL,
    "environment call from s-mode": SUPERVISOR_CALL,
    "environment call from h-mode": GUEST_CALL,
    "environment call from m-mode": MACHINE_CALL,
}
_SUFFIX = re.compile(r"_(?:el|EL)([123])$")


def named(written: str) -> tuple[str, int | None]:
    """The key that a register's name stands for, and the exception level that the name says.

    Returns:
        The name itself, in lower case, where it is none of a fault.
    """
    match = _SUFFIX.search(written)
    name = (written if match is None else written[: match.start()]).lower()
    if match is not None and NAMES.get(name) not in ("esr", "far", "hpfar"):
        return written.lower(), None
    return NAMES.get(name, name), None if match is None else int(match[1])


def named_cause(title: str) -> int | None:
    """The RISC-V exception code of a cause's name, as Linux (`store (or AMO) access fault`) and U-Boot print it.

    Returns:
        None for one that the manual does not name.
    """
    words = " ".join(title.lower().replace("(or amo)", "").split())
    return _CALLS.get(words, cause_of(words))
