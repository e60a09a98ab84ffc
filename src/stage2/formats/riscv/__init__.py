"""RISC-V: Sv39, Sv48 and Sv57 for stage 1, Sv39x4, Sv48x4 and Sv57x4 for stage 2, and Bare.

The RISC-V Instruction Set Manual, Volume II: Privileged Architecture; chapters "Supervisor-Level ISA" and
"Hypervisor" Extension.
"""

NAMES = dict.fromkeys(("sv39", "sv48", "sv57", "sv39x4", "sv48x4", "sv57x4"), "formats")
"""Format -> the module of this folder that holds it. Read without importing any of them."""
