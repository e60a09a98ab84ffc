"""Field by field, the Arm registers that take part in translation (Arm ARM DDI 0487, D24.2 "General system control").

ESR_EL2's fields are in `syndromes`, where its codes are.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..record import Field
from .fault_status import FAULT_STATUS

_CACHE = {0: "walks are Non-cacheable", 1: "walks are Write-Back, allocating", 2: "walks are Write-Through",
          3: "walks are Write-Back, not allocating on writes"}  # fmt: skip
_SHARE = {0: "walks are Non-shareable", 1: "reserved shareability of walks", 2: "walks are Outer Shareable",
          3: "walks are Inner Shareable"}  # fmt: skip
_TG0 = {0: "granule of 4 KiB", 1: "granule of 64 KiB", 2: "granule of 16 KiB", 3: "reserved granule"}
_TG1 = {0: "reserved granule", 1: "granule of 16 KiB", 2: "granule of 4 KiB", 3: "granule of 64 KiB"}
_PS = {code: f"output addresses of {bits} bits" for code, bits in enumerate((32, 36, 40, 42, 44, 48, 52, 56))}


def _flag(bit: int, name: str, zero: str, one: str) -> Field:
    return Field(bit, bit, name, one, {0: zero, 1: one})


def _reserved(high: int, low: int) -> Field:
    return Field(high, low, "RES0", "reserved, must be zero", reserved=True)


def _one(bit: int) -> Field:
    return Field(bit, bit, "RES1", "reserved, must be one", {0: "reserved, should be one", 1: "reserved, one"})


def _hardware(low: int, suffix: str = "") -> tuple[Field, ...]:
    """The four bits that let hardware use descriptor bits 59 to 62."""
    return tuple(
        _flag(
            low + place,
            f"HWU{suffix}{59 + place}",
            f"descriptor bit {59 + place} is software's",
            f"hardware may use descriptor bit {59 + place} for its own purposes",
        )
        for place in range(4)
    )


_HA = ("an access flag that is clear faults", "hardware sets the access flag")
_HD = ("hardware does not manage dirty state", "with HA, hardware makes a page with DBM writable at the first write")

VTCR_EL2 = (
    Field(5, 0, "T0SZ", "the IPA has 64 - T0SZ bits"),
    Field(7, 6, "SL0", "the start level, by granule: with 4 KiB 0 is level 2, 1 level 1, 2 level 0, 3 level 3; with 16 "
          "and 64 KiB 0 is level 3, 1 level 2, 2 level 1 (3 is level 0 with 16 KiB and DS)"),
    Field(9, 8, "IRGN0", "inner cacheability of walks", _CACHE),
    Field(11, 10, "ORGN0", "outer cacheability of walks", _CACHE),
    Field(13, 12, "SH0", "shareability of walks", _SHARE),
    Field(15, 14, "TG0", "the granule", _TG0),
    Field(18, 16, "PS", "width of output addresses", _PS),
    _flag(19, "VS", "VMIDs have 8 bits", "VMIDs have 16 bits"),
    _reserved(20, 20),
    _flag(21, "HA", *_HA),
    _flag(22, "HD", *_HD),
    _reserved(24, 23),
    *_hardware(25),
    _flag(29, "NSW", "in Secure state, walks for Non-secure IPAs use Secure memory", "in Secure state, walks for "
          "Non-secure IPAs use Non-secure memory"),
    _flag(30, "NSA", "in Secure state, Non-secure IPAs lead to Secure memory", "in Secure state, Non-secure IPAs lead "
          "to Non-secure memory"),
    _one(31),
    _flag(32, "DS", "addresses have 48 bits with 4 and 16 KiB granules", "52-bit addresses with 4 and 16 KiB granules "
          "(LPA2); their descriptors have no SH"),
    _flag(33, "SL2", "SL0 alone gives the start level", "with 4 KiB granules, DS and SL0 0 it is level -1"),
    _flag(34, "AssuredOnly", "descriptors have no AssuredOnly bit", "descriptor bit 58 is AssuredOnly (FEAT_THE)"),
    _flag(35, "TL1", "no check of TopLevel for TTBR1 walks", "TTBR1 walks are checked against TopLevel (FEAT_THE)"),
    _flag(36, "S2PIE", "permissions are in S2AP and XN", "permissions are indirect, by S2PIR_EL2 (FEAT_S2PIE)"),
    _flag(37, "S2POE", "no permission overlay", "permissions are overlaid by S2POR_EL1 (FEAT_S2POE)"),
    _flag(38, "D128", "descriptors have 64 bits", "descriptors have 128 bits (FEAT_D128)"),
    _reserved(39, 39),
    _flag(40, "GCSH", "AssuredOnly is not asked for guarded control stacks", "guarded control stacks need AssuredOnly"),
    _flag(41, "TL0", "no check of TopLevel for TTBR0 walks", "TTBR0 walks are checked against TopLevel (FEAT_THE)"),
    _reserved(43, 42),
    _flag(44, "HAFT", "table descriptors have no access flag", "hardware sets an access flag in table descriptors"),
    _flag(45, "HDBSS", "dirty pages are not logged", "hardware logs dirty pages (FEAT_HDBSS)"),
    _reserved(63, 46),
)  # fmt: skip

_BASE = (
    _flag(0, "CnP", "the tables are this CPU's", "all CPUs of the Inner Shareable domain use the same tables"),
    Field(47, 1, "BADDR", "address of the root table; bits 5:2 are its bits 51:48 where addresses have 52 bits"),
)

VTTBR_EL2 = (*_BASE, Field(63, 48, "VMID", "tags TLB entries with the VM; 8 bits of it unless VTCR_EL2.VS"))
TTBR = (
    *_BASE,
    Field(63, 48, "ASID", "tags non-global TLB entries with the process, if TCR_EL1.A1 picks this register"),
)
TTBR0_EL2 = (*_BASE, Field(63, 48, "ASID", "tags TLB entries if HCR_EL2.E2H is 1; otherwise reserved, zero"))

HCR_EL2 = (
    _flag(0, "VM", "stage 2 is off", "stage 2 is on for EL1 and EL0"),
    _flag(1, "SWIO", "DC ISW acts as written", "a guest's DC ISW cleans too, so that it cannot lose data"),
    _flag(2, "PTW", "a stage-1 walk may read what stage 2 calls Device", "a stage-1 walk that reads what stage 2 calls "
          "Device is a stage-2 permission fault"),
    _flag(3, "FMO", "physical FIQs are not routed to EL2", "physical FIQs go to EL2, virtual ones are on"),
    _flag(4, "IMO", "physical IRQs are not routed to EL2", "physical IRQs go to EL2, virtual ones are on"),
    _flag(5, "AMO", "physical SErrors are not routed to EL2", "physical SErrors go to EL2, virtual ones are on"),
    _flag(6, "VF", "no virtual FIQ is pending", "a virtual FIQ is pending"),
    _flag(7, "VI", "no virtual IRQ is pending", "a virtual IRQ is pending"),
    _flag(8, "VSE", "no virtual SError is pending", "a virtual SError is pending"),
    _flag(9, "FB", "cache and TLB operations act as written", "the guest's local TLB operations are broadcast"),
    Field(11, 10, "BSU", "the least shareability of the guest's barriers", {0: "barriers act as written",
          1: "barriers reach at least the Inner Shareable domain",
          2: "barriers reach at least the Outer Shareable domain", 3: "barriers reach the full system"}),
    _flag(12, "DC", "SCTLR_EL1.M and VM act as written", "stage 1 of EL1&0 is off and gives Normal Write-Back memory; "
          "stage 2 is on"),
    _flag(13, "TWI", "WFI does not trap", "the guest's WFI traps to EL2"),
    _flag(14, "TWE", "WFE does not trap", "the guest's WFE traps to EL2"),
    Field(18, 15, "TID0..TID3", "each bit traps reads of a group of identification registers"),
    _flag(19, "TSC", "SMC does not trap", "the guest's SMC traps to EL2"),
    _flag(20, "TIDCP", "implementation defined registers do not trap", "implementation defined registers trap to EL2"),
    _flag(21, "TACR", "ACTLR_EL1 does not trap", "the guest's use of ACTLR_EL1 traps to EL2"),
    _flag(22, "TSW", "cache operations by set and way do not trap", "cache operations by set and way trap to EL2"),
    _flag(23, "TPCP", "cache operations to coherency do not trap", "cache operations to coherency trap to EL2"),
    _flag(24, "TPU", "cache operations to unification do not trap", "cache operations to unification trap to EL2"),
    _flag(25, "TTLB", "TLBI does not trap", "the guest's TLBI instructions trap to EL2"),
    _flag(26, "TVM", "writes of stage-1 registers do not trap", "the guest's writes of SCTLR, TTBR, TCR, MAIR and the "
          "like trap to EL2"),
    _flag(27, "TGE", "EL0's exceptions go to EL1", "exceptions of EL0 go to EL2; EL1 and its stage 1 are out "
          "of use, with E2H stage 2 too"),
    _flag(28, "TDZ", "DC ZVA does not trap", "the guest's DC ZVA traps to EL2"),
    _flag(29, "HCD", "HVC works", "HVC is undefined"),
    _flag(30, "TRVM", "reads of stage-1 registers do not trap", "the guest's reads of stage-1 registers trap to EL2"),
    _flag(31, "RW", "EL1 is AArch32", "EL1 is AArch64"),
    _flag(32, "CD", "stage 2's cacheability holds for data", "stage 2 makes data in Normal memory Non-cacheable"),
    _flag(33, "ID", "stage 2's cacheability holds for fetches", "stage 2 makes fetches Non-cacheable"),
    _flag(34, "E2H", "EL2 has a regime of its own", "EL2 runs a host: the EL2&0 regime with two roots (VHE)"),
    _flag(35, "TLOR", "LORegion registers do not trap", "LORegion registers trap to EL2"),
    _flag(36, "TERR", "error record registers do not trap", "error record registers trap to EL2"),
    _flag(37, "TEA", "external aborts go where they would", "synchronous external aborts go to EL2"),
    _flag(38, "MIOCNCE", "inner and outer non-coherence is not allowed", "mismatched cacheability may lose coherency"),
    _flag(39, "TME", "transactions trap", "the guest may use transactions"),
    _flag(40, "APK", "pointer authentication keys trap", "the guest may use pointer authentication keys"),
    _flag(41, "API", "pointer authentication traps", "the guest may use pointer authentication"),
    Field(45, 42, "NV, NV1, AT, NV2", "nested virtualisation and traps of AT instructions; not interpreted here"),
    _flag(46, "FWB", "stage 2's MemAttr combines with stage 1", "stage 2's MemAttr overrides stage 1 (FEAT_S2FWB)"),
    _flag(47, "FIEN", "fault injection registers trap", "fault injection registers do not trap"),
    _flag(48, "GPF", "granule protection faults are not routed to EL2", "granule protection faults go to EL2"),
    Field(52, 49, "TID4, TICAB, AMVOFFEN, TOCU", "traps of cache identification and operations, and activity counter "
          "offsets"),
    _flag(53, "EnSCXT", "SCXTNUM registers trap", "SCXTNUM registers do not trap"),
    _flag(54, "TTLBIS", "inner shareable TLBI does not trap", "the guest's inner shareable TLBI traps to EL2"),
    _flag(55, "TTLBOS", "outer shareable TLBI does not trap", "the guest's outer shareable TLBI traps to EL2"),
    _flag(56, "ATA", "allocation tags are out of reach", "the guest may use allocation tags"),
    _flag(57, "DCT", "memory by DC is Untagged", "memory by DC is Tagged"),
    _flag(58, "TID5", "GMID_EL1 does not trap", "GMID_EL1 traps to EL2"),
    Field(63, 59, "TWEDEn, TWEDEL", "delay before a WFE traps"),
)  # fmt: skip

TCR_EL1 = (
    Field(5, 0, "T0SZ", "addresses by TTBR0 have 64 - T0SZ bits"),
    _reserved(6, 6),
    _flag(7, "EPD0", "TTBR0 is walked", "a TLB miss by TTBR0 faults without a walk"),
    Field(9, 8, "IRGN0", "inner cacheability of walks by TTBR0", _CACHE),
    Field(11, 10, "ORGN0", "outer cacheability of walks by TTBR0", _CACHE),
    Field(13, 12, "SH0", "shareability of walks by TTBR0", _SHARE),
    Field(15, 14, "TG0", "granule of TTBR0", _TG0),
    Field(21, 16, "T1SZ", "addresses by TTBR1 have 64 - T1SZ bits"),
    _flag(22, "A1", "the ASID is TTBR0's", "the ASID is TTBR1's"),
    _flag(23, "EPD1", "TTBR1 is walked", "a TLB miss by TTBR1 faults without a walk"),
    Field(25, 24, "IRGN1", "inner cacheability of walks by TTBR1", _CACHE),
    Field(27, 26, "ORGN1", "outer cacheability of walks by TTBR1", _CACHE),
    Field(29, 28, "SH1", "shareability of walks by TTBR1", _SHARE),
    Field(31, 30, "TG1", "granule of TTBR1", _TG1),
    Field(34, 32, "IPS", "width of output addresses", _PS),
    _reserved(35, 35),
    _flag(36, "AS", "ASIDs have 8 bits", "ASIDs have 16 bits"),
    _flag(37, "TBI0", "the top byte of TTBR0 addresses counts", "the top byte of TTBR0 addresses is ignored"),
    _flag(38, "TBI1", "the top byte of TTBR1 addresses counts", "the top byte of TTBR1 addresses is ignored"),
    _flag(39, "HA", *_HA),
    _flag(40, "HD", *_HD),
    _flag(41, "HPD0", "tables of TTBR0 restrict what is below", "APTable, PXNTable and UXNTable of TTBR0 are ignored"),
    _flag(42, "HPD1", "tables of TTBR1 restrict what is below", "APTable, PXNTable and UXNTable of TTBR1 are ignored"),
    *_hardware(43, "0"),
    *_hardware(47, "1"),
    _flag(51, "TBID0", "TBI0 holds for fetches too", "TBI0 holds for data only"),
    _flag(52, "TBID1", "TBI1 holds for fetches too", "TBI1 holds for data only"),
    _flag(53, "NFD0", "non-faulting user loads walk TTBR0", "non-faulting user loads do not walk TTBR0"),
    _flag(54, "NFD1", "non-faulting user loads walk TTBR1", "non-faulting user loads do not walk TTBR1"),
    _flag(55, "E0PD0", "EL0 may use TTBR0 addresses", "EL0 faults on TTBR0 addresses without a walk"),
    _flag(56, "E0PD1", "EL0 may use TTBR1 addresses", "EL0 faults on TTBR1 addresses without a walk"),
    _flag(57, "TCMA0", "tag 0 of TTBR0 addresses is checked", "tag 0 of TTBR0 addresses is not checked"),
    _flag(58, "TCMA1", "tag 15 of TTBR1 addresses is checked", "tag 15 of TTBR1 addresses is not checked"),
    _flag(59, "DS", "addresses have 48 bits with 4 and 16 KiB granules", "52-bit addresses with 4 and 16 KiB granules "
          "(LPA2); their descriptors have no SH"),
    _flag(60, "MTX0", "bits 59:56 of TTBR0 addresses are no tag only", "bits 59:56 of TTBR0 addresses are a tag"),
    _flag(61, "MTX1", "bits 59:56 of TTBR1 addresses are no tag only", "bits 59:56 of TTBR1 addresses are a tag"),
    _reserved(63, 62),
)  # fmt: skip

TCR_EL2 = (
    Field(5, 0, "T0SZ", "addresses have 64 - T0SZ bits"),
    _reserved(7, 6),
    Field(9, 8, "IRGN0", "inner cacheability of walks", _CACHE),
    Field(11, 10, "ORGN0", "outer cacheability of walks", _CACHE),
    Field(13, 12, "SH0", "shareability of walks", _SHARE),
    Field(15, 14, "TG0", "the granule", _TG0),
    Field(18, 16, "PS", "width of output addresses", _PS),
    _reserved(19, 19),
    _flag(20, "TBI", "the top byte of addresses counts", "the top byte of addresses is ignored"),
    _flag(21, "HA", *_HA),
    _flag(22, "HD", *_HD),
    _one(23),
    _flag(24, "HPD", "tables restrict what is below", "APTable and XNTable are ignored"),
    *_hardware(25),
    _flag(29, "TBID", "TBI holds for fetches too", "TBI holds for data only"),
    _flag(30, "TCMA", "tag 0 is checked", "accesses with tag 0 are not checked"),
    _one(31),
    _flag(32, "DS", "addresses have 48 bits with 4 and 16 KiB granules", "52-bit addresses with 4 and 16 KiB granules "
          "(LPA2); their descriptors have no SH"),
    _flag(33, "MTX", "bits 59:56 are no tag only", "bits 59:56 of addresses are a tag"),
    _reserved(63, 34),
)  # fmt: skip


def _translation(address: str, at: str) -> tuple[Field, ...]:
    """SCTLR's bits 2:0, and those further up that translation hangs on and that stand alike in all of them."""
    return (
        _flag(0, "M", f"stage 1 is off: {address}", "stage 1 is on"),
        _flag(1, "A", "unaligned accesses to Normal memory work", "unaligned accesses fault"),
        _flag(2, "C", "stage 1 makes Normal memory Non-cacheable for data", "stage 1's cacheability holds for data"),
        _flag(12, "I", "stage 1 makes Normal memory Non-cacheable for fetches", "stage 1's cacheability holds for "
              "fetches"),
        _flag(19, "WXN", "writable pages may be executable", "writable pages are never executable"),
        _flag(25, "EE", f"{at}'s data and stage-1 tables are little-endian", f"{at}'s data and stage-1 tables are "
              "big-endian"),
    )  # fmt: skip


def _sctlr_of_two(address: str, at: str) -> tuple[Field, ...]:
    """SCTLR of a regime with EL0: SCTLR_EL1, and SCTLR_EL2 with HCR_EL2.E2H 1."""
    described = (
        *_translation(address, at),
        Field(11, 3, "SA, SA0, CP15BEN, nAA, ITD, SED, UMA, EnRCTX, EOS", "stack alignment, AArch32 and barrier "
              "controls; no part of translation"),
        Field(18, 13, "EnDB, DZE, UCT, nTWI, RES0, nTWE", "pointer authentication and traps of EL0; no part "
              "of translation"),
        Field(22, 20, "TSCXT, IESB, EIS", "traps and synchronisation; no part of translation"),
        _flag(23, "SPAN", f"an exception to {at} sets PSTATE.PAN", f"an exception to {at} leaves PSTATE.PAN"),
        _flag(24, "E0E", "EL0's data is little-endian", "EL0's data is big-endian"),
        Field(56, 26, "UCI to EnALS", "instruction traps, pointer authentication, tags and transactions; no part of "
              "translation"),
        _flag(57, "EPAN", "PAN leaves out pages EL0 may only execute", "PAN also protects pages that EL0 may only "
              "execute"),
        Field(63, 58, "TCSO0 to TIDCP", "tags, thread registers and interrupt masks; no part of translation"),
    )  # fmt: skip
    return tuple(sorted(described, key=lambda field: field.low))


SCTLR_EL1 = _sctlr_of_two("GVA is IPA", "EL1")
SCTLR_EL2_VHE = _sctlr_of_two("HVA is HPA", "EL2")
SCTLR_EL2 = tuple(
    sorted(
        (
            *_translation("HVA is HPA", "EL2"),
            _flag(3, "SA", "the stack pointer may be unaligned", "an unaligned stack pointer faults"),
            _one(4),
            _one(5),
            _flag(6, "nAA", "unaligned atomic and ordered accesses fault", "those within 16 bytes work (FEAT_LSE2)"),
            _reserved(10, 7),
            _flag(11, "EOS", "an exception return is no synchronisation", "an exception return synchronises; one "
                  "without FEAT_ExS"),
            _flag(13, "EnDB", "key DB of pointer authentication is off", "key DB of pointer authentication is on"),
            _reserved(15, 14),
            _one(16),
            _reserved(17, 17),
            _one(18),
            _reserved(20, 20),
            _flag(21, "IESB", "no error synchronisation at exceptions", "exceptions synchronise errors (FEAT_IESB)"),
            _flag(22, "EIS", "an exception is no synchronisation", "an exception synchronises; one without FEAT_ExS"),
            _one(23),
            _reserved(24, 24),
            _reserved(26, 26),
            _flag(27, "EnDA", "key DA of pointer authentication is off", "key DA of pointer authentication is on"),
            _one(28),
            _one(29),
            Field(63, 30, "EnIB to NMI", "pointer authentication, branch targets, tags and interrupt masks; no part of "
                  "translation"),
        ),
        key=lambda field: field.low,
    )
)  # fmt: skip
"""With HCR_EL2.E2H 0."""

MAIR_EL1 = tuple(
    Field(8 * index + 7, 8 * index, f"Attr{index}", f"memory type of descriptors with AttrIndx {index}", {
        0x00: "Device-nGnRnE", 0x04: "Device-nGnRE", 0x08: "Device-nGRE", 0x0C: "Device-GRE",
        0x44: "Normal Non-cacheable", 0xBB: "Normal Write-Through, allocating", 0xFF: "Normal Write-Back, allocating",
        0xF0: "Normal Write-Back, Tagged"})
    for index in range(8)
)  # fmt: skip


PAR_EL1 = (
    _flag(0, "F", "the translation succeeded", "the translation failed: read this value as PAR_EL1_FAULT"),
    _reserved(6, 1),
    Field(8, 7, "SH", "shareability of the page", {0: "Non-shareable", 1: "reserved", 2: "Outer Shareable",
          3: "Inner Shareable"}),
    _flag(9, "NS", "the output address is Secure", "the output address is Non-secure"),
    Field(10, 10, "IMPLEMENTATION DEFINED", "implementation defined"),
    _flag(11, "NSE", "with NS, the physical address space (FEAT_RME)", "reserved, one, without FEAT_RME"),
    Field(51, 12, "PA", "bits 51:12 of the output address"),
    _reserved(55, 52),
    Field(63, 56, "ATTR", "memory type of the page, as in MAIR_EL1"),
)  # fmt: skip

PAR_EL1_FAULT = (
    _flag(0, "F", "the translation succeeded: read this value as PAR_EL1", "the translation failed"),
    Field(6, 1, "FST", "reserved fault status", FAULT_STATUS),
    _reserved(7, 7),
    _flag(8, "PTW", "the fault was in the address itself", "stage 2 refused a read of a stage-1 table"),
    _flag(9, "S", "stage 1 failed", "stage 2 failed"),
    _reserved(10, 10),
    _one(11),
    Field(15, 12, "TopLevel, AssuredOnly, Overlay, DirtyBit", "more about a permission fault (FEAT_THE, FEAT_S2POE)"),
    _reserved(47, 16),
    Field(63, 48, "IMPLEMENTATION DEFINED", "implementation defined"),
)

_ASID_BITS = {0: "ASIDs have 8 bits", 2: "ASIDs have 16 bits"}


def _granule(high: int, low: int, name: str, size: str, values: Mapping[int, str]) -> Field:
    return Field(high, low, name, f"reserved value for {size} granules", values)


def _stage_2_granule(size: str, wide: bool) -> dict[int, str]:
    found = {0: f"stage 2 supports {size} granules as stage 1 does", 1: f"stage 2 has no {size} granules",
             2: f"stage 2 supports {size} granules"}  # fmt: skip
    return found | ({3: f"stage 2 supports {size} granules with 52-bit addresses (LPA2)"} if wide else {})


ID_AA64MMFR0_EL1 = (
    Field(3, 0, "PARange", "reserved physical address size", {
        code: f"physical addresses of {bits} bits" for code, bits in enumerate((32, 36, 40, 42, 44, 48, 52, 56))}),
    Field(7, 4, "ASIDBits", "width of ASIDs", _ASID_BITS),
    Field(11, 8, "BigEnd", "mixed endianness", {0: "data endianness is fixed", 1: "data endianness can be chosen"}),
    Field(15, 12, "SNSMem", "Secure memory", {0: "Secure and Non-secure memory are not told apart",
          1: "Secure and Non-secure memory are told apart"}),
    Field(19, 16, "BigEndEL0", "mixed endianness at EL0", {0: "EL0's endianness is fixed or as BigEnd says",
          1: "EL0's endianness can be chosen"}),
    _granule(23, 20, "TGran16", "16 KiB", {0: "no 16 KiB granules", 1: "16 KiB granules",
             2: "16 KiB granules, also with 52-bit addresses (LPA2)"}),
    _granule(27, 24, "TGran64", "64 KiB", {0: "64 KiB granules", 15: "no 64 KiB granules"}),
    _granule(31, 28, "TGran4", "4 KiB", {0: "4 KiB granules", 1: "4 KiB granules, also with 52-bit addresses (LPA2)",
             15: "no 4 KiB granules"}),
    _granule(35, 32, "TGran16_2", "16 KiB", _stage_2_granule("16 KiB", True)),
    _granule(39, 36, "TGran64_2", "64 KiB", _stage_2_granule("64 KiB", False)),
    _granule(43, 40, "TGran4_2", "4 KiB", _stage_2_granule("4 KiB", True)),
    Field(47, 44, "ExS", "control of context synchronisation by exceptions (FEAT_ExS)"),
    _reserved(55, 48),
    Field(59, 56, "FGT", "fine-grained traps", {0: "no fine-grained traps", 1: "fine-grained traps",
          2: "fine-grained traps, second set"}),
    Field(63, 60, "ECV", "enhanced counter virtualisation"),
)  # fmt: skip

HPFAR_EL2 = (
    _reserved(3, 0),
    Field(43, 4, "FIPA", "bits 51:12 of the IPA that stage 2 refused"),
    _reserved(62, 44),
    _flag(63, "NS", "the IPA is Secure, or there is no Secure state here", "the IPA is Non-secure"),
)

FAR_EL2 = (Field(63, 0, "VA", "the virtual address that faulted"),)
