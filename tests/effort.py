"""How hard the random tests try, and from which seed. `conftest` sets both; CI and `make test` always do the same."""

from __future__ import annotations

from stage2.formats import Format

SEED = 0
"""What `--seed` says. Hypothesis begins from it, and so does `seeded`."""
FACTOR = 1
"""How many times as many examples, and edits, as usual; more than 1 in `make soak`."""

COMPILED = frozenset({
    "sv39", "sv39x4", "x86-4level", "ept4", "arm-s1-4k-48", "arm-s2-4k-40"
})  # fmt: skip
"""Formats whose kernels run compiled however little there is to do: one of each stage of each architecture.
Compiling the nearly five hundred kernels of all formats takes more than all else that the tests do; a soak does."""


def compiles(fmt: Format) -> bool:
    """Whether kernels of a format are compiled at once."""
    return FACTOR > 1 or fmt.name in COMPILED


def examples(usual: int) -> int:
    """How many examples a test of state machines runs that is too slow for the profile's number."""
    return usual * FACTOR


def seeded(number: int) -> int | list[int]:
    """The seed of a numpy generator: `number` itself as long as nobody asks for other seeds.

    Args:
        number: the test's own, so that tests do not all draw the same.
    """
    return [SEED, number] if SEED else number
