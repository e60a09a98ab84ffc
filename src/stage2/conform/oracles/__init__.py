"""The oracles, one file a kind. `by_name` finds one; importing this imports none of them."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from ...errors import ConfigError
from ...machines.fetched import RECIPES, Recipe

if TYPE_CHECKING:
    from ..oracle import Oracle

_CLASSES = {
    "qemu-aarch64": ("qemu_aarch64", "QemuAArch64"),
    "qemu-riscv64": ("qemu_riscv64", "QemuRiscv64"),
    "qemu-x86-svm": ("qemu_x86_svm", "QemuX86Svm"),
    "bochs-ept": ("bochs_ept", "BochsEpt"),
}


def names() -> tuple[str, ...]:
    """The oracles that the machine's own emulators are."""
    return tuple(_CLASSES)


def all_names() -> tuple[str, ...]:
    """Every name of an oracle: of the machine's own emulators, and of each generation that can be fetched."""
    return (*names(), *(_named(kind, found) for found in RECIPES.values() for kind in _kinds(found.maker)))


def _kinds(maker: str) -> list[str]:
    return [kind for kind in _CLASSES if kind.startswith(maker)]


def _named(kind: str, recipe: Recipe) -> str:
    return kind.replace(recipe.maker, recipe.name, 1)


def usual() -> tuple[Oracle, ...]:
    """Who is asked when nobody is named: the machine's own emulators, and all other generations of them."""
    return tuple(oracle for oracle in map(by_name, all_names()) if oracle.name == oracle.kind or not oracle.is_own())


def by_name(name: str) -> Oracle:
    """The oracle called `name`.

    Raises:
        ConfigError: there is none; the text names the nearest.
    """
    if name not in all_names():
        near = difflib.get_close_matches(name, all_names(), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"no oracle is called {name!r}{hint}: there are {', '.join(all_names())}")
    recipe = next((found for found in RECIPES.values() if name.startswith(found.name + "-")), None)
    kind = name if recipe is None else name.replace(recipe.name, recipe.maker, 1)
    module, of = _CLASSES[kind]
    found: Oracle = getattr(import_module(f".{module}", __name__), of)(None if recipe is None else recipe.generation)
    return found
