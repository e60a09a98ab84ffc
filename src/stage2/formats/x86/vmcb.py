"""Where the VMCB has what selects nested tables (AMD APM Vol. 2, appendix B "VMCB Layout", table B-1)."""

from __future__ import annotations

NESTED_CONTROL_AT = 0x90
NP_ENABLE = 1 << 0
N_CR3_AT = 0xB0
ALIGNMENT = 0x1000
"""A VMCB is a page (APM 15.5.1)."""
