"""Writing a folder of tables whole or not at all, and reading one back with nothing in it trusted."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from ..address import ADDRESS_LIMIT, Gpa, Hpa, Range
from ..errors import Stage2Error, TableImageError
from ..flags import MappingFlags, MapType
from ..formats import by_name
from ..ranges import RangeMap
from ..space.region import MemoryRegion
from ..tables.regime import Regime
from . import own
from .contents import MANIFEST, VERSION, VERSION_KEY

if TYPE_CHECKING:
    from ..hypervisor.plan import Piece

_MANIFEST_LIMIT = 64 << 20
_BYTES_LIMIT = 8 << 30
_LOOP = "{} is a symbolic link that leads to itself"


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
        manifest = _manifest(folder)
        hypervisor = manifest.get(own.KEY)
        halves = _list(hypervisor.get("halves")) if isinstance(hypervisor, dict) else []
        for part in (*manifest["vms"], *halves):
            if isinstance(part, dict):
                known |= {str(part.get("elf")), str(part.get("header"))}
                known |= {str(piece.get("file")) for piece in _list(part.get("segments")) if isinstance(piece, dict)}
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
class LoadedWords:
    """The bytes of tables, read from a folder; a source of words for walks.

    Args:
        pieces: first HPA and bytes of each piece.
    """

    pieces: RangeMap[tuple[int, bytes]]

    def contains(self, address: int, size: int = 1) -> bool:
        """Whether all `size` bytes from an HPA are in one piece."""
        found = self.pieces.find(address)
        return found is not None and address + size <= found[0].end

    def word_at(self, hpa: int) -> int | None:
        """The 64-bit word at an HPA; None where it is not in one piece."""
        found = self.pieces.find(hpa)
        if found is None or hpa + 8 > found[0].end:
            return None
        start, data = found[1]
        return int.from_bytes(data[hpa - start : hpa - start + 8], "little")


@dataclass(frozen=True, slots=True)
class LoadedTables(LoadedWords):
    """The tables of one VM.

    Args:
        name, id: the VM.
        regime: its stage 2.
        regions: what it declared.
        write_xor_execute: its file forbids memory that is writable and executable.
    """

    name: str
    id: int
    regime: Regime
    regions: tuple[MemoryRegion, ...]
    write_xor_execute: bool = False

    def region_at(self, gpa: int) -> MemoryRegion | None:
        """The region declared at a GPA."""
        return next((region for region in self.regions if region.start <= gpa < region.end), None)


@dataclass(frozen=True, slots=True)
class LoadedOwn(LoadedWords):
    """The hypervisor's own tables.

    Args:
        regimes: of each root, low addresses first.
        plan: what is mapped where.
        guard: HVAs of the boot stack's guard page.
    """

    regimes: tuple[Regime, ...]
    plan: tuple[Piece, ...]
    guard: Range | None

    def piece_at(self, hva: int) -> Piece | None:
        """What the plan says of an HVA."""
        return next((piece for piece in self.plan if piece.span.contains(hva)), None)


def read_folder(folder: Path) -> list[LoadedTables]:
    """Read what `write_folder` wrote.

    Raises:
        TableImageError: it is no such folder, or a file is missing, changed or contradicts the manifest.
    """
    room = _Room(_BYTES_LIMIT)
    return [
        _sound(f"{folder / MANIFEST}: vms[{number}]", partial(_load, folder, vm, room))
        for number, vm in enumerate(_manifest(folder)["vms"])
    ]


def holds_own(folder: Path) -> bool:
    """Whether what `write_folder` wrote has tables of the hypervisor's own.

    Raises:
        TableImageError: it is no such folder.
    """
    return _manifest(folder).get(own.KEY) is not None


def read_own(folder: Path) -> LoadedOwn:
    """Read the hypervisor's own tables from what `write_folder` wrote.

    Raises:
        TableImageError: it is no such folder, has none, or a file is missing, changed or contradicts the manifest.
    """
    found = _manifest(folder).get(own.KEY)
    if found is None:
        raise TableImageError(
            f"{folder} holds no tables of the hypervisor's own: `stage2 build --platform FILE` writes them for a "
            "platform that says where its kernel is"
        )
    return _sound(f"{folder / MANIFEST}: {own.KEY}", partial(_load_own, folder, found, _Room(_BYTES_LIMIT)))


_T = TypeVar("_T")


def _sound(where: str, load: Callable[[], _T]) -> _T:
    """What is loaded from a part of a manifest in which anything may be wrong."""
    try:
        return load()
    except TableImageError:
        raise
    except Stage2Error as error:
        raise TableImageError(f"{where}: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise TableImageError(f"{where} is damaged: {what}") from None


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
    if not isinstance(manifest.get("vms"), list) or not (manifest["vms"] or own.KEY in manifest):
        raise TableImageError(f"{path} lists no VM")
    return manifest


def _load(folder: Path, vm: dict[str, Any], room: _Room) -> LoadedTables:
    pieces: RangeMap[tuple[int, bytes]] = RangeMap()
    name = _name(vm["name"])
    regime = _tables(folder, vm, pieces, room, stage=2, identifier=_number(vm["vmid"], "vmid"), whose=f"VM {name}")
    regions = tuple(_region(part) for part in vm["regions"])
    policy = vm.get("write_xor_execute", False)  # folders of versions before have no such key
    if not isinstance(policy, bool):
        raise ValueError(f"write_xor_execute {policy!r} is neither true nor false")
    return LoadedTables(pieces, name, _number(vm["id"], "id"), regime, regions, policy)


def _load_own(folder: Path, part: dict[str, Any], room: _Room) -> LoadedOwn:
    pieces: RangeMap[tuple[int, bytes]] = RangeMap()
    if not part["halves"]:
        raise ValueError("it has no tables")
    regimes = [_tables(folder, half, pieces, room, stage=1, whose="the hypervisor") for half in part["halves"]]
    guard = part["guard"]
    span = None if guard is None else Range(_number(guard[0], "guard"), _number(guard[1], "guard"))
    return LoadedOwn(pieces, tuple(regimes), tuple(_piece(piece) for piece in part["pieces"]), span)


def _tables(
    folder: Path,
    part: dict[str, Any],
    pieces: RangeMap[tuple[int, bytes]],
    room: _Room,
    *,
    stage: int,
    whose: str,
    identifier: int = 0,
) -> Regime:
    """Add the bytes that a part of the manifest names to `pieces`; returns what hardware runs them with."""
    for piece in part["segments"]:
        span = Range.sized(_number(piece["hpa"], "hpa"), _number(piece["size"], "size"))
        pieces.add(span, (span.start, _bytes(folder, str(piece["file"]), span.size, str(piece["sha256"]), room)))
    fmt = by_name(str(part["format"]))
    if fmt.stage != stage:
        raise ValueError(f"{fmt.name} is a format of stage {fmt.stage}")
    controls, root = _number(part["controls"], "controls"), _number(part["root"], "root")
    regime = Regime.of(fmt, root, controls=controls, identifier=identifier)
    if not LoadedWords(pieces).contains(root, fmt.root_size):
        raise TableImageError(f"{folder / MANIFEST}: the root table {root:#x} of {whose} is in no file")
    return regime


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
    except RuntimeError:  # until Python 3.12; later ones say so when the file is opened
        raise TableImageError(_LOOP.format(path)) from None
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
        text = _LOOP.format(path) if error.errno == errno.ELOOP else f"{path}: {error.strerror}"
        raise TableImageError(text) from None
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


def _piece(part: dict[str, Any]) -> Piece:
    from ..hypervisor.plan import Piece

    return Piece(
        Range.sized(_number(part["hva"], "hva"), _number(part["size"], "size")), _number(part["hpa"], "hpa"),
        MappingFlags.from_bits(_number(part["flags"], "flags")), _name(part["name"]),
    )  # fmt: skip
