"""A proof, or what refutes it, as text and JSON."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from ..prove.subject import Subject
from ..prove.theorem import Proof, Seat, Theorem, Witness
from ..tables.explain import explain_stage
from .plain import about
from .tables import facts, indented, stack, text
from .walk import WalkView
from .walk_json import walk_json

_MOST_REASONS = 3
"""Limit: findings that are told of one theorem; JSON has all."""
WORDS = {True: "holds", False: "does not hold", None: "does not apply"}
"""What is said of a theorem, by whether it holds."""
_STYLES = {True: "bold green", False: "bold red", None: "dim"}


def render_proof(proof: Proof, subject: Subject) -> RenderableType:
    """Every theorem with what was covered; refuted ones with their witness and its walk."""
    parts: list[RenderableType] = []
    for theorem in proof.theorems:
        line = Text(overflow="fold")
        line.append(f"{theorem.name} {WORDS[theorem.holds]}", style=_STYLES[theorem.holds])
        parts.append(line.append(": ").append(text(theorem.statement)))
        rows = theorem_rows(theorem)
        if rows:
            parts.append(indented(facts(rows)))
    assumed = dict.fromkeys(one for theorem in proof.theorems for one in theorem.assumed)
    if assumed:
        parts += [Text(), text("taken for granted", "bold")]
        parts += [indented(text(f"* {one}")) for one in assumed]
    count = sum(theorem.holds is not None for theorem in proof.theorems)
    failed = sum(theorem.holds is False for theorem in proof.theorems)
    said = f"proved: {count} theorems hold." if proof.proved else f"refuted: {failed} of {count} theorems do not hold."
    return stack([*parts, Text(), text(said, "bold green" if proof.proved else "bold red")])


def theorem_rows(theorem: Theorem) -> list[tuple[str, str]]:
    """What there is to say of a theorem: what was covered, or the witness against it."""
    if theorem.holds is None:
        return [("because", theorem.why_not)] if theorem.why_not else []
    rows = [("covered", ", ".join(_counted(word, count) for word, count in theorem.covered.items()))]
    witness = theorem.witness
    if witness is None:
        return rows if theorem.covered else []
    rows.append(("witness", witness.problem))
    rows += [
        (seat.who, f"{_space_of(seat)} {seat.address:#x} -> HPA {witness.hpa:#x}")
        for seat in (witness.seat, witness.other)
        if seat is not None and witness.hpa is not None
    ]
    if witness.slot is not None:
        rows.append(("entry", f"at HPA {witness.slot:#x}"))
    if witness.owner is not None:
        rows.append(("owner", witness.owner))
    if witness.remedy:
        rows.append(("to mend it", witness.remedy))
    for reason in theorem.reasons[:_MOST_REASONS]:
        rows.append(("check says", f"{reason.code}: {reason.message}"))
    if len(theorem.reasons) > _MOST_REASONS:
        rows.append(("", f"and {len(theorem.reasons) - _MOST_REASONS} more"))
    return rows


def _counted(word: str, count: int) -> str:
    """A number of something: bytes as sizes, one thing without its s."""
    if word == "bytes":
        return about(count)
    said = "VMs" if word == "vms" else word
    return f"{count:,} {said.removesuffix('s') if count == 1 else said}"


def _space_of(seat: Seat) -> str:
    words = {"VM": "GPA", "device": "IOVA"}
    return words.get(seat.who.split(" ")[0], "HVA")


def proof_json(proof: Proof, subject: Subject) -> dict[str, Any]:
    """A proof for programs."""
    return {
        "proved": proof.proved,
        "theorems": [
            {
                "name": theorem.name,
                "statement": theorem.statement,
                "holds": theorem.holds,
                "covered": dict(theorem.covered),
                "assumed": list(theorem.assumed),
                "why_not": theorem.why_not or None,
                "reasons": [{"code": one.code, "message": one.message} for one in theorem.reasons],
                "witness": None if theorem.witness is None else _witness_json(theorem.witness, subject),
            }
            for theorem in proof.theorems
        ],
    }


def _witness_json(witness: Witness, subject: Subject) -> dict[str, Any]:
    return {
        "problem": witness.problem,
        "seat": None if witness.seat is None else _seat_json(witness.seat, subject),
        "other": None if witness.other is None else _seat_json(witness.other, subject),
        "hpa": witness.hpa,
        "hpa_hex": None if witness.hpa is None else f"{witness.hpa:#x}",
        "slot": witness.slot,
        "slot_hex": None if witness.slot is None else f"{witness.slot:#x}",
        "owner": witness.owner,
        "remedy": witness.remedy or None,
    }


def _seat_json(seat: Seat, subject: Subject) -> dict[str, Any]:
    """An address, and the walk that leads from it."""
    return {
        "who": seat.who,
        "space": _space_of(seat),
        "address": seat.address,
        "address_hex": f"{seat.address:#x}",
        "walk": _walk(seat, subject),
    }


def _walk(seat: Seat, subject: Subject) -> dict[str, Any] | None:
    """The walk of a VM's address, or of a device's by its IOMMU's tables; None where there are none."""
    space = next((one for one in subject.spaces if one.who == seat.who), None)
    if space is not None:
        walk = explain_stage(subject.source, space.regime, seat.address)
        return walk_json(WalkView(walk, space.regime, vm=space.name, region=space.region_at(seat.address)))
    device = next((one for one in subject.devices if one.who == seat.who and one.iommu is not None), None)
    if device is None or device.iommu is None:
        return None
    walk = explain_stage(device.iommu.source, device.iommu.regime, seat.address)
    return walk_json(WalkView(walk, device.iommu.regime, vm=device.vm))
