"""Opening a source by what the user named: a file of any kind that is known, a folder, or a running machine."""

from __future__ import annotations

from pathlib import Path

from ..errors import SourceError
from ..vm.snapshots.file import MAGIC as SNAPSHOT
from . import elf_core, lime
from .file_bytes import FileBytes
from .packed_file import GZIP, MOST_UNPACKED, unpacked
from .raw import open_raw, read_raw
from .source import MemorySource

_LIVE = ("qmp:", "gdb:")
_RAW = "raw:"
_KDUMP = (
    "{} is a kdump-compressed dump, which is not read: have an ELF core written (QEMU's dump-guest-memory without -z, "
    "-l and -s, or makedumpfile -E where it is taken)"
)
_REFUSED = {
    b"KDUMP   ": _KDUMP,
    b"DISKDUMP": _KDUMP,
    b"makedumpfile\0": "{} is a dump in makedumpfile's flattened format, which is not read: put it in order first "
    "(makedumpfile -R CORE < FILE); QEMU's dump-guest-memory writes an ELF core that is read as it is",
    b"PAGEDU64": "{} is a crash dump of Windows, which is not read",
    b"PAGEDUMP": "{} is a crash dump of Windows, which is not read",
    b"QEVM": "{} is a machine that QEMU saved to migrate it, which is not read: dump its memory with dump-guest-memory",
    b"QFI\xfb": "{} is a disk image (qcow2), and no memory",
    b"\x28\xb5\x2f\xfd": "{} is packed with zstd: unpack it first (zstd -d)",
    b"\xfd7zXZ\0": "{} is packed with xz: unpack it first (xz -dk)",
    b"BZh": "{} is packed with bzip2: unpack it first (bzip2 -dk)",
    b"PK\3\4": "{} is a zip archive: unpack it first",
}  # fmt: skip
"""What a file begins with -> why it is not read."""
_HEAD = 64


def open_source(text: str, *, base: int | None = None, limit: int = MOST_UNPACKED) -> MemorySource:
    """The memory source that a text names.

    * `qmp:PATH`, `qmp:HOST:PORT`, `gdb:HOST:PORT`: a running QEMU.
    * `raw:FILE@ADDRESS[,FILE@ADDRESS]...`: raw images, each from an HPA on.
    * A folder of `stage2 build`.
    * A file: an ELF core, a LiME or AVML dump (which gzip may have packed), a snapshot of `stage2`; or, with `base`, a
      raw image. What it is, its first bytes say.

    Args:
        text: as the user wrote it.
        base: the HPA of the first byte of a raw image; what its first bytes say does not count then, but for gzip's.
        limit: bytes that may come out of a packed file.

    Raises:
        SourceError: there is no such thing, it is none that is read, or it is damaged.
        ConfigError: a running machine is named in a way that is none.
    """
    if text.startswith(_LIVE):
        from importlib import import_module

        opened: MemorySource = import_module("stage2.inspect.qemu.live").open_live(text)
        return opened
    if text.startswith(_RAW):
        return open_raw([_based(part, text) for part in text.removeprefix(_RAW).split(",")])
    try:
        is_folder = Path(text).is_dir()
    except (OSError, ValueError):
        is_folder = False
    if is_folder:
        from .vm_source import open_folder

        return open_folder(text)
    return read_file(FileBytes.open(text), base=base, limit=limit)


def read_file(file: FileBytes, *, base: int | None = None, limit: int = MOST_UNPACKED) -> MemorySource:
    """The source that a file's first bytes say it is.

    Args:
        file: it.
        base: the HPA of its first byte, if it is a raw image.
        limit: bytes that may come out of it, if it is packed.

    Raises:
        SourceError: it is none that is read, or it is damaged.
    """
    head = file.part(0, _HEAD)
    packed = head.startswith(GZIP)
    if packed:
        file = unpacked(file, limit)
        head = file.part(0, _HEAD)
        if head.startswith(GZIP):
            raise SourceError(f"{file.name} is packed twice: unpack it first (gzip -dk)")
    if base is not None:
        return read_raw(file, base)
    if head.startswith(elf_core.MAGIC):
        return elf_core.read_elf_core(file)
    if head.startswith((lime.LIME, lime.AVML)):
        return lime.read_lime(file)
    if head.startswith(SNAPSHOT.encode()):
        from .vm_source import open_snapshot

        if packed:
            raise SourceError(f"{file.name} is a snapshot that is packed: unpack it first (gzip -dk)")
        return open_snapshot(file.name)
    for magic, refusal in _REFUSED.items():
        if head.startswith(magic):
            raise SourceError(refusal.format(file.name))
    raise SourceError(
        f"{file.name} is no dump that is known by its first bytes (ELF core, LiME, AVML, a snapshot): give --base "
        "ADDRESS, if it is the bare bytes of memory from there on"
    )


def _based(part: str, text: str) -> tuple[str, int]:
    file, at, address = part.rpartition("@")
    try:
        base = int(address.replace("_", ""), 0) if at and file else None
    except ValueError:
        base = None
    if base is None:
        raise SourceError(f"{text}: write raw:FILE@ADDRESS[,FILE@ADDRESS]..., such as raw:ram.bin@0x8000_0000")
    return file, base
