"""All theorems about a host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .declared import declared
from .devices import dma, tlb
from .rights import wx
from .separation import apart, owned
from .structure import wellformed
from .subject import Subject
from .theorem import Proof, Theorem
from .world import World

THEOREMS: tuple[Callable[[World], Theorem], ...] = (apart, owned, declared, wx, wellformed, tlb, dma)


def prove(subject: Subject) -> Proof:
    """Prove or refute every theorem, on the bytes of the tables as they are now.

    Args:
        subject: the host. Nothing of it may change meanwhile.
    """
    return prove_world(World.of(subject))


def prove_world(world: World) -> Proof:
    """The same of a subject whose tables are read already."""
    found = (theorem(world) for theorem in THEOREMS)
    return Proof(tuple(replace(one, assumed=(*world.subject.assumed, *one.assumed)) for one in found), world)
