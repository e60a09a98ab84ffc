"""What is counted in tables while roots are searched for."""

from __future__ import annotations

from enum import IntEnum, auto


class Column(IntEnum):
    """What is counted in tables and in all that they lead to."""

    TABLES = 0
    PRESENT = auto()
    """Entries that hardware takes for something."""
    WRONG = auto()
    """Entries with reserved bits, or too wide."""
    LOST = auto()
    """Entries that point to what is no table."""
    POINTERS = auto()
    UNUSED = auto()
    """Pointers without the accessed flag, in formats that have one there."""
    LEAVES = auto()
    BYTES = auto()
    INSIDE = auto()
    """Leaves that lead into the memory, or between two parts of it that are less than 1 GiB apart."""
    CLOSED = auto()
    """Leaves that nobody may read or execute."""
    WRITABLE = auto()
    USER = auto()
    FETCHABLE = auto()
    """Leaves that do not forbid privileged fetches, whatever else does."""
    EXECUTABLE = auto()
    UNSHARED = auto()
    """Leaves into the memory that are for one CPU alone."""
    UNCACHED = auto()
    """Leaves into the memory that say it is not cached."""
    UNCACHED_SWITCHED = auto()
    """The same, with the reading's switch of memory types turned on."""
    TO_TABLES = auto()
    """Leaves that lead to tables: a level may be missing."""
    PAIRS = auto()
    """Leaves beside each other."""
    EVEN = auto()
    """Of those, leaves that go on where the one before ended."""
    REMAINS = auto()
    """Words that mean nothing to hardware, and are no repeated filler."""
