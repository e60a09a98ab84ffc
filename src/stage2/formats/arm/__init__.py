"""Arm: AArch64 stage 1 and stage 2 (Arm ARM DDI 0487, chapter D8)."""
