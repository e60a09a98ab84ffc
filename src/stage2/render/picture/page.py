"""A memory map as one HTML file: the picture, its ranges as tables, and scripts that answer addresses with their walk.

Without scripts it is the picture with its tables. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ... import __version__
from ...processor import Processor
from ...prove.theorem import Proof, Seat
from ...prove.world import World
from ...space.region import MemoryRegion
from ..page_frame import framed, page_text, part
from ..plain import about, counted
from ..proof import WORDS, theorem_rows
from .page_data import MOST_OWNERS, NO_ADDRESS, left_out, page_data, page_tables
from .page_tables import Shapes
from .parties import Kind, Party, Space

MOST_LISTED = 64
"""Limit: ranges of host memory that a row of a table names."""
_CLASSES = {True: "note", False: "error", None: "quiet"}


@dataclass(frozen=True, slots=True)
class Map:
    """What a page is of.

    Args:
        command: the command that makes it.
        picture: of `picture_svg`.
        vms, host: what is drawn there.
        regions: what each VM declares.
        world: the tables; None where only declarations are known.
        processors: what the tables of each VM are for.
        proof: what was proved on them; None where nobody asked.
    """

    command: str
    picture: str
    vms: Sequence[Space]
    host: Sequence[Party]
    regions: Sequence[Sequence[MemoryRegion]]
    world: World | None = None
    processors: Sequence[Processor | None] = ()
    proof: Proof | None = None


def map_page(shown: Map) -> str:
    """The whole file, as text without surrogates."""
    shapes = Shapes()
    tables = [] if shown.world is None else page_tables(shown.world, shown.processors, shapes)
    missing = left_out((vm.title for vm in shown.vms), tables)
    if shown.world is not None and shown.world.owners is not None and len(shown.world.owners) > MOST_OWNERS:
        missing.append(f"Of {len(shown.world.owners):,} ranges with an owner, those behind the first {MOST_OWNERS:,}.")
    data = page_data(shown.vms, shown.host, shown.regions, shown.world, tables, shapes)
    title = f"Memory of {counted(len(shown.vms), 'VM')} beside the host's"
    source = "as its tables have it" if tables else "as its files declare it"
    body = [
        '<a class="skip" href="#ranges">Skip the picture</a>',
        f"<header>\n<h1>{page_text(title)}</h1>\n<p>What each VM has, {source}.</p>\n</header>",
        "<main>",
        *_proof(shown.proof, [vm.space.who for vm in shown.world.vms] if shown.world is not None else []),
        _ask(shown.vms, tables=bool(tables)),
        _filter(shown.vms, shown.host),
        _picture(shown.picture),
        *(f'<p class="quiet">{page_text(one)}</p>' for one in missing),
        '<h2 id="ranges" tabindex="-1">Ranges</h2>',
        *(_ranges(number, vm) for number, vm in enumerate(shown.vms)),
        _host(shown.host),
        "</main>",
        f'<footer class="quiet"><p>Made by stage2 {page_text(__version__)}, <code>stage2 {shown.command}</code>.</p>'
        "</footer>",
        f'<script type="application/json" id="data">{data}</script>',
    ]
    style = part("page", "css", __package__)
    script = part("page_walk", "js", __package__) + part("page", "js", __package__)
    return framed(f"{title}. stage2 {shown.command}", style, script, "\n".join(body))


def _ask(vms: Sequence[Space], *, tables: bool) -> str:
    """The question for an address, hidden until the script can answer it."""
    spaces = "".join(f'<option value="{number}">GPA of {page_text(vm.title)}</option>' for number, vm in enumerate(vms))
    wanted = "its walk" if tables else "what is declared there"
    return (
        '<form id="ask" hidden role="search" aria-label="Look up an address">\n'
        f'<div class="field"><label for="space">Space</label><select id="space" name="space">{spaces}'
        '<option value="host">HPA</option></select></div>\n'
        f'<div class="field wide"><label for="address">Address, for {wanted}</label>'
        '<input type="text" id="address" name="address" spellcheck="false" autocomplete="off" '
        'placeholder="0x80000000"></div>\n<button type="submit">Look up</button>\n</form>\n'
        '<p id="said" role="status" aria-live="polite"></p>\n'
        '<section id="answer" hidden aria-label="Answer"></section>'
    )


def _filter(vms: Sequence[Space], host: Sequence[Party]) -> str:
    """Checkboxes for VMs and kinds, hidden until the script makes them work."""
    found = {party.kind for vm in vms for party in vm.parties} | {party.kind for party in host}
    kinds = "".join(
        f'<label><input type="checkbox" name="kind" value="{kind.name.lower()}" checked> {kind.value}</label>'
        for kind in Kind
        if kind in found
    )
    boxes = "".join(
        f'<label><input type="checkbox" name="vm" value="{number}" checked> {page_text(vm.title)}</label>'
        for number, vm in enumerate(vms)
    )
    return (
        '<form id="filter" hidden aria-label="What is shown">\n'
        f"<fieldset><legend>VMs</legend>{boxes}</fieldset>\n<fieldset><legend>Kinds</legend>{kinds}</fieldset>\n"
        '<button type="reset">Show all</button>\n</form>'
    )


def _picture(picture: str) -> str:
    return (
        '<div id="view" hidden class="view" role="group" aria-label="Size of the picture">\n'
        '<button type="button" data-zoom="in">Larger</button> <button type="button" data-zoom="out">Smaller</button> '
        '<button type="button" data-zoom="fit">Whole width</button> '
        '<button type="button" data-zoom="one">Full size</button> <output id="zoom" class="quiet"></output>\n</div>\n'
        '<div id="picture" class="scroll picture" tabindex="0" role="group" aria-label="Picture: arrow keys move it, '
        f'+ and - change its size, 0 shows its whole width">\n{picture}</div>'
    )


def _ranges(number: int, vm: Space) -> str:
    """All ranges of a VM as a table."""
    rows = [
        f'<tr data-vm="{number}" data-kind="{party.kind.name.lower()}"><th scope="row">{page_text(party.name)}</th>'
        f"<td>{party.kind.value}</td>{_cells(party, number)}<td>{_rights(party)}</td>"
        f"<td>{_behind(party)}</td></tr>"
        for party in sorted(vm.parties, key=lambda one: one.span.start)
    ]
    heads = ("name", "kind", "GPA from", "to (first behind)", "size", "declared rights", "host memory")
    return _table(page_text(vm.title), f"{counted(len(rows), 'range')} of {page_text(vm.title)}", heads, rows)


def _host(host: Sequence[Party]) -> str:
    """The host's own ranges as a table."""
    rows = [
        f'<tr data-kind="{party.kind.name.lower()}"><th scope="row">{page_text(party.name)}</th>'
        f"<td>{party.kind.value}</td>{_cells(party, 'host')}</tr>"
        for party in sorted(host, key=lambda one: one.span.start)
    ]
    if not rows:
        return "<h3>Host</h3>\n<p>Nothing but the VMs' memory is known.</p>"
    heads = ("name", "kind", "HPA from", "to (first behind)", "size")
    return _table("Host", "Host memory that is no VM's", heads, rows)


def _table(title: str, caption: str, heads: Iterable[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "\n".join(rows)
    return (
        f'<h3>{title}</h3>\n<div class="scroll" tabindex="0" role="group" aria-label="{caption}">\n<table>\n'
        f"<caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _cells(party: Party, space: int | str) -> str:
    span = party.span
    return (
        f'<td class="address" data-space="{space}" data-ask="{span.start:#x}">{span.start:#x}</td>'
        f'<td class="address">{span.end:#x}</td><td>{about(span.size)}</td>'
    )


def _rights(party: Party) -> str:
    return "" if party.flags is None else party.flags.short


def _behind(party: Party) -> str:
    """The host memory of a range, as much of it as can be listed."""
    if not party.behind:
        return NO_ADDRESS
    said = [
        page_text(link.chosen)
        if link.hpa is None
        else f'<span class="address" data-space="host" data-ask="{link.hpa.start:#x}">{link.hpa.start:#x}</span>'
        for link in party.behind[:MOST_LISTED]
    ]
    more = len(party.behind) - len(said)
    return ", ".join(said) + (f" and {counted(more, 'more range')}" if more else "")


def _proof(proof: Proof | None, names: Sequence[str]) -> Iterator[str]:
    """What was proved: every theorem, and the witness against it."""
    if proof is None:
        return
    yield f'<h2>Theorems</h2>\n<p class="{_CLASSES[proof.proved]}"><strong>{page_text(str(proof))}</strong></p>'
    yield f'<details{"" if proof.proved else " open"}><summary>What each says</summary>\n<ul class="theorems">'
    for theorem in proof.theorems:
        facts = "".join(f"<dt>{page_text(word)}</dt><dd>{page_text(says)}</dd>" for word, says in theorem_rows(theorem))
        witness = theorem.witness
        seats = [] if witness is None else [one for one in (witness.seat, witness.other) if one is not None]
        asked = "".join(_seat(seat, names) for seat in seats)
        said = f"{theorem.name} {WORDS[theorem.holds]}"
        yield (
            f'<li><strong class="{_CLASSES[theorem.holds]}">{said}</strong>: '
            f"{page_text(theorem.statement)}<dl>{facts}</dl>{asked}</li>"
        )
    yield "</ul>\n</details>"


def _seat(seat: Seat, names: Sequence[str]) -> str:
    """An address of a witness, which the script makes a question."""
    if seat.who not in names:
        return ""
    number = names.index(seat.who)
    return (
        f'<p>Walk of {page_text(seat.who)}: <span class="address" data-space="{number}" data-ask="{seat.address:#x}">'
        f"{seat.address:#x}</span></p>"
    )
