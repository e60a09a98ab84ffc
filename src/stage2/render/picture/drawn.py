"""What things of the library show of themselves in notebooks: maps of memory, trees of tables, proofs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...prove.source import HostTables
from ...prove.subject import Space, Subject
from ...prove.theorem import Proof
from ...prove.world import World
from ...space.address_space import AddressSpace
from ...tables.pagetable import PageTable
from ..html import preformatted
from ..proof import render_proof
from .made import made_spaces, mapped_spaces
from .marks import witness_marks
from .svg import picture_svg
from .tree import tree
from .tree_svg import tree_svg

if TYPE_CHECKING:
    from ...vm.host import Host


def svg_of(thing: Host | AddressSpace | PageTable) -> str:
    """The picture of a host's VMs, of one address space, or of the tables of a page table, as they are now."""
    if isinstance(thing, PageTable):
        return _table_svg(thing)
    if isinstance(thing, AddressSpace):
        return _space_svg(thing)
    return picture_svg(*made_spaces(thing))


def html_of(proof: Proof) -> str:
    """Every theorem, and the picture of what was proved with what refutes it marked."""
    world = proof.world
    if world is None:
        return preformatted(str(proof))
    marks = witness_marks(proof, [vm.space.who for vm in world.vms])
    picture = picture_svg(*mapped_spaces(world), marks=marks)
    return preformatted(render_proof(proof, world.subject)) + picture


def _space_svg(space: AddressSpace) -> str:
    with space.lock:
        mine = Space(space.name, space.regime, space.memory_regions, tuple(space.page_table.table_ranges))
        world = World.of(Subject(HostTables(space.frames.memory), (mine,), owners=tuple(space.frames.owners)))
    return picture_svg(*mapped_spaces(world))


def _table_svg(table: PageTable) -> str:
    mine = Space("", table.regime, (), tuple(table.table_ranges))
    return tree_svg([tree(mine, HostTables(table.memory), "Page table")])
