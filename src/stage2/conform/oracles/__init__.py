"""The judges, one file each. `by_name` finds one; importing this imports none of them."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from ...errors import ConfigError

if TYPE_CHECKING:
    from ..oracle import Oracle

_MODULES = {
    "qemu-aarch64": "qemu_aarch64",
    "qemu-riscv64": "qemu_riscv64",
    "qemu-x86-svm": "qemu_x86_svm",
    "bochs-ept": "bochs_ept",
}


def names() -> tuple[str, ...]:
    """The oracles there are."""
    return tuple(_MODULES)


def by_name(name: str) -> Oracle:
    """The oracle called `name`.

    Raises:
        ConfigError: there is none; the text names the nearest.
    """
    if name not in _MODULES:
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"no oracle is called {name!r}{hint}: there are {', '.join(names())}")
    found: Oracle = import_module(f".{_MODULES[name]}", __name__).ORACLE
    return found
