"""A second look at tables, beside a certificate: small, one entry after the other, and with none of the prover's code.

What both have in common are the formats' `decode` and `permissions`, and nothing else: an error in how
the prover reads tables as arrays, joins leaves or compares ranges does not hide here too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.regular_file import read_regular
from ..errors import ConfigError
from ..flags import MapType
from ..formats.outcome import COMBINED, GROUPED, LEAF, NONE, TABLE, USER_SHIFT
from ..tables.mapping import ATTRIBUTES
from .certificate import KEY, ROW, VERSION, details_of, identity
from .source import TableSource
from .subject import Space, Subject

_MASK = (1 << 64) - 1
_MOST = 1 << 30
"""Limit: bytes of a certificate, or of its details."""
_RIGHTS = 7

Leaf = tuple[int, int, int, int]
"""Start, HPA, size, attributes with the level in bits 31:24."""


class DisagreementError(Exception):
    """The tables are not what the certificate says, or do not hold what it says; the text is a sentence."""


def verify(path: Path, subject: Subject) -> int:
    """Hold tables against a certificate, and prove `apart` and `declared` anew.

    Args:
        path: the certificate.
        subject: where the tables are, and what is declared.

    Returns:
        How many leaves were looked at.

    Raises:
        ConfigError: the certificate cannot be read, or is none.
        DisagreementError: the tables are not those of the certificate, or are not sound.
    """
    claimed, details = _read(path)
    spaces = (*subject.spaces, *subject.own)
    if len(claimed) != len(spaces):
        raise DisagreementError(f"the certificate is about {len(claimed)} spaces, and here are {len(spaces)}")
    reached: list[tuple[int, int, Space, int]] = []
    count = 0
    for space, claim in zip(spaces, claimed, strict=True):
        for key, value in identity(space).items():
            if claim.get(key) != value:
                raise DisagreementError(f"{space.who}: {key} is {value!r}, and the certificate says {claim.get(key)!r}")
        visit = _Visit(space, subject.source)
        leaves = list(visit.leaves())
        _compare_levels(space, visit, claim)
        _compare_rows(space, leaves, details[int(claim["first"]) * ROW :], int(claim["rows"]))
        if space.name:
            for leaf in leaves:
                _declared(space, leaf)
            reached += [(hpa, hpa + size, space, gpa) for gpa, hpa, size, _ in leaves]
        count += len(leaves)
    _apart(reached)
    return count


@dataclass
class _Visit:
    """One way through all tables of a space, from the lowest address to the highest."""

    space: Space
    source: TableSource
    tables: dict[int, dict[int, bytes]] = field(default_factory=dict)
    """By level, by address."""

    def leaves(self) -> Iterator[Leaf]:
        regime = self.space.regime
        yield from self._table(regime.root, regime.format.levels - 1, 0, _MASK)

    def _table(self, at: int, level: int, base: int, allowed: int) -> Iterator[Leaf]:
        fmt, controls = self.space.regime.format, self.space.regime.controls
        entries = 1 << (fmt.root_bits if level == fmt.levels - 1 else fmt.bits)
        known = self.tables.setdefault(level, {})
        if at in known:
            raise DisagreementError(f"{self.space.who}: two entries lead to the table at {at:#x}")
        words = []
        for index in range(entries):
            word = self.source.word_at(at + 8 * index)
            if word is None:
                raise DisagreementError(f"{self.space.who}: the table at {at:#x} is outside the memory of tables")
            words.append(word)
        known[at] = b"".join(word.to_bytes(8, "little") for word in words)
        size = 1 << fmt.level_shift(level)
        for index, word in enumerate(words):
            kind, output, attributes = (int(part) for part in fmt.decode(word, level, controls))
            start = base + index * size
            if kind == TABLE:
                yield from self._table(output, level - 1, start, allowed & (attributes | _MASK ^ COMBINED))
            elif kind == LEAF:
                if fmt.group_translates and fmt.group_bits_at(level):
                    output |= _within_group(fmt.group_bits_at(level), attributes, start, size)
                yield start, output, size, attributes & (allowed | _MASK ^ COMBINED) | level << 24
            elif kind != NONE:
                raise DisagreementError(f"{self.space.who}: the entry {word:#x} at {at + 8 * index:#x} is not sound")


def _within_group(bits: int, attributes: int, start: int, size: int) -> int:
    """What a leaf of a translated group adds to the group's address."""
    return start & (((1 << bits) - 1) * size) if attributes & GROUPED else 0


def _compare_levels(space: Space, visit: _Visit, claim: dict[str, Any]) -> None:
    for level in claim["levels"]:
        found = visit.tables.get(level["level"], {})
        digest = hashlib.sha256()
        for at in sorted(found):
            digest.update(at.to_bytes(8, "little") + found[at])
        if (len(found), digest.hexdigest()) != (level["tables"], level["sha256"]):
            text = f"{space.who}: the {len(found)} tables of level {level['level']} are not the certificate's"
            raise DisagreementError(text)


def _compare_rows(space: Space, leaves: list[Leaf], data: bytes, rows: int) -> None:
    """The certificate's ranges are made of these leaves, in order, and of no others."""
    at = 0
    for number in range(rows):
        words = [
            int.from_bytes(data[number * ROW + 8 * part : number * ROW + 8 * part + 8], "little") for part in range(4)
        ]
        start, hpa, size, attributes = words
        done = 0
        while done < size and at < len(leaves):
            if leaves[at][:2] != (start + done, hpa + done) or leaves[at][3] != attributes:
                break
            done += leaves[at][2]
            at += 1
        if done != size:
            raise DisagreementError(f"{space.who}: the certificate's range at {start:#x} is not what the tables map")
    if at != len(leaves):
        raise DisagreementError(f"{space.who}: the tables map {leaves[at][0]:#x}, and the certificate does not say so")


def _declared(space: Space, leaf: Leaf) -> None:
    gpa, hpa, size, attributes = leaf
    fmt, controls = space.regime.format, space.regime.controls
    end = gpa + size
    while gpa < end:
        region = space.region_at(gpa)
        if region is None:
            raise DisagreementError(f"{space.who} reaches GPA {gpa:#x}, where it declares nothing")
        granted = int(fmt.permissions(attributes & ATTRIBUTES, controls))
        granted = (granted | granted >> USER_SHIFT) & _RIGHTS
        if not region.map_type.is_mapped or granted & ~int(region.flags) & _RIGHTS:
            raise DisagreementError(f"{space.who} may do more at GPA {gpa:#x} than {region} says")
        if region.host_range is not None and hpa - gpa != region.host_range.start - region.start:
            raise DisagreementError(f"{space.who}: GPA {gpa:#x} leads to HPA {hpa:#x}, and {region} says another")
        step = min(end, region.end) - gpa
        gpa, hpa = gpa + step, hpa + step


def _apart(reached: list[tuple[int, int, Space, int]]) -> None:
    """Leaves of two VMs that meet are both of shares."""
    reached.sort(key=lambda leaf: leaf[:2])
    open_leaves: list[tuple[int, int, Space, int]] = []
    for leaf in reached:
        start, _, space, gpa = leaf
        open_leaves = [other for other in open_leaves if other[1] > start]
        for other in open_leaves:
            if other[2] is space:
                continue
            pair = ((space, gpa), (other[2], other[3] + start - other[0]))
            regions = [one.region_at(address) for one, address in pair]
            if any(region is None or region.map_type is not MapType.SHARE for region in regions):
                raise DisagreementError(f"{space.who} and {other[2].who} both reach HPA {start:#x}")
        open_leaves.append(leaf)


def _read(path: Path) -> tuple[list[dict[str, Any]], bytes]:
    """The spaces of a certificate, and its details."""
    try:
        found = json.loads(_bytes(path))
        if found[KEY] != VERSION:
            raise ConfigError(
                f"is a certificate of version {found[KEY]!r}; this program reads {VERSION}", file=str(path)
            )
        details = _bytes(details_of(path))
        if hashlib.sha256(details).hexdigest() != found["details"]["sha256"]:
            raise ConfigError("is not what the certificate says: its SHA-256 differs", file=str(details_of(path)))
        spaces: list[dict[str, Any]] = found["spaces"]
        for space in spaces:
            _ = (
                space["first"] + space["rows"],
                [(one["level"], one["tables"], one["sha256"]) for one in space["levels"]],
            )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError("is no certificate of `stage2 prove`", file=str(path)) from None
    return spaces, details


def _bytes(path: Path) -> bytes:
    return read_regular(str(path), _MOST, "certificate")
