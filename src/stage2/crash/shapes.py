"""Lines in which numbers stand without their names, or names mean something else than usually.

Each shape is looked for before the names of the rest of the line. Its groups are keys of `names`; those in upper case
are put together by `reading`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEX = r"(?:0[xX])?[0-9a-fA-F]+"
_WORDS = ".{0,200}?"
"""Whatever stands between two parts of a line: so much of it that no line is looked through again and again."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of line.

    Args:
        who: prints it.
        pattern: with what is found in groups.
        starts: whether what stands before it was another event.
        level: the exception level whose registers follow.
    """

    who: str
    pattern: re.Pattern[str]
    starts: bool = False
    level: int | None = None


def _shape(who: str, pattern: str, *, starts: bool = False, level: int | None = None) -> Shape:
    return Shape(who, re.compile(pattern.replace("HEX", _HEX).replace(".*?", _WORDS)), starts, level)


SHAPES = (
    # --- Linux
    _shape(
        "Linux",
        r"(?:[Uu]nable to handle kernel|[Uu]nable to handle page fault|kernel NULL pointer dereference)"
        r".*?(?:address:?|\bat)\s+(?P<address>(?:0x)?[0-9a-f]{8,16})\b",
        starts=True,
    ),
    _shape("Linux on arm64", r"Internal error: .*?(?P<esr>[0-9a-f]{8,16}) \[#\d+\]"),
    _shape(
        "Linux on arm64: arm64_serror_panic, bad_mode, bad_el0_sync",
        r"(?:SError Interrupt|Bad mode in .*? handler detected|Bad EL0 synchronous exception detected)"
        r"(?: on CPU\d+)?, code (?P<esr>0x[0-9a-f]{8,16})",
        starts=True,
    ),
    _shape("Linux on arm64: __panic_unhandled", r"Unhandled .*? exception on CPU\d+, ESR (?P<esr>HEX)", starts=True),
    # 32-bit Arm has these lines, too, with the shorter numbers of its FSR.
    _shape(
        "Linux on arm64: older do_mem_abort and do_sea",
        r"(?:Unhandled fault|Synchronous External Abort): .*?"
        r"\((?P<esr>0x[0-9a-f]{8,16})\) at (?P<far>0x[0-9a-f]{8,16})\b",
        starts=True,
    ),
    # What stands behind "at" is the PC in some versions.
    _shape(
        "Linux on arm64: do_debug_exception",
        r"Unhandled debug exception: .*?\((?P<esr>0x[0-9a-f]{8,16})\) at \S+",
        starts=True,
    ),
    _shape("Linux on arm64: do_mem_abort", r"Unhandled fault at (?P<address>0x[0-9a-f]{16})\b", starts=True),
    _shape("Linux on arm64: __show_regs", r"\bpstate: (?P<PSTATE>[0-9a-f]{8,16})\b"),
    _shape("Linux on RISC-V: DO_ERROR_INFO", r"\bOops - (?P<TITLE>[A-Za-z][A-Za-z()/ -]{0,60}?) \[#\d+\]", starts=True),
    _shape("Linux on x86", r"Corrupted page table at address (?P<address>HEX)\b", starts=True),
    _shape("Linux on x86", r"\b(?:Oops|Bad pagetable): (?:Oops: |Bad pagetable: )?(?P<error>[0-9a-f]{4}) \[#\d+\]"),
    _shape("Linux on x86", r"(?:#PF: )?\berror_code\((?P<error>0x[0-9a-f]+)\)"),
    _shape("Linux on x86, no page fault's error code", r"double fault, error_code: HEX"),
    _shape(
        "Linux on x86, of a program",
        r"segfault at (?P<cr2>[0-9a-f]+) ip [0-9a-f]+ sp [0-9a-f]+ error (?P<error>[0-9a-f]+)",
        starts=True,
    ),
    _shape(
        "Linux on arm64, of a program",
        r"unhandled [^(]{0,200}\(\d+\) at (?P<far>0x[0-9a-f]+), esr (?P<esr>0x[0-9a-f]+)",
        starts=True,
    ),
    _shape("Linux on arm64, of a program", r"unhandled exception: .*?\bESR (?P<esr>0x[0-9a-f]+)", starts=True),
    # --- KVM
    _shape("KVM on arm64", r"HYP panic:", starts=True, level=2),
    _shape("KVM on arm64", r"kvm_guest_fault: ipa (?P<gpa>HEX), hsr (?P<esr>HEX), hxfar (?P<far>HEX)", starts=True),
    _shape(
        "KVM on x86",
        r"kvm_page_fault: (?:vcpu \d+ )?(?:rip \S+ )?address (?P<GPA>HEX) error_code (?P<INFO1>HEX)",
        starts=True,
    ),
    _shape(
        "KVM on x86",
        r"\breason:? (?P<REASON>\w+)(?: rip \S+)? (?:info1|ext_inf1):? (?P<INFO1>HEX)"
        r"(?: (?:info2|ext_inf2):? (?P<INFO2>HEX))?"
        r"(?: intr_info \S+)?(?: error_code \S+)?",
        starts=True,
    ),
    _shape("KVM on x86", r"\breason (?P<REASON>\w+)(?: rip \S+)? info (?P<INFO1>HEX) (?P<INFO2>HEX)", starts=True),
    _shape("KVM on Intel", r"\breason=(?P<REASON>[0-9a-f]{8}) qualification=(?P<INFO1>[0-9a-f]{16})"),
    _shape("KVM on RISC-V", r"\bkvm_exit: (?=SEPC:)", starts=True),
    _shape("KVM on Intel, of injected events", r"(?:intr_info|info)=\S+ errcode=\S+(?: ilen=\S+)?"),
    # --- Xen and Jailhouse
    _shape(
        "Xen on Intel",
        r"EPT violation (?P<qualification>0x[0-9a-f]+) \([^)]{0,200}\),? gpa (?P<gpa>HEX)",
        starts=True,
    ),
    _shape("Xen on x86", r"Faulting linear address: (?P<cr2>HEX)"),
    _shape("Jailhouse on arm64", r"\besr: (?P<CLASS>[0-9a-f]{2}) (?P<LENGTH>[01]) (?P<ISS>[0-9a-f]+)"),
    # --- QEMU's -d int
    _shape("QEMU, Arm", r"Taking exception \d+", starts=True),
    _shape("QEMU, Arm", r"\.\.\.from EL\d to EL(?P<EL>[123])"),
    _shape("QEMU, Arm", r"with ESR 0x[0-9a-f]+/(?P<esr>0x[0-9a-f]+)"),
    _shape(
        "QEMU, RISC-V",
        r"hart:\d+, async:(?P<ASYNC>[01]), cause:(?P<CAUSE>[0-9a-f]+), epc:\S+ tval:(?P<stval>HEX)",
        starts=True,
    ),
    _shape("QEMU, x86", r"\bv=(?P<VECTOR>[0-9a-f]{2}) e=(?P<error>[0-9a-f]{4})", starts=True),
    # --- firmware and microkernels
    _shape("EDK2 on x86", r"Exception Type - (?P<VECTOR>[0-9A-F]{2})\(", starts=True),
    _shape("EDK2 and Zephyr on arm64, of fields of ESR", r"\bESR\s*:\s*EC\b.*|^\W*(?:EC|IL|ISS):.*"),
    _shape("U-Boot on RISC-V", r"Unhandled exception: (?P<TITLE>[A-Za-z/][A-Za-z/ -]*)$", starts=True),
    _shape(
        "seL4 on arm64",
        r"vm fault on (?:data|code) at address (?P<far>HEX) with status (?P<esr>0x[89][0-9a-f]{7})\b",
        starts=True,
    ),
    _shape(
        "FreeBSD on x86",
        r"fault code\s*=\s*(?P<WORDS>(?:supervisor|user) (?:read|write)(?: data| instruction)?, [a-z ]+)",
    ),
    _shape("FreeBSD on x86", r"fault virtual address\s*=\s*(?P<cr2>HEX)"),
)

PREFIX = re.compile(
    r"""^(?:
        [>|\s]+                                           # quoted mail, indentation
        | <\d+>                                           # the kernel log's level
        | [A-Z][a-z]{2}\s+\d+\s[\d:]{8}\s\S+\skernel:     # syslog
        | \d{4}-\d\d-\d\d[T\s][\d:.,+Z-]+(?:\s\S+\skernel:)?
        | \[\s*\d+\.\d+\]  | \[\s*[TC]\d+\]  | \[\d\d:\d\d:[\d.,]+\]   # printk, Zephyr
        | kernel:\s
        | \(XEN\)  | \(d\d+\)  | [EWI]:\s
        | \S+-\d+\s+\[\d+\]\s+\S+\s+[\d.]+:               # ftrace
    )\s*""",
    re.VERBOSE,
)
"""What stands before a line and is not its own; as often as there is one."""
