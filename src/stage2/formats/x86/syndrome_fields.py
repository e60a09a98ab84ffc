"""Field by field, the numbers that report x86 faults; the sections of the manuals are named in `syndromes`."""

from __future__ import annotations

from ..record import Field
from .register_fields import complete, flag

EXIT_REASON = complete(
    32,
    Field(15, 0, "basic exit reason", "another exit", {48: "EPT violation", 49: "EPT misconfiguration"}),
    flag(25, "busy shadow stack", "no shadow stack was left busy", "a supervisor shadow stack was left busy"),
    flag(26, "bus lock", "no bus lock", "a bus lock was asserted"),
    flag(27, "enclave", "not in enclave mode", "the CPU was in enclave mode: address bits 11:0 are clear"),
    flag(28, "pending MTF", "no pending MTF exit", "an MTF exit was pending"),
    flag(29, "VMX root", "the exit was from a guest", "the exit was from VMX root operation"),
    flag(31, "entry failure", "a VM exit", "a failed VM entry"),
)
QUALIFICATION = complete(
    64,
    flag(0, "read", "not a data read", "a data read"),
    flag(1, "write", "not a data write", "a data write, or a read of the guest's tables that counts as one"),
    flag(2, "fetch", "not an instruction fetch", "an instruction fetch"),
    flag(3, "readable", "the EPT entries do not allow reads", "the EPT entries allow reads"),
    flag(4, "writable", "the EPT entries do not allow writes", "the EPT entries allow writes"),
    flag(5, "executable", "the EPT entries do not allow fetches (supervisor-mode ones under mode-based execute "
         "control)", "the EPT entries allow fetches (supervisor-mode ones under mode-based execute control)"),
    flag(6, "user-executable", "with mode-based execute control, user-mode fetches are not allowed; undefined "
         "otherwise", "with mode-based execute control, user-mode fetches are allowed; undefined otherwise"),
    flag(7, "GLA valid", "the guest-linear address is not valid", "the guest-linear address is valid"),
    flag(8, "final", "with bit 7: an access to an entry of the guest's tables", "the access to the translated address "
         "itself"),
    flag(9, "user page", "with bits 7 and 8, and advanced information: a supervisor page in the guest's tables",
         "a user page in the guest's tables"),
    flag(10, "writable page", "with bits 7 and 8, and advanced information: read-only in the guest's tables",
         "writable in the guest's tables"),
    flag(11, "NX page", "with bits 7 and 8, and advanced information: executable in the guest's tables",
         "not executable in the guest's tables"),
    flag(12, "NMI unblocking", "no IRET that unblocks NMIs", "an IRET caused it that had unblocked NMIs"),
    flag(13, "shadow stack", "no shadow-stack access", "a shadow-stack access"),
    flag(14, "SSS", "bit 60 of the EPT leaf is clear, or EPTP bit 7 is", "bit 60 of the EPT leaf is set: supervisor "
         "shadow-stack accesses are allowed"),
    flag(15, "verification", "not by guest-paging verification", "guest-paging verification failed"),
    flag(16, "asynchronous", "the access is an instruction's or an event's", "the access was asynchronous: trace "
         "output, PEBS, or a user interrupt"),
)  # fmt: skip

EXITINFO1 = complete(
    64,
    flag(0, "P", "a nested entry is not present", "the nested entries are present"),
    flag(1, "RW", "not a write", "a write; reads of the guest's tables count as writes"),
    flag(2, "US", "no user access to the nested tables", "a user access to the nested tables, as all the guest's are"),
    flag(3, "RSV", "no reserved bit", "a reserved bit is set in a nested entry"),
    flag(4, "ID", "not an instruction fetch", "an instruction fetch"),
    flag(6, "SS", "no shadow-stack access", "a shadow-stack access"),
    flag(31, "RMP", "not by the reverse map table", "the reverse map table (RMP) refused it (SEV-SNP)"),
    flag(32, "final", "not in the final guest-physical address", "the fault is in the final guest-physical address"),
    flag(33, "table", "not in a walk of the guest's tables", "the fault is in a walk of the guest's tables"),
    flag(34, "ENC", "the guest's access was not encrypted", "the guest's effective C-bit was 1"),
    flag(35, "SIZEM", "no size mismatch", "page sizes of PVALIDATE or RMPADJUST and the RMP differ"),
    flag(36, "VMPL", "not by VMPL permissions", "the permissions of the VMPL refused it"),
    flag(37, "SSS", "no supervisor shadow-stack page", "the page is a supervisor shadow-stack page"),
)  # fmt: skip

PAGE_FAULT_ERROR = complete(
    64,
    flag(0, "P", "an entry is not present", "the entries are present"),
    flag(1, "W/R", "not a write", "a write"),
    flag(2, "U/S", "from the kernel", "from user mode"),
    flag(3, "RSVD", "no reserved bit", "a reserved bit is set in an entry"),
    flag(4, "I/D", "a data access, or fetches are not told apart (no NXE and no SMEP)", "an instruction fetch"),
    flag(5, "PK", "not by a protection key", "a protection key refused it"),
    flag(6, "SS", "no shadow-stack access", "a shadow-stack access"),
    flag(7, "HLAT", "not by a HLAT walk", "the fault was in a walk by HLAT paging"),
    flag(15, "SGX", "not by SGX", "SGX refused it, not the tables"),
    flag(31, "RMP", "not by the reverse map table", "the reverse map table (RMP) refused it (AMD SEV-SNP)"),
)
