"""The mailbox: one page of 64-bit words through which Python and a monitor talk, the same on every architecture.

The monitor is a small program that runs as the hypervisor of an emulated machine. It does one command at a time:

1. It writes EVENT, adds one to SEQUENCE, rings the doorbell (a byte towards Python), and sleeps until a byte comes.
2. Python reads the event, writes COMMAND and its arguments, sets ACKNOWLEDGE to SEQUENCE, and rings back.
3. The monitor, awake, checks ACKNOWLEDGE (a stray byte changes nothing), does the command, and goes on at 1.

A monitor that only probes sleeps: a vCPU that waits uses no CPU time. One that runs guests (`board`) watches
ACKNOWLEDGE instead, for an exit is answered in less time than it takes to wake. Words of a command that it does not use
are ignored.

| word | offset | who writes | what |
|---|---|---|---|
| MAGIC | 0x00 | monitor | `MAGIC_VALUE`: it is up, and speaks this protocol |
| SEQUENCE | 0x08 | monitor | number of the event |
| ACKNOWLEDGE | 0x10 | Python | the event's number, once the command stands |
| EVENT | 0x18 | monitor | `Event` |
| COMMAND | 0x20 | Python | `Command` |
| LIST | 0x28 | Python | physical address of the command's list |
| COUNT | 0x30 | Python | its entries |
| RESULTS | 0x38 | Python | physical address of where its results go |
| FLAGS | 0x40 | Python | bits of the command |
| KICK | 0x48 | Python | not 0: the guest is to stop soon, whatever it does (where the machine can) |
| SEND | 0x50 | Python | RUN: cores that are to stop at once, a bit each; the monitor clears it |
| WAITED | 0x58 | monitor | after ACKNOWLEDGE: ticks of the core's counter since it rang |
| INFO | 0x80-0xff | monitor | after a failure: what it saw, in the architecture's order; after start: features |
| REGISTERS | 0x100-0x2ff | Python | for LOAD: values in the machine's order, 64 at most |
| GUEST | 0x300-0x5ff | both | for RUN: the guest's registers in the machine's order |

PROBE lists hold 32 bytes an entry: address, value, kind (access in bits 1:0, bit 2 unprivileged, bit 3 TRANSLATE, bit
4 EXECUTABLE), reserved. Results are 64 bytes an entry: outcome (0 made, otherwise as the machine says), value, and
six words of syndrome in the machine's order. INVALIDATE lists hold 16 bytes an entry: number of the operation in the
machine's order, operand.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

MAGIC_VALUE = 0x5354_4147_4532_0001
"""\"STAGE2\" and the version of the protocol."""

MAGIC, SEQUENCE, ACKNOWLEDGE, EVENT, COMMAND, LIST, COUNT, RESULTS, FLAGS, KICK, SEND, WAITED = (
    8 * word for word in range(12)
)
INFO, REGISTERS, GUEST = 0x80, 0x100, 0x300
SIZE = 0x1000


class Event(IntEnum):
    """Why the monitor rang."""

    READY = 0
    """The command is done (or the monitor has just started)."""
    EXIT = 1
    """RUN: the guest stopped; GUEST and INFO say where and why."""
    FAILED = 2
    """The monitor itself met an exception; INFO says which."""


class Command(IntEnum):
    """What Python asks for."""

    NOTHING = 0
    LOAD = 1
    """Load REGISTERS, and drop all cached translations unless bit 0 of FLAGS is set."""
    PROBE = 2
    """Do COUNT probes of LIST, one after the other."""
    INVALIDATE = 3
    """Do COUNT operations of LIST, with the barriers that belong to them."""
    RUN = 4
    """Do COUNT operations of LIST, then let the guest run until it exits."""
    START = 5
    """Start the core whose number FLAGS is: it rings its own doorbell."""
    PARK = 6
    """The guest is done for now: ring, and sleep until there is another command."""
    SAVE = 7
    """Put into GUEST what an exit leaves in the core: its floating point registers and its time."""
    RESTORE = 8
    """Put that back into the core, and drop all translations."""
    RENEW = 9
    """Forget the code that was translated from COUNT pages of LIST: they were written behind the machine's back."""
    WATCH = 10
    """Make cores exit whose KICK is set, for ever: for a core without a guest, where a machine needs one for that."""


PROBE_ENTRY = np.dtype([("address", np.uint64), ("value", np.uint64), ("kind", np.uint64), ("reserved", np.uint64)])
RESULT_ENTRY = np.dtype([("outcome", np.uint64), ("value", np.uint64), ("syndrome", np.uint64, (6,))])
OPERATION_ENTRY = np.dtype([("number", np.uint64), ("operand", np.uint64)])
UNPRIVILEGED, TRANSLATE, EXECUTABLE = 1 << 2, 1 << 3, 1 << 4
"""Bits of a probe's kind above the access; EXECUTABLE is of RISC-V's loads: an HLVX."""
