"""What processors have: data that each family of formats maps to its controls.

`parse("cortex-a72,pa=40", "aarch64")` gives one; `named("aarch64")` all that are described.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from ..errors import ConfigError
from . import arm, riscv, x86
from .record import Feature, Number, Parts, Processor

__all__ = ["Feature", "Number", "Parts", "Processor", "architectures", "named", "parse"]

_MODULES = {module.PARTS.arch: module for module in (arm, riscv, x86)}
HOST = "host"
"""The processor of this machine."""


def architectures() -> tuple[str, ...]:
    """The architectures that have processors described."""
    return tuple(_MODULES)


def named(arch: str) -> Mapping[str, Processor]:
    """The processors of an architecture that have a name; `max` has everything.

    Raises:
        ConfigError: no processor of the architecture is described.
    """
    if arch not in _MODULES:
        raise ConfigError(f"no processor of {arch} is described: there are those of {', '.join(_MODULES)}")
    return {processor.name: processor for processor in _MODULES[arch].PROCESSORS}


def parse(text: str, arch: str) -> Processor:
    """A processor as the command line and files name it.

    Args:
        text: a name, `host`, or either with changes: `cortex-a72,pa=40,+lpa2`.
        arch: the architecture that it must be of.

    Raises:
        ConfigError: there is none of that name, it is of another architecture, or a change means nothing for it.
    """
    name, comma, changes = text.strip().partition(",")
    known = named(arch)
    if name == HOST:
        from .host import host_processor

        found = host_processor(arch)
    elif name in known:
        found = known[name]
    else:
        for other in _MODULES:
            if name in named(other):
                raise ConfigError(f"{name} is a processor of {other}, and one of {arch} is wanted: {', '.join(known)}")
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"{name}: no such processor{hint}: {arch} has {', '.join(known)}; `--cpu list` tells of each")
    return found.changed(changes) if comma else found
