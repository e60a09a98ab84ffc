"""A folder of `stage2 build` as the prover sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..address import Range
from ..errors import ConfigError
from ..flags import MapType
from ..prove.packing import U64Array
from ..prove.source import TableSource
from ..prove.subject import GivenDevice, Space, Subject
from ..tables.regime import Regime
from .folder import LoadedWords, holds_own, read_folder, read_own

_ASSUMED = (
    "the folder says which host memory tables lie in, and not who owns the rest",
    "the rules of the table formats, which `stage2 conform` judges against real and emulated hardware",
)


class FileTables:
    """The pieces of memory in a folder; each VM's and the hypervisor's are looked at one after the other.

    Args:
        parts: the pieces.
    """

    def __init__(self, parts: tuple[LoadedWords, ...]) -> None:
        self._parts = parts

    def contains(self, address: int, size: int = 1) -> bool:
        return any(part.contains(address, size) for part in self._parts)

    def word_at(self, hpa: int) -> int | None:
        return next((word for part in self._parts if (word := part.word_at(hpa)) is not None), None)

    def holds(self, addresses: U64Array, size: int) -> npt.NDArray[np.bool_]:
        return np.array([self.contains(int(at), size) for at in addresses.tolist()], bool)

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        for part in self._parts:
            found = part.pieces.find(hpa)
            if found is not None and hpa + size <= found[0].end:
                start, data = found[1]
                return data[hpa - start : hpa - start + size]
        return None

    def tables(self, addresses: U64Array, entries: int) -> U64Array:
        rows = [self.bytes_at(int(at), 8 * entries) or b"" for at in addresses.tolist()]
        return np.frombuffer(b"".join(rows), "<u8").astype(np.uint64).reshape(len(rows), entries)


def subject_of_folder(folder: Path) -> Subject:
    """What is proved of a folder.

    Raises:
        TableImageError: it is no such folder, or damaged.
    """
    loaded = read_folder(folder)
    own = read_own(folder) if holds_own(folder) else None
    spaces = tuple(Space(one.name, one.regime, one.regions, _spans(one), one.write_xor_execute) for one in loaded)
    mine = () if own is None else tuple(Space("", regime, (), _spans(own)) for regime in own.regimes)
    source = FileTables((*loaded, *(() if own is None else (own,))))
    devices = tuple(
        GivenDevice(one.name, region.label, None, region.host_range)
        for one in loaded
        for region in one.regions
        if region.map_type is MapType.MMIO
    )
    return Subject(source, spaces, mine, devices=devices, assumed=_ASSUMED)


def iommu_tables(folder: Path, vm: str) -> tuple[Regime, TableSource]:
    """The tables in a folder as an IOMMU walks them.

    Args:
        folder: of `stage2 build`.
        vm: the VM whose tables are taken where there are several.

    Raises:
        ConfigError: it has several, and none of that name.
        TableImageError: it is no such folder, or damaged.
    """
    loaded = read_folder(folder)
    found = [one for one in loaded if one.name == vm] or loaded
    if len(found) != 1:
        names = ", ".join(one.name for one in found) or "none"
        problem = f"has tables of several VMs ({names}), and none of {vm}: build one VM into it"
        raise ConfigError(problem, file=str(folder))
    return found[0].regime, FileTables((found[0],))


def _spans(words: LoadedWords) -> tuple[Range, ...]:
    return tuple(span for span, _ in words.pieces)
