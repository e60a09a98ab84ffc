"""A proof as a file that others can check: hashes of all tables, and beside it every range of leaves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from .subject import Space
from .theorem import Proof
from .world import Scanned, World

KEY, VERSION = "stage2 certificate", 1
ROW = 32
"""Bytes of a range in the details: start, HPA, size, attributes with the level in bits 31:24, little-endian words."""


def certificate(proof: Proof, world: World, details_name: str) -> tuple[str, bytes]:
    """The text of a certificate, and its details.

    Args:
        proof: of the world.
        world: with all tables read.
        details_name: of the file beside it.
    """
    spaces, details = [], bytearray()
    for one in (*world.vms, *world.own):
        data = np.ascontiguousarray(one.scan.rows).astype("<u8").tobytes()
        spaces.append(_space(one, world) | {"first": len(details) // ROW, "rows": len(one.scan.rows)})
        details += data
    found = {
        KEY: VERSION,
        "proved": proof.proved,
        "theorems": [{"name": theorem.name, "holds": theorem.holds} for theorem in proof.theorems],
        "spaces": spaces,
        "details": {"file": details_name, "size": len(details), "sha256": hashlib.sha256(details).hexdigest()},
    }
    return json.dumps(found, indent=2) + "\n", bytes(details)


def details_of(path: Path) -> Path:
    """Where the details of a certificate are: beside it."""
    return path.with_suffix(".ranges")


def identity(space: Space) -> dict[str, Any]:
    """What a certificate says of a space before anything is read."""
    regime = space.regime
    return {"who": space.who, "format": regime.format.name, "root": regime.root, "controls": regime.controls}


def _space(one: Scanned, world: World) -> dict[str, Any]:
    fmt = one.space.regime.format
    levels = []
    for level in range(fmt.levels - 1, -1, -1):
        addresses = np.sort(one.scan.tables[one.scan.tables[:, 1] == np.uint64(level), 0])
        bits = fmt.index_bits(level)
        digest = hashlib.sha256()
        for first in range(0, len(addresses), 512):
            piece = addresses[first : first + 512]
            tables = world.subject.source.tables(piece, 1 << bits)
            digest.update(np.concatenate([piece[:, None], tables], axis=1).astype("<u8").tobytes())
        levels.append({"level": level, "tables": len(addresses), "sha256": digest.hexdigest()})
    return identity(one.space) | {"leaves": one.scan.leaves, "levels": levels}
