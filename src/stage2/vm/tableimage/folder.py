"""Writing a folder of tables whole or not at all, and reading one back with nothing in it trusted."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...address import ADDRESS_LIMIT, Gpa, Hpa, Range
from ...errors import Stage2Error, TableImageError
from ...flags import MappingFlags, MapType
from ...formats import by_name
from ...ranges import RangeMap
from ...space.region import MemoryRegion
from ...tables.regime import Regime
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
    try:
        fresh, old = work / "new", work / "old"
        for name, data in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        replaced = folder.exists()
        if replaced:
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            if replaced:
                old.rename(folder)
            raise
    except OSError as error:
        raise TableImageError(f"{folder}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _require_ours(folder: Path) -> None:
    """Refuse to replace a folder that holds anything we did not write."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise TableImageError(f"{folder} is no folder: give one that does not exist yet")
    if not folder.exists():
        return
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    if not there:
        return
    hint = "give a folder that does not exist yet"
    if MANIFEST not in there:
        raise TableImageError(f"{folder} holds files that are not ours ({min(there)}): {hint}")
    known = {MANIFEST}
    for vm in _manifest(folder)["vms"]:
        if isinstance(vm, dict):
            known |= {str(vm.get("elf")), str(vm.get("header"))}
            known |= {str(piece.get("file")) for piece in _list(vm.get("segments")) if isinstance(piece, dict)}
    strange = sorted(there - known)
    if strange:
        raise TableImageError(f"{folder} holds files that are not ours ({strange[0]}): {hint}")


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
    for number, vm in enumerate(vms):
        where = f"{folder / MANIFEST}: vms[{number}]"
        try:
            found.append(_load(folder, vm))
        except TableImageError:
            raise
        except Stage2Error as error:
            raise TableImageError(f"{where}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise TableImageError(f"{where} is damaged: {what}") from None
    return found


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _MANIFEST_LIMIT:
            raise TableImageError(f"{path} is larger than any manifest")
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise TableImageError(f"{folder} has no {MANIFEST}: it is not what `stage2 build -o` writes") from None
    except OSError as error:
        raise TableImageError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise TableImageError(f"{path} is no JSON: {error}") from None
    if not isinstance(manifest, dict) or VERSION_KEY not in manifest:
        raise TableImageError(f"{path} is not a manifest of `stage2 build`")
    if manifest[VERSION_KEY] != VERSION:
        raise TableImageError(f"{path} has version {manifest[VERSION_KEY]!r}; this program reads {VERSION}")
    if not isinstance(manifest.get("vms"), list) or not manifest["vms"]:
        raise TableImageError(f"{path} lists no VM")
    return manifest


def _load(folder: Path, vm: dict[str, Any]) -> LoadedTables:
    pieces: RangeMap[tuple[int, bytes]] = RangeMap()
    for piece in vm["segments"]:
        span = Range.sized(_number(piece["hpa"], "hpa"), _number(piece["size"], "size"))
        pieces.add(span, (span.start, _bytes(folder, str(piece["file"]), span.size, str(piece["sha256"]))))
    fmt = by_name(str(vm["format"]))
    regime = Regime.of(
        fmt,
        _number(vm["root"], "root"),
        controls=_number(vm["controls"], "controls"),
        identifier=_number(vm["vmid"], "vmid"),
    )
    loaded = LoadedTables(
        str(vm["name"]), _number(vm["id"], "id"), regime, tuple(_region(part) for part in vm["regions"]), pieces
    )
    if not loaded.contains(regime.root, fmt.root_size):
        raise TableImageError(f"{folder / MANIFEST}: the root table {regime.root:#x} of VM {loaded.name} is in no file")
    return loaded


def _number(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < ADDRESS_LIMIT:
        raise ValueError(f"{name} {value!r} is no 64-bit number")
    return value


def _bytes(folder: Path, name: str, size: int, sha256: str) -> bytes:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise TableImageError(f"{folder / MANIFEST}: {name} leads out of the folder")
    if size > _BYTES_LIMIT:
        raise TableImageError(f"{folder / MANIFEST}: {name} would have {size:#x} bytes")
    try:
        if path.stat().st_size != size:
            raise TableImageError(f"{path} has {path.stat().st_size:#x} bytes; the manifest says {size:#x}")
        data = path.read_bytes()
    except OSError as error:
        raise TableImageError(f"{path}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise TableImageError(f"{path} is not what was written: its SHA-256 differs from the manifest's")
    return data


def _region(part: dict[str, Any]) -> MemoryRegion:
    kind = MapType[part["type"]]
    spans = part["hpa"]
    hpa = Hpa(_number(spans[0][0], "hpa")) if kind in (MapType.MMIO, MapType.SHARE) and spans else None
    return MemoryRegion(
        Gpa(_number(part["start"], "start")), _number(part["size"], "size"),
        MappingFlags.from_bits(_number(part["flags"], "flags")), kind, hpa, str(part["name"]),
    )  # fmt: skip
