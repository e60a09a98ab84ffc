"""Device trees in files: compiled (dtb), or as source (dts), which `dtc` compiles for us."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..address import Range
from ..config.regular_file import read_regular
from ..errors import ConfigError, HostToolError, ImageError
from .apt import run
from .fdt import MAX_SIZE, Node, is_source, parse
from .fdt_walk import reservations

_LIMIT_S = 10.0
"""Limit: seconds that dtc may take, on a machine that has much else to do."""
_CPU_S = 1
_MEMORY = 1 << 30
"""Limits: CPU seconds of dtc, bytes of its memory and of what it writes: a source may include what it likes."""
_INCLUDE = re.compile(rb"^\s*#\s*(include|define|if|ifdef|ifndef)\s", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A device tree that was read.

    Args:
        file: as the user named it.
        root: its root node.
        reserved: its memory reservation block.
        source: it was compiled from source; then its labels are known, as properties of `/__symbols__`.
    """

    file: str
    root: Node
    reserved: tuple[Range, ...]
    source: bool = False


def read_tree(path: str | os.PathLike[str]) -> TreeFile:
    """Read a device tree, compiled or source.

    Raises:
        ConfigError: the file cannot be read.
        ImageError: it is no device tree, or a damaged one.
        HostToolError: it is source, and dtc is missing or refuses it.
    """
    file = os.fspath(path)
    blob = read_regular(file, MAX_SIZE, "device tree")
    source = is_source(blob)
    if source:
        blob = _compiled(file, blob)
    try:
        return TreeFile(file, parse(blob), reservations(blob), source)
    except ImageError as error:
        raise ImageError(error.problem, file=file) from None


def _compiled(file: str, text: bytes) -> bytes:
    """What dtc makes of a source."""
    if shutil.which("dtc") is None:
        raise HostToolError(
            f"{file} is device tree source, which dtc compiles, and this host has none: install the Debian package "
            "device-tree-compiler, or give the compiled tree (.dtb)"
        )
    if _INCLUDE.search(text):
        raise ImageError(
            "is device tree source with lines for the C preprocessor (#include, #define), which dtc does not read: "
            "run `cpp -nostdinc -undef -x assembler-with-cpp -I INCLUDES` over it first, or give the compiled tree",
            file=file,
        )
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "tree.dtb")
        command = ["dtc", "-q", "-@", "-I", "dts", "-O", "dtb", "-o", str(output), os.path.abspath(file)]
        if shutil.which("prlimit") is not None:
            command = ["prlimit", f"--cpu={_CPU_S}", f"--as={_MEMORY}", f"--fsize={_MEMORY}", "--", *command]
        run(command, _LIMIT_S, f"{file}: compiling it with dtc", why=_refusal)
        try:
            return read_regular(str(output), MAX_SIZE, "device tree")
        except ConfigError:
            raise ImageError(
                f"is compiled to more than {MAX_SIZE >> 20} MiB, which no device tree has", file=file
            ) from None


def _refusal(text: str) -> str:
    """The line of dtc's output that says what is wrong, with file, line and column as dtc tells them."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "rror" in line), lines[-1] if lines else "")
