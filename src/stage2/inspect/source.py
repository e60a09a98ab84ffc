"""A memory source: host physical memory that is only looked at, whoever made it.

A source says where it has memory, reads bytes, and tells the registers that it knows. Whatever is not there is a hole,
which is not the same as zeros. Every source is a `TableSource` and a `WordSource` too, so that walks, scans and proofs
run on it as on a host's memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from ..address import Range
from ..errors import OutOfRangeError
from ..prove.lookup import within
from ..prove.packing import U64Array
from ..tables.regime import Regime


@dataclass(frozen=True, slots=True)
class Cpu:
    """The registers of one CPU, as far as its source knows them.

    Args:
        number: of the CPU.
        values: by the manual's names: `CR3`, `TTBR1_EL1`, `hgatp`; the program counter is `pc`.
    """

    number: int
    values: Mapping[str, int] = field(default_factory=dict)


class MemorySource(ABC):
    """Host physical memory that is only looked at. A context manager; `close` gives back what it holds.

    Args:
        name: how messages call it: the file as the user named it, or what it is connected to.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    # --- what a source says ------------------------------------------------------------------------------

    @abstractmethod
    def ranges(self) -> tuple[Range, ...]:
        """Where there is memory: in order, touching ones joined."""

    @abstractmethod
    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        """The bytes from an HPA on; None where they are not all there.

        Raises:
            SourceError: it can no longer be read.
        """

    def registers(self) -> tuple[Cpu, ...]:
        """The CPUs whose registers the source knows; none, if it holds memory alone."""
        return ()

    def filled_ranges(self) -> tuple[Range, ...]:
        """Where there may be anything but zeros, within `ranges`: a sparse file tells, and who scans skips the rest."""
        return self.ranges()

    def known_roots(self) -> tuple[tuple[str, Regime], ...]:
        """The regimes that it knows for certain, each with whose it is; what registers say is not among them."""
        return ()

    @property
    def notices(self) -> tuple[str, ...]:
        """What of it is missing or was left out, a sentence each."""
        return ()

    @property
    def arch(self) -> str | None:
        """The machine's architecture as files name it ("aarch64", "riscv64", "x86_64"); None where nothing says."""
        return None

    def close(self) -> None:
        """Give back what it holds; again is harmless. Nothing may be asked of it afterwards."""
        return

    # --- what follows from that --------------------------------------------------------------------------

    def read(self, hpa: int, size: int) -> bytes:
        """The bytes from an HPA on.

        Raises:
            OutOfRangeError: they are not all there: a hole begins somewhere in them.
            SourceError: it can no longer be read.
        """
        found = self.bytes_at(hpa, size)
        if found is None:
            raise OutOfRangeError(f"{self.name}: {size} bytes at HPA {hpa:#x} are not all there")
        return found

    @cached_property
    def _ends(self) -> tuple[list[int], list[int]]:
        spans = self.ranges()
        return [span.start for span in spans], [span.end for span in spans]

    def contains(self, address: int, size: int = 1) -> bool:
        """Whether all `size` bytes from an HPA are there."""
        starts, ends = self._ends
        index = bisect_right(starts, address) - 1
        return index >= 0 and size >= 0 and address + size <= ends[index]

    def word_at(self, hpa: int) -> int | None:
        """The 64-bit word at an HPA, a multiple of 8; None where it is not there."""
        found = self.bytes_at(hpa, 8)
        return None if found is None else int.from_bytes(found, "little")

    def holds(self, addresses: U64Array, size: int) -> npt.NDArray[np.bool_]:
        """`contains` for many addresses."""
        return within(addresses, np.full_like(addresses, size), self.ranges()) >= 0

    def tables(self, addresses: U64Array, entries: int) -> U64Array:
        """Tables of so many 64-bit entries each, a row each; all are there.

        Raises:
            SourceError: it can no longer be read.
        """
        rows = [self.read(int(at), 8 * entries) for at in addresses.tolist()]
        return np.frombuffer(b"".join(rows), "<u8").astype(np.uint64).reshape(len(rows), entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        spans = self.ranges()
        size = sum(span.size for span in spans)
        return f"{type(self).__name__}({self.name}, {size >> 20} MiB in {len(spans)} pieces)"
