"""Arm's Generic Interrupt Controller, emulated: for a guest that does not own the board's.

`gic` holds what both architectures have in common, `v3` and `v2` their registers.
"""
