"""Writing a folder of tables whole or not at all, and reading one back with nothing in it trusted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from ..address import ADDRESS_LIMIT, Gpa, Hpa, Range
from ..errors import Stage2Error, TableImageError
from ..flags import MappingFlags, MapType
from ..formats import by_name
from ..ranges import RangeMap
from ..space.region import MemoryRegion
from ..tables.regime import Regime
from .contents import MANIFEST, VERSION, VERSION_KEY

_MANIFEST_LIMIT = 64 << 20
_BYTES_LIMIT = 8 << 30


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make `folder` hold exactly these files. A folder of ours is replaced, anything else is refused.

    Args:
        folder: need not exist; its parent must.
        files: contents by path within the folder.

    Raises:
        TableImageError: the folder holds something else, or cannot be written; it is as it was.
    """
    folder = Path(folder)
    _require_ours(folder)
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name or 'tables'}-", dir=folder.resolve().parent))
    except OSError as error:
        raise TableImageError(f"{folder}: cannot be made: {error.strerror}") from None
    fresh, old = work / "new", work / "old"
    try:
        for name, data in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        try:
            if folder.exists():
                folder.rename(old)
            fresh.rename(folder)
        except BaseException:
            # An interrupt as well: what was there goes back.
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
    except OSError as error:
        raise TableImageError(f"{folder}: cannot be written: {error.strerror}") from None
    finally:
        # The old folder is never deleted before there is another one in its place.
        if folder.exists() or not old.exists():
            shutil.rmtree(work, ignore_errors=True)


def _require_ours(folder: Path) -> None:
    """Refuse to replace a folder that holds anything we did not write."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise TableImageError(f"{folder} is no folder: give one that does not exist yet")
    if not folder.exists():
        return
    known: set[str] = set()
    if (folder / MANIFEST).exists():
        known = {MANIFEST}
        for vm in _manifest(folder)["vms"]:
            if isinstance(vm, dict):
                known |= {str(vm.get("elf")), str(vm.get("header"))}
                known |= {str(piece.get("file")) for piece in _list(vm.get("segments")) if isinstance(piece, dict)}
        known |= {str(parent) for name in known for parent in PurePath(name).parents}
    # Lazily: somebody may name a folder with millions of files, and the first strange one is enough.
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if name not in known:
            hint = "give a folder that does not exist yet"
            raise TableImageError(f"{folder} holds files that are not ours ({name}): {hint}")


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


@dataclass(frozen=True, slots=True)
class LoadedTables:
    """The tables of one VM, read from a folder; a source of words for walks.

    Args:
        name, id: the VM.
        regime: its stage 2.
        regions: what it declared.
        pieces: first HPA and bytes of each piece.
    """

    name: str
    id: int
    regime: Regime
    regions: tuple[MemoryRegion, ...]
    pieces: RangeMap[tuple[int, bytes]]

    def contains(self, address: int, size: int = 1) -> bool:
        """Whether all `size` bytes from an HPA are in one piece."""
        found = self.pieces.find(address)
        return found is not None and address + size <= found[0].end

    def load_u64(self, hpa: Hpa) -> int:
        """The 64-bit word at an HPA that `contains` says is there."""
        found = self.pieces.find(hpa)
        if found is None:
            raise TableImageError(f"HPA {hpa:#x} is outside the tables of VM {self.name}")
        start, data = found[1]
        return int.from_bytes(data[hpa - start : hpa - start + 8], "little")

    def region_at(self, gpa: int) -> MemoryRegion | None:
        """The region declared at a GPA."""
        return next((region for region in self.regions if region.start <= gpa < region.end), None)


def read_folder(folder: Path) -> list[LoadedTables]:
    """Read what `write_folder` wrote.

    Raises:
        TableImageError: it is no such folder, or a file is missing, changed or contradicts the manifest.
    """
    vms = _manifest(folder)["vms"]
    found = []
    room = _Room(_BYTES_LIMIT)
    for number, vm in enumerate(vms):
        where = f"{folder / MANIFEST}: vms[{number}]"
        try:
            found.append(_load(folder, vm, room))
        except TableImageError:
            raise
        except Stage2Error as error:
            raise TableImageError(f"{where}: {error}") from None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise TableImageError(f"{where} is damaged: {what}") from None
    return found


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        with _regular(path) as file:
            text = file.read(_MANIFEST_LIMIT + 1)
        if len(text) > _MANIFEST_LIMIT:
            raise TableImageError(f"{path} is larger than any manifest")
        manifest = json.loads(text)
    except FileNotFoundError:
        raise TableImageError(f"{folder} has no {MANIFEST}: it is not what `stage2 build -o` writes") from None
    except OSError as error:
        raise TableImageError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise TableImageError(f"{path} is no JSON: {error}") from None
    if not isinstance(manifest, dict) or VERSION_KEY not in manifest:
        raise TableImageError(f"{path} is not a manifest of `stage2 build`")
    version = manifest[VERSION_KEY]
    if type(version) is not int or version != VERSION:
        raise TableImageError(f"{path} has version {version!r:.40}; this program reads {VERSION}")
    if not isinstance(manifest.get("vms"), list) or not manifest["vms"]:
        raise TableImageError(f"{path} lists no VM")
    return manifest


def _load(folder: Path, vm: dict[str, Any], room: _Room) -> LoadedTables:
    pieces: RangeMap[tuple[int, bytes]] = RangeMap()
    for piece in vm["segments"]:
        span = Range.sized(_number(piece["hpa"], "hpa"), _number(piece["size"], "size"))
        pieces.add(span, (span.start, _bytes(folder, str(piece["file"]), span.size, str(piece["sha256"]), room)))
    fmt = by_name(str(vm["format"]))
    if fmt.stage != 2:
        raise ValueError(f"{fmt.name} is a format of stage {fmt.stage}")
    regime = Regime.of(
        fmt,
        _number(vm["root"], "root"),
        controls=_number(vm["controls"], "controls"),
        identifier=_number(vm["vmid"], "vmid"),
    )
    loaded = LoadedTables(
        _name(vm["name"]), _number(vm["id"], "id"), regime, tuple(_region(part) for part in vm["regions"]), pieces
    )
    if not loaded.contains(regime.root, fmt.root_size):
        raise TableImageError(f"{folder / MANIFEST}: the root table {regime.root:#x} of VM {loaded.name} is in no file")
    return loaded


def _number(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < ADDRESS_LIMIT:
        raise ValueError(f"{name} {value!r} is no 64-bit number")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"name {value!r:.40} is no text that can be printed")
    return value


@dataclass(slots=True)
class _Room:
    """Bytes that the files may still have together: one file can be named any number of times."""

    left: int


def _regular(path: Path) -> BinaryIO:
    """Open a file that has an end: no FIFO waits for a writer, no device goes on forever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise TableImageError(f"{path} is no regular file")
    return os.fdopen(descriptor, "rb")


def _bytes(folder: Path, name: str, size: int, sha256: str, room: _Room) -> bytes:
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except RuntimeError:
        raise TableImageError(f"{path} is a symbolic link that leads to itself") from None
    if not inside:
        raise TableImageError(f"{folder / MANIFEST}: {name} leads out of the folder")
    room.left -= size
    if room.left < 0:
        raise TableImageError(f"{folder / MANIFEST}: with {name} of {size:#x} bytes, the tables would be too large")
    try:
        with _regular(path) as file:
            there = os.fstat(file.fileno()).st_size
            if there != size:
                raise TableImageError(f"{path} has {there:#x} bytes; the manifest says {size:#x}")
            data = file.read(size)
    except OSError as error:
        raise TableImageError(f"{path}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise TableImageError(f"{path} is not what was written: its SHA-256 differs from the manifest's")
    return data


def _region(part: dict[str, Any]) -> MemoryRegion:
    kind = MapType[part["type"]]
    spans = part["hpa"]
    hpa = Hpa(_number(spans[0][0], "hpa")) if kind.names_hpa and spans else None
    return MemoryRegion(
        Gpa(_number(part["start"], "start")), _number(part["size"], "size"),
        MappingFlags.from_bits(_number(part["flags"], "flags")), kind, hpa, _name(part["name"]),
    )  # fmt: skip
