"""`stage2 translate`: where addresses lead, one or millions of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ..errors import ConfigError
from .arguments import parse_address
from .memory import Base, Core, RegisterValues, Source, StageRoots, inspected, progress_bar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_CHUNK = 1 << 20
"""Addresses that are looked up at once."""


def translate(
    source: Source,
    /,
    *addresses: Annotated[str, Parameter(name="ADDRESS", show_default=False)],
    of: Literal["gva", "gpa"] | None = None,
    file: Annotated[Path | None, Parameter(name="--file")] = None,
    output: Path | None = None,
    root: StageRoots = None,
    register: RegisterValues = None,
    base: Base = None,
    core: Core = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Tell where addresses lead in a memory: through the guest's own tables, stage 2, or both.

    Addresses come from the command line, from a file, or from standard input where neither gives any. An address that
    does not translate is no error: its line says why.

    Parameters
    ----------
    addresses
        0x8000_0000 or 2147483648; digits with a letter among them are hexadecimal.
    of
        What the addresses are: gva goes through stage 1 (and the stage 2 below it), gpa through stage 2 alone. Without
        it gva where a stage 1 is known.
    file
        Addresses one a line, where `#` begins a comment; or a .npy file of numpy. `-` is standard input.
    output
        Write the HPAs as a .npy array of 64-bit numbers instead, 2^64-1 where there is none.
    json_output
        Print one JSON object a line.
    """
    from ..render.memory_json import json_line, translation_json
    from ..render.memory_map import translation_lines

    if output is not None and output.suffix != ".npy":
        raise ConfigError(f"--output {output}: write NAME.npy: it is an array of numpy")
    with inspected(source, root, register, base, core) as found:
        kind = of or found.kind
        route = found.route(kind)
        nested = bool(route.first) and route.second is not None
        kept: list[Any] = []
        with progress_bar(f"translating {kind.upper()}s") as progress:
            for chunk in _given(addresses, file):
                answers = found.translate_many(chunk, kind, progress)
                if output is not None:
                    kept.append(answers.hpa)
                elif json_output:
                    sys.stdout.writelines(json_line(translation_json(one)) + "\n" for one in answers)
                else:
                    sys.stdout.writelines(line + "\n" for line in translation_lines(answers, nested=nested))
        if output is not None:
            _write(output, kept)
    return 0


def _write(output: Path, parts: list[Any]) -> None:
    import io

    import numpy as np

    from ..whole_file import write_whole

    data = io.BytesIO()
    np.save(data, np.concatenate([np.zeros(0, np.uint64), *parts]))
    write_whole(output, data.getvalue())


def _given(addresses: tuple[str, ...], file: Path | None) -> Iterator[npt.NDArray[np.uint64]]:
    """The addresses, so many at a time."""
    import numpy as np

    if addresses:
        yield np.array([parse_address("ADDRESS", address) for address in addresses], np.uint64)
        if file is None:
            return
    if file is not None and file.suffix == ".npy":
        yield from _of_numpy(file)
        return
    if file is None and not addresses and sys.stdin.isatty():
        raise ConfigError("no address is given: name them, or a file of them with --file")
    if file is None or str(file) == "-":
        yield from _of_lines(sys.stdin, "standard input")
        return
    with file.open(encoding="utf-8", errors="replace") as lines:
        yield from _of_lines(lines, str(file))


def _of_numpy(file: Path) -> Iterator[npt.NDArray[np.uint64]]:
    import numpy as np

    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ConfigError(f"{file} is no array of numpy: {error}") from None
    if array.dtype.kind not in "ui" or (array.dtype.kind == "i" and array.size and int(array.min()) < 0):
        raise ConfigError(f"{file} holds {array.dtype}: addresses are unsigned numbers of up to 64 bits")
    flat = array.reshape(-1)
    for first in range(0, len(flat), _CHUNK):
        yield flat[first : first + _CHUNK].astype(np.uint64)


def _of_lines(lines: Iterable[str], name: str) -> Iterator[npt.NDArray[np.uint64]]:
    import numpy as np

    held: list[int] = []
    for number, line in enumerate(lines, 1):
        held += [parse_address(f"{name}:{number}:", word) for word in line.partition("#")[0].split()]
        if len(held) >= _CHUNK:
            yield np.array(held, np.uint64)
            held = []
    if held:
        yield np.array(held, np.uint64)
