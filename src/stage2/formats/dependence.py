"""Which parts of a processor an answer hangs on: what described processors would make of the same entry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..errors import EncodingError, Stage2Error
from ..processor import Processor, named
from .family import family_of
from .record import Format


def controls_on(fmt: Format, processor: Processor | None, switches: Iterable[str] = ()) -> int:
    """The control bits of a regime on a processor, with some of the format's switches on.

    Args:
        fmt: the format.
        processor: None for no particular one.
        switches: names of `Format.switches`.

    Raises:
        EncodingError: the processor does not have such tables, or lacks what a switch asks for.
    """
    wanted = tuple(switches)
    if processor is None:
        return fmt.controls_with(*wanted)
    family = family_of(fmt)
    found = fmt.controls_with(*wanted, base=family.controls(fmt, processor))
    family.require(fmt, processor, found)
    return found


def deciding_parts(
    fmt: Format, entry: int, level: int, processor: Processor | None = None, switches: Iterable[str] = ()
) -> tuple[str, ...]:
    """The parts of a processor on which it hangs what an entry says, as far as described processors differ in them.

    Args:
        fmt: the format.
        entry: the raw 64 bits.
        level: 0 for the smallest page.
        processor: on which it was read; None for the family's `max`.
        switches: names of `Format.switches` that were on.

    Returns:
        In words for the processor that was taken: `52-bit physical addresses`, `nx`, `no nx`.
    """
    wanted = tuple(switches)
    described = named(family_of(fmt).arch)
    base = processor or described["max"]
    try:
        told = fmt.decode(entry, level, controls_on(fmt, processor, wanted))
    except EncodingError:
        return ()
    found: dict[str, None] = {}
    for other in described.values():
        for changed, words in _steps(base, other):
            try:
                differs = fmt.decode(entry, level, controls_on(fmt, changed, wanted)) != told
            except Stage2Error:
                continue
            if differs:
                found[words] = None
    return tuple(found)


def _steps(base: Processor, other: Processor) -> Iterable[tuple[Processor, str]]:
    """The processor with one part as another has it, and what is so on the processor itself."""
    for name, value in other.numbers.items():
        if value != base.numbers[name]:
            own = base.numbers[name]
            words = f"{own}-bit physical addresses" if name == "pa" else f"{name}={own}"
            yield replace(base, numbers={**base.numbers, name: value}), words
    for name in sorted(other.features ^ base.features):
        words = name if name in base.features else f"no {name}"
        yield replace(base, features=base.features ^ {name}), words
    if other.vendor != base.vendor:
        words = f"another vendor than {other.vendor}" if base.vendor == "any" else f"the vendor {base.vendor}"
        yield replace(base, vendor=other.vendor), words
