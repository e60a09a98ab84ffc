"""The words that the compiled callbacks and Python share, one block per vCPU.

The callbacks get the block's address as their user data, so nothing about a process is baked into compiled code
and it can be cached.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum, auto

from ...formats.u64 import MASK_64


class Word(IntEnum):
    """Index of each word of the block."""

    # --- host physical memory, as `tables.compiled.host_memory` gives it
    HOST_DELTA = 0
    HOST_START = auto()
    HOST_END = auto()
    HOST_FURTHER = auto()
    HOST_COUNT = auto()
    HOST_BASE = auto()
    """HPA at which the engine's physical address 0 lies."""
    # --- stage 2
    ROOT = auto()
    LEVELS = auto()
    ROOT_BITS = auto()
    CONTROLS = auto()
    # --- the CPU
    ENV = auto()
    CPU = auto()
    UC = auto()
    # --- functions of the library
    FLUSH_TLB = auto()
    FORGET_CODE = auto()
    DELIVER = auto()
    STOP_RUN = auto()
    RAISE = auto()
    """x86: leaves a callback for the taking of an exception."""
    # --- code and data of a host page are never both in the TLBs of a VM
    PAGE_STATE = auto()
    """Address of a byte for each host page: PAGE_EXECUTED, PAGE_WRITTEN or 0."""
    PEERS = auto()
    """Address of (uc, cpu) pairs of all vCPUs of the VM."""
    PEER_COUNT = auto()
    # --- why a run ended, or a fill was refused
    REASON = auto()
    STATUS = auto()
    """Status of the refused translation, see `tables.walk`."""
    ADDRESS = auto()
    """Page of the refused GVA."""
    GPA = auto()
    """The GPA that stage 2 refused."""
    ACCESS = auto()
    TABLE_LEVEL = auto()
    """Stage-1 level at which a refused walk was, counted from the smallest page."""
    USER = auto()
    """1 when the refused access had a user's rights."""
    NUMBER = auto()
    """The exception number that ended a run."""
    DELIVERING = auto()
    """x86: 1 while an exception or interrupt is being taken."""
    VECTOR = auto()
    """x86: 1 and the vector of an exception to be taken before the next instruction; 0 for none."""
    ERROR_CODE = auto()
    # --- time
    CLOCK_AT = auto()
    """Address of the machine's clock word."""
    SLICE_END = auto()
    """Clock value from which on the guest is left at the next block: a timer is due, it is another vCPU's turn, or (0)
    somebody wants it to stop. All ones for never."""
    # --- counters
    FILLS = auto()
    TRAPS = auto()
    FLIPS = auto()
    """Host pages that changed between executed and written."""


class Reason(IntEnum):
    """Why a run ended, or a fill was refused."""

    NOTHING = 0
    """The guest waits for an interrupt, or the fill was not refused after all."""
    FAULT = 1
    """A fill was refused; STATUS says by which stage."""
    HYPERCALL = 2
    SLICE = 3
    """Its time is over, or somebody wants it to stop."""
    EXCEPTION = 4
    """The library ended the run without a word."""
    DEVICE = 5
    """Stage 2 leads to an HPA where there is no memory: a passed-through device, which is not here."""
    TRAP = 6
    """Arm: an exception to EL2 or EL3 that is no call. x86: a second one while the first was being taken."""
    GRANULE = 7
    """Arm: the guest's tables have another granule than the compiled walker."""
    MODE = 8
    """The guest is in a mode that the walker is not for (Arm: AArch32; x86: paging outside long mode)."""


PAGE_EXECUTED, PAGE_WRITTEN = 1, 2
TICK_SHIFT = 7
"""Bytes of executed code to ticks of the time CSR: a tick is 128 bytes of code, so that a second of the
guest is about a second here."""
NEVER = MASK_64


class State:
    """The block itself."""

    def __init__(self) -> None:
        self.words = (ctypes.c_uint64 * len(Word))()
        """The words by number, for those who ask often."""
        self.address = ctypes.addressof(self.words)

    def __getitem__(self, word: Word) -> int:
        return self.words[word]

    def __setitem__(self, word: Word, value: int) -> None:
        self.words[word] = value
