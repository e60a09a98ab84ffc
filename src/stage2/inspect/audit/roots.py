"""The roots that an audit looks at: those that are named, or all that registers, the source and a search tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import ConfigError
from ..inspection import LIKELY, Inspection
from ..root import Root, parse_root

_BELOW = "/"


@dataclass(frozen=True, slots=True)
class Chosen:
    """What an audit looks at.

    Args:
        roots: in order of importance.
        guessed: those that were found by looking for them.
        notices: what the search has to say, a sentence each.
    """

    roots: tuple[Root, ...]
    guessed: frozenset[Root] = frozenset()
    notices: tuple[str, ...] = ()


def named_roots(texts: Sequence[str]) -> tuple[Root, ...]:
    """The roots of `--root`, of any number of VMs.

    Args:
        texts: `FORMAT@ADDRESS[,control=value]...` each; a stage 1 whose addresses go through a stage 2 has that behind
            it: `sv39@0x8020_1000/sv39x4@0x9000_0000`. Without it, it leads to host memory.

    Raises:
        ConfigError: one is not written so, or its stages do not fit together.
    """
    found: list[Root] = []
    for text in texts:
        above, below, under = text.partition(_BELOW)
        first = parse_root(above)
        if not below:
            found.append(Root(first, where="--root"))
            continue
        second = parse_root(under)
        if (first.format.stage, second.format.stage) != (1, 2) or first.format.family != second.format.family:
            raise ConfigError(f"--root {text}: write a stage 1, {_BELOW} and the stage 2 of the same architecture")
        lower = Root(second, where="--root")
        found += [lower, Root(first, where="--root", under=lower)]
    return tuple(dict.fromkeys(found))


def known_roots(inspection: Inspection) -> Chosen:
    """All roots that registers and the source tell, and those that a search finds beside them.

    Registers name what a CPU translates by at one moment: a VM that is not running then is found by the search alone.

    Raises:
        SourceError: the source can no longer be read.
    """
    known = list(inspection.roots)
    found = inspection.find(registers=False)
    met = {_shape(root) for root in known}
    guessed = [one.root for one in found.roots if one.score >= LIKELY and _shape(one.root) not in met]
    return Chosen((*known, *guessed), frozenset(guessed), tuple(found.notices))


def _shape(root: Root) -> tuple[int, int, bool, int]:
    """What two names of one root have in common, whatever is known of its controls and its width."""
    fmt = root.regime.format
    return root.regime.root, fmt.stage, fmt.high_half, 0 if root.under is None else root.under.regime.root
