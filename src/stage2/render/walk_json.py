"""An explained walk as a JSON object: one shape, wherever a walk is given to a program."""

from __future__ import annotations

from typing import Any

from ..formats import EffectiveType
from ..formats.outcome import EntryKind
from ..space.json_shapes import region_facts
from ..space.region import MemoryRegion
from ..tableimage.own import piece_json
from ..tables.explain import Step
from ..tables.result import Mapped, permission_text
from .stage2_map import map_range_json
from .walk import Outcome, WalkView, entry_text, outcome_text, step_fields


def walk_json(view: WalkView) -> dict[str, Any]:
    """The walk as a JSON object; addresses are integers, with hexadecimal text beside them."""
    walk = view.walk
    address = view.kind.lower()
    found: dict[str, Any] = {
        "vm": view.vm,
        address: walk.address,
        f"{address}_hex": f"{walk.address:#x}",
        "access": view.access,
        "format": view.stage_2.format.name,
        "root": view.stage_2.root,
        "root_hex": f"{view.stage_2.root:#x}",
        "steps": [_step_json(view, step) for step in walk.steps],
        "marks": [{"slot": slot, "entry": entry} for slot, entry in walk.marks],
        "result": _result_json(view),
        "region": _region_json(view.region),
        "outcome": None if view.outcome is None else _outcome_json(view.outcome),
        "processor": None if view.processor is None else view.processor.name,
        "depends_on": list(view.depends),
        "references": view.references,
        "why": None if view.why is None else map_range_json(view.why),
    }
    if view.own is not None:
        piece = view.own.piece
        found["piece"] = None if piece is None else piece_json(piece)
        found["guard"] = view.own.guard
    if view.stage_1 is not None:
        found["stage_1"] = {"format": view.stage_1.format.name, "root": view.stage_1.root}
    return found


def _step_json(view: WalkView, step: Step) -> dict[str, Any]:
    return {
        "stage": step.stage,
        "level": step.level,
        "table": step.table,
        "table_hex": f"{step.table:#x}",
        "index": step.index,
        "slot": step.slot,
        "slot_hpa": step.slot_hpa,
        "entry": step.entry,
        "entry_hex": f"{step.entry:#018x}",
        "kind": step.kind.name.lower(),
        "output": step.output if step.kind in (EntryKind.TABLE, EntryKind.LEAF) else None,
        "output_hex": f"{step.output:#x}" if step.kind in (EntryKind.TABLE, EntryKind.LEAF) else None,
        "permissions": permission_text(step.permissions),
        "meaning": entry_text(view, step),
        "fields": [
            {
                "bits": field.bits,
                "name": field.name,
                "value": field.value,
                "meaning": field.meaning,
                "reserved": field.reserved,
            }
            for field in step_fields(view, step)
        ],
        "under": [_step_json(view, under) for under in step.under],
    }


def _result_json(view: WalkView) -> dict[str, Any]:
    result = view.walk.result
    if isinstance(result, Mapped):
        return {
            "kind": "mapped",
            "hpa": result.hpa,
            "hpa_hex": f"{result.hpa:#x}",
            **({} if view.alone else {"gpa": result.gpa}),
            "permissions": permission_text(result.permissions),
            "size": result.size,
            "owner": view.owner,
            "memory_type": _memory_type_json(view.memory_type),
        }
    return {
        "kind": "fault",
        "fault": result.kind.name.lower(),
        "stage": result.stage,
        "level": result.level,
        "address": result.address,
        "address_hex": f"{result.address:#x}",
        "on_table": result.on_table,
        "on_mark": result.on_mark,
        "meaning": result.kind.meaning,
    }


def _memory_type_json(found: EffectiveType | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"name": found.name or None, "meaning": found.text, "manual": found.manual}


def _region_json(region: MemoryRegion | None) -> dict[str, Any] | None:
    if region is None:
        return None
    return {
        "name": region.label,
        "start": int(region.start),
        "size": region.size,
        **region_facts(region),
        "flags": region.flags.short,
        "map_type": region.map_type.value,
        "source": str(region.place or ""),
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    policy = outcome.result.policy
    return {
        "access": outcome.access,
        "resolution": outcome.result.resolution.value,
        "policy": None if policy is None else policy.value,
        "done": outcome.done,
        "meaning": outcome_text(outcome),
    }
