"""Field by field, the x86-64 registers that take part in translation.

Intel SDM Vol. 3A, 2.5 "Control Registers" and 13.12 "Page Attribute Table (PAT)"; Vol. 3C, 26.6.11 "Extended-Page-Table
Pointer (EPTP)"; Vol. 3D, A.10 "VPID and EPT Capabilities"; AMD APM Vol. 2, 3.1 "System-Control Registers" and 15.25.
"""

from __future__ import annotations

from ..record import Field
from .memory_types import NAMES, TYPES

TYPE_NAMES = {code: f"{TYPES[code]} ({NAMES[code]})" for code in TYPES} | {
    7: "uncached, unless an MTRR says WC (UC-)",
}
"""The encodings of IA32_PAT in words."""


def flag(bit: int, name: str, zero: str, one: str) -> Field:
    """A field of one bit with a sentence for either value."""
    return Field(bit, bit, name, one, {0: zero, 1: one})


def complete(bits: int, *given: Field) -> tuple[Field, ...]:
    """The fields of a register: those given, and reserved ones in the gaps between them.

    Args:
        bits: width of the register.
        given: its fields, in any order.
    """
    found: list[Field] = []
    low = 0
    for field in (*sorted(given, key=lambda field: field.low), Field(bits, bits, "", "")):
        if field.low > low:
            found.append(Field(field.low - 1, low, "reserved", "reserved, must be zero", reserved=True))
        found.append(field)
        low = field.high + 1
    return tuple(found[:-1])


EPTP = complete(
    64,
    Field(2, 0, "memory type", "reserved memory type of walks", {0: "walks are uncacheable (UC)",
          6: "walks are write-back (WB)"}),
    Field(5, 3, "walk length - 1", "reserved walk length", {3: "walks have 4 levels", 4: "walks have 5 levels"}),
    flag(6, "A/D", "accessed and dirty flags are not tracked", "hardware sets accessed and dirty flags; reads of the "
         "guest's tables count as writes"),
    flag(7, "SSS", "shadow stacks are not checked", "supervisor shadow-stack accesses need bit 60 of the EPT leaf"),
    Field(51, 12, "address", "bits 51:12 of the address of the root table"),
)  # fmt: skip

CR0 = complete(
    64,
    flag(0, "PE", "real mode", "protected mode"),
    flag(1, "MP", "WAIT ignores TS", "WAIT traps if TS is set"),
    flag(2, "EM", "x87 instructions are executed", "x87 instructions trap, to be emulated"),
    flag(3, "TS", "no task was switched", "the next x87 or SSE instruction traps, for a task was switched"),
    flag(4, "ET", "no x87 (never so on x86-64)", "the x87 is there; always 1"),
    flag(5, "NE", "x87 errors are external interrupts", "x87 errors are exceptions"),
    flag(16, "WP", "supervisor writes ignore R/W of entries", "supervisor writes obey R/W of entries"),
    flag(18, "AM", "alignment is not checked", "alignment is checked in user mode, with EFLAGS.AC"),
    flag(29, "NW", "caches write through or back as memory types say", "caches may be incoherent; legal with CD only"),
    flag(30, "CD", "caches work as memory types say", "caches take no new lines: under EPT all memory is uncacheable"),
    flag(31, "PG", "paging is off: a GVA is a GPA", "paging is on"),
)  # fmt: skip

CR3 = complete(
    64,
    Field(11, 0, "PCID", "with CR4.PCIDE, tags TLB entries with the process; without it bit 3 is PWT and bit 4 PCD, "
          "how the root is read, and the others are ignored"),
    Field(51, 12, "address", "bits 51:12 of the address of the root table"),
    flag(61, "LAM_U57", "user pointers have no tag, unless LAM_U48 says so", "bits 62:57 of user pointers are a tag"),
    flag(62, "LAM_U48", "user pointers have no tag, unless LAM_U57 says so", "bits 62:48 of user pointers are a tag, "
         "unless LAM_U57 is set"),
    flag(63, "no flush", "writing CR3 flushes what the PCID has in the TLB", "writing CR3 keeps what the PCID has in "
         "the TLB, with CR4.PCIDE; it never reads as 1"),
)  # fmt: skip

CR4 = complete(
    64,
    flag(0, "VME", "no virtual-8086 extensions", "virtual-8086 extensions"),
    flag(1, "PVI", "no protected-mode virtual interrupts", "protected-mode virtual interrupts"),
    flag(2, "TSD", "RDTSC works everywhere", "RDTSC is for the kernel only"),
    flag(3, "DE", "DR4 and DR5 are DR6 and DR7", "DR4 and DR5 do not exist"),
    flag(4, "PSE", "32-bit paging has 4 KiB pages only", "32-bit paging has 4 MiB pages too"),
    flag(5, "PAE", "32-bit paging entries", "64-bit paging entries; long mode needs it"),
    flag(6, "MCE", "machine checks shut down", "machine checks are exceptions"),
    flag(7, "PGE", "no page is global", "pages with G stay in the TLB when CR3 is written"),
    flag(8, "PCE", "RDPMC is for the kernel only", "RDPMC works everywhere"),
    flag(9, "OSFXSR", "SSE is off", "SSE is on"),
    flag(10, "OSXMMEXCPT", "SSE errors are invalid opcodes", "SSE errors are exceptions of their own"),
    flag(11, "UMIP", "SGDT, SIDT, SLDT, SMSW, STR work everywhere", "SGDT, SIDT, SLDT, SMSW, STR are for the kernel"),
    flag(12, "LA57", "long mode has 4 levels of tables", "long mode has 5 levels of tables, 57-bit addresses"),
    flag(13, "VMXE", "VMX is off", "VMX is on"),
    flag(14, "SMXE", "SMX is off", "SMX is on"),
    flag(16, "FSGSBASE", "RDFSBASE and its like are off", "RDFSBASE and its like are on"),
    flag(17, "PCIDE", "TLB entries have no process tag", "TLB entries are tagged with CR3's PCID"),
    flag(18, "OSXSAVE", "XSAVE is off", "XSAVE is on"),
    flag(19, "KL", "Key Locker is off", "Key Locker is on"),
    flag(20, "SMEP", "the kernel may fetch from user pages", "a kernel fetch from a user page faults"),
    flag(21, "SMAP", "the kernel may access user pages", "a kernel access to a user page faults unless EFLAGS.AC"),
    flag(22, "PKE", "user pages have no protection keys", "user pages have protection keys (PKRU)"),
    flag(23, "CET", "shadow stacks and branch tracking are off", "shadow stacks and branch tracking may be used"),
    flag(24, "PKS", "supervisor pages have no protection keys", "supervisor pages have protection keys (IA32_PKRS)"),
    flag(25, "UINTR", "user interrupts are off", "user interrupts are on"),
    flag(27, "LASS", "address spaces are not separated by bit 63", "user mode may use low, the kernel high addresses "
         "only"),
    flag(28, "LAM_SUP", "supervisor pointers have no tag", "upper bits of supervisor pointers are a tag"),
    flag(32, "FRED", "events are delivered through the IDT", "events are delivered by FRED"),
)  # fmt: skip

EFER = complete(
    64,
    flag(0, "SCE", "SYSCALL is off", "SYSCALL is on"),
    flag(8, "LME", "paging, once on, is 32-bit or PAE paging", "paging, once on, is long mode's"),
    flag(10, "LMA", "long mode is not active", "long mode is active"),
    flag(11, "NXE", "bit 63 of entries is reserved: every page is executable", "bit 63 of entries forbids fetches"),
    flag(12, "SVME", "SVM is off", "SVM is on (AMD)"),
    flag(13, "LMSLE", "segment limits are ignored in long mode", "segment limits hold in long mode (AMD)"),
    flag(14, "FFXSR", "FXSAVE saves XMM registers always", "FXSAVE leaves XMM registers out in the kernel (AMD)"),
    flag(15, "TCE", "INVLPG drops all cached upper-level entries", "INVLPG keeps unrelated upper-level entries (AMD)"),
    flag(17, "MCOMMIT", "MCOMMIT is off", "MCOMMIT is on (AMD)"),
    flag(18, "INTWB", "WBINVD cannot be interrupted", "WBINVD can be interrupted (AMD)"),
    flag(20, "UAIE", "user pointers have no tag", "bits 63:57 of pointers are ignored in data accesses (AMD)"),
    flag(21, "AIBRSE", "no automatic IBRS", "automatic IBRS (AMD)"),
)

PAT = complete(
    64,
    *(
        Field(8 * entry + 2, 8 * entry, f"PA{entry}", "reserved memory type", TYPE_NAMES)
        for entry in range(8)
    ),
)  # fmt: skip

N_CR3 = complete(
    64,
    flag(3, "PWT", "the root is read write-back", "the root is read write-through"),
    flag(4, "PCD", "the root is read cached", "the root is read uncached"),
    Field(51, 12, "address", "bits 51:12 of the address of the nested root table"),
)

EPT_VPID_CAP = complete(
    64,
    flag(0, "execute-only", "an entry that allows fetches only is a misconfiguration", "an entry may allow fetches "
         "only"),
    flag(6, "4 levels", "no walks of 4 levels", "EPTP may ask for 4 levels"),
    flag(7, "5 levels", "no walks of 5 levels", "EPTP may ask for 5 levels"),
    flag(8, "UC", "walks cannot be uncacheable", "EPTP may ask for uncacheable walks"),
    flag(14, "WB", "walks cannot be write-back", "EPTP may ask for write-back walks"),
    flag(16, "2 MiB", "no leaves of 2 MiB", "leaves of 2 MiB"),
    flag(17, "1 GiB", "no leaves of 1 GiB", "leaves of 1 GiB"),
    flag(20, "INVEPT", "no INVEPT", "INVEPT exists"),
    flag(21, "A/D", "no accessed and dirty flags", "EPTP may ask for accessed and dirty flags"),
    flag(22, "advanced information", "an EPT violation does not tell the guest's own permissions", "an EPT violation "
         "tells the guest's own permissions (bits 11:9)"),
    flag(23, "SSS", "no check of supervisor shadow stacks", "EPTP may ask for a check of supervisor shadow stacks"),
    flag(25, "INVEPT 1", "no INVEPT for one EPTP", "INVEPT type 1, for one EPTP"),
    flag(26, "INVEPT 2", "no INVEPT for all", "INVEPT type 2, for all EPTPs"),
    flag(32, "INVVPID", "no INVVPID", "INVVPID exists"),
    flag(40, "INVVPID 0", "no INVVPID for one address", "INVVPID type 0, for one address of a VPID"),
    flag(41, "INVVPID 1", "no INVVPID for one VPID", "INVVPID type 1, for one VPID"),
    flag(42, "INVVPID 2", "no INVVPID for all", "INVVPID type 2, for all VPIDs but 0"),
    flag(43, "INVVPID 3", "no INVVPID that keeps global pages", "INVVPID type 3, for one VPID without global pages"),
    Field(53, 48, "HLAT prefix", "the longest HLAT prefix, in bits"),
)  # fmt: skip

VPID = (Field(15, 0, "VPID", "tags TLB entries with the virtual processor", {0: "the hypervisor's own tag"}),)
