"""How hard the random tests try, and from which seed. `conftest` sets both; CI and `make test` always do the same."""

from __future__ import annotations

SEED = 0
"""What `--seed` says. Hypothesis begins from it, and so does `seeded`."""
FACTOR = 1
"""How many times as many examples, and edits, as usual; more than 1 in `make soak`."""


def examples(usual: int) -> int:
    """How many examples a test of state machines runs that is too slow for the profile's number."""
    return usual * FACTOR


def seeded(number: int) -> int | list[int]:
    """The seed of a numpy generator: `number` itself as long as nobody asks for other seeds.

    Args:
        number: the test's own, so that tests do not all draw the same.
    """
    return [SEED, number] if SEED else number
