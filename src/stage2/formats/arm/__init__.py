"""Arm: AArch64 stage 1 and stage 2 (Arm ARM DDI 0487, chapter D8)."""

NAMES = dict.fromkeys((
    "arm-s1-4k-39", "arm-s1-4k-48", "arm-s1-4k-48-high", "arm-s1-4k-52-lpa2", "arm-s1-16k-47", "arm-s1-64k-48",
    "arm-s2-4k-40", "arm-s2-4k-40-4level", "arm-s2-4k-44", "arm-s2-4k-48", "arm-s2-4k-52-lpa2",
    "arm-s2-16k-40", "arm-s2-16k-48", "arm-s2-64k-40", "arm-s2-64k-52",
), "formats")  # fmt: skip
"""Format -> the module of this folder that holds it: the formats that lists and tests go through."""
MADE_BY_NAME = "arm-"
"""Names that begin so are made by `formats.by_name`: every combination that the architecture allows."""
