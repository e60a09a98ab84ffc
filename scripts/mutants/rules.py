"""Which rules can be mutated, and which tests are to notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """Some folders of sources with their judges.

    Args:
        folders: whose modules are mutated.
        tests: what is run on each mutant.
        examples: of each property that does not say how many it wants.
        compiled: whether tests may run compiled kernels, because none of them is made of these sources.
    """

    folders: tuple[str, ...]
    tests: tuple[str, ...]
    examples: int
    compiled: bool


RULES = {
    "formats": Rules(
        ("src/stage2/formats/arm", "src/stage2/formats/riscv", "src/stage2/formats/x86"),
        ("tests/formats", "tests/processor"),
        examples=40,
        compiled=False,
    ),
    "prove": Rules(
        ("src/stage2/prove",), ("tests/prove", "tests/cli/test_prove_command.py"), examples=20, compiled=True
    ),
}
