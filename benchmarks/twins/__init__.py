"""The plain C twin of a table format, compiled when it is needed, and memory for its tables.

It stands for the compiled peers, the table crates of Rust hypervisors, which cannot be built from a package index: page
by page from the root. `twin.c` says what it leaves out.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stage2.address import SIZE_2M, SIZE_4K
from stage2.tables.pagetable import PageTable
from stage2.user_cache import user_cache

SOURCE = Path(__file__).with_name("twin.c")
MACROS = {"ept4": "EPT", "arm-s2-4k-40": "ARM", "sv39x4": "SV39"}
"""Formats that have a twin."""
_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
READ_WRITE_EXECUTE = {"ept4": 7, "arm-s2-4k-40": 3, "sv39x4": 7}
"""What a leaf allows, as the twin's macros have it: read and write on Arm, whose execution is a bit that forbids."""
READ = 1
U64Array = npt.NDArray[np.uint64]


def compiler() -> str | None:
    """The C compiler; None where there is none."""
    return shutil.which(os.environ.get("CC", "gcc"))


@cache
def library(fmt: str) -> Any:
    """The twin of a format as a library.

    Raises:
        FileNotFoundError: there is no compiler.
        subprocess.CalledProcessError: it refused the source.
    """
    gcc = compiler()
    if gcc is None:
        raise FileNotFoundError("gcc is needed for the C twins: see packages.txt")
    digest = hashlib.sha256(SOURCE.read_bytes() + MACROS[fmt].encode()).hexdigest()[:16]
    built = user_cache("twins") / f"{fmt}-{digest}.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        made = built.with_suffix(f".{os.getpid()}")
        subprocess.run([gcc, *_FLAGS, f"-D{MACROS[fmt]}", "-o", made, SOURCE], check=True, timeout=120)
        made.replace(built)
    found: Any = ctypes.CDLL(str(built))
    edits = ("map_pages", "unmap_pages", "protect_pages", "fault_pages")
    for name in (*edits, "list_leaves", "translate_one", "chase", "gather"):
        getattr(found, name).restype = ctypes.c_uint64
    for name in ("translate_many", "translate_two_stage"):
        getattr(found, name).restype = None
    return found


class Memory:
    """Zeroed memory in huge pages of the host, as the project's own tables have it; addresses in it are its HVAs."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size + SIZE_2M, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._map.madvise(mmap.MADV_HUGEPAGE)
        self._anchor = ctypes.c_char.from_buffer(self._map)
        begin = -(-ctypes.addressof(self._anchor) // SIZE_2M) * SIZE_2M
        self.pool = (ctypes.c_uint64 * 2)(begin, begin + size)
        """(next, end), as the twin takes it."""
        self._begin = begin

    def take(self, size: int) -> int:
        """The first address of the next `size` bytes."""
        at = self.pool[0]
        self.pool[0] += size
        return int(at)

    def reset(self, to: int) -> None:
        """Take everything from an address on back, zeroed."""
        ctypes.memset(to, 0, self.pool[0] - to)
        self.pool[0] = to

    def close(self) -> None:
        del self._anchor
        self._map.close()


class Twin:
    """A table of the twin's own.

    Args:
        fmt: its format, of `MACROS`.
        size: bytes for its tables.
    """

    def __init__(self, fmt: str, size: int = 64 << 20) -> None:
        self.format, self._library = fmt, library(fmt)
        self.memory = Memory(size)
        self.memory.take(-self.memory.pool[0] % (4 * SIZE_4K))
        self.root = self.memory.take(4 * SIZE_4K)
        self.empty = self.memory.pool[0]
        self.allows = READ_WRITE_EXECUTE[fmt]

    def _u64(self, *numbers: int) -> list[ctypes.c_uint64]:
        return [ctypes.c_uint64(number) for number in numbers]

    def map(self, start: int, to: int, count: int, level: int = 0) -> int:
        """Map `count` leaves of a level; how many were."""
        delta, root, start_, to_, count_, allows = self._u64(0, self.root, start, to, count, self.allows)
        return int(
            self._library.map_pages(delta, root, ctypes.byref(self.memory.pool), start_, to_, count_, level, allows)
        )

    def unmap(self, start: int, size: int) -> int:
        """Unmap a range, tables kept; how many leaves were."""
        return int(self._library.unmap_pages(*self._u64(0, self.root, start, size)))

    def protect(self, start: int, size: int, allows: int) -> int:
        """Rewrite the leaves of a range."""
        return int(self._library.protect_pages(*self._u64(0, self.root, start, size, allows)))

    def fault(self, addresses: U64Array, frames: Any) -> int:
        """Give every absent page a frame; how many were."""
        delta, root, count, allows = self._u64(0, self.root, len(addresses), self.allows)
        pool, given = ctypes.byref(self.memory.pool), ctypes.byref(frames)
        at = ctypes.c_void_p(addresses.ctypes.data)
        return int(self._library.fault_pages(delta, root, pool, given, at, count, allows))

    def forget(self) -> None:
        """An empty table again."""
        ctypes.memset(self.root, 0, 4 * SIZE_4K)
        self.memory.reset(self.empty)

    def close(self) -> None:
        self.memory.close()


class OnOurs:
    """The twin's reading functions on a table of ours.

    Args:
        table: of a format in `MACROS`.
    """

    def __init__(self, table: PageTable) -> None:
        self._library, memory = library(table.format.name), table.memory
        self._where = (ctypes.c_uint64(memory.hva - memory.base), ctypes.c_uint64(table.root))

    def list_leaves(self, rows: U64Array, *, merge: bool) -> int:
        """All leaves into rows of four numbers; how many rows."""
        return int(self._library.list_leaves(*self._where, ctypes.c_uint64(merge), ctypes.c_void_p(rows.ctypes.data)))

    def translate_one(self, address: int) -> int:
        """One address; all ones where nothing is mapped."""
        return int(self._library.translate_one(*self._where, ctypes.c_uint64(address)))

    def translate_many(
        self, addresses: U64Array, hpa: U64Array, attributes: npt.NDArray[np.uint32], status: npt.NDArray[np.uint8]
    ) -> None:
        """Translate an array, a full result each."""
        count = ctypes.c_uint64(len(addresses))
        arrays = [ctypes.c_void_p(array.ctypes.data) for array in (hpa, attributes, status)]
        self._library.translate_many(*self._where, ctypes.c_void_p(addresses.ctypes.data), count, *arrays)

    def translate_two_stage(self, root: int, addresses: U64Array, results: tuple[npt.NDArray[Any], ...]) -> None:
        """Translate an array of GVAs for reads; results are HPA, GPA, what is allowed (u8) and a status (u32)."""
        delta, root_2 = self._where
        arrays = [ctypes.c_void_p(array.ctypes.data) for array in results]
        numbers = ctypes.c_uint64(len(addresses)), ctypes.c_uint64(READ)
        at = ctypes.c_void_p(addresses.ctypes.data)
        self._library.translate_two_stage(delta, ctypes.c_uint64(root), root_2, at, *numbers, *arrays)
