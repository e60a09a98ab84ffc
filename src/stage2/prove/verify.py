"""A second look at tables, beside a certificate: small, one entry after the other, and with none of the prover's code.

What both have in common are the formats' `decode`, `permissions` and `encode_leaf`, and nothing else: an error in how
the prover reads tables as arrays, joins leaves or compares ranges does not hide here too. `verify_tables` goes through
tables, `verify_theorems` proves, `verify_spans` has the arithmetic of ranges for that.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.regular_file import read_regular
from ..errors import ConfigError
from .certificate import KEY, ROW, VERSION, details_of, identity
from .subject import Space, Subject
from .verify_tables import DisagreementError, UnsoundError, Visit, held_against
from .verify_theorems import Isolation, Wellformed, WriteOrExecute

_MOST = 1 << 30
"""Limit: bytes of a certificate, or of its details."""
_NAMES = ("apart", "owned", "declared", "wx", "wellformed", "tlb", "dma")
_ELSEWHERE = {"tlb": "what TLBs hold is not in the tables", "dma": "what devices do is not in the tables"}


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a theorem.

    Args:
        name: the theorem's.
        claimed: what the certificate says of it, as `Theorem.holds`.
        holds: what was found; None where it was not proved anew.
        problem: why it does not hold, a sentence.
        why_not: why it was not proved anew.
    """

    name: str
    claimed: bool | None
    holds: bool | None
    problem: str | None = None
    why_not: str = ""

    @property
    def disagreement(self) -> str | None:
        """Why the certificate is not verified, a sentence."""
        if self.holds is False and self.claimed:
            return f"the certificate says that `{self.name}` holds, and it does not: {self.problem}"
        if self.holds is False:
            return f"`{self.name}` does not hold: {self.problem}"
        return f"the certificate says itself that `{self.name}` does not hold" if self.claimed is False else None


@dataclass(frozen=True, slots=True)
class Verification:
    """A certificate held against tables.

    Args:
        leaves: how many were looked at.
        theorems: what became of each; none where the tables are not the certificate's.
        problem: why it is not verified, a sentence; None where all is well.
    """

    leaves: int
    theorems: tuple[Checked, ...]
    problem: str | None


def verify(path: Path, subject: Subject) -> Verification:
    """Hold tables against a certificate, and prove its theorems anew.

    Args:
        path: the certificate.
        subject: where the tables are, what is declared, and who owns the host's memory.

    Raises:
        ConfigError: the certificate cannot be read, or is none.
    """
    claimed, spaces, details = _read(path)
    second = _Second(subject)
    try:
        second.look(spaces, details)
    except DisagreementError as error:
        return Verification(second.leaves, (), str(error))
    theorems = second.theorems(claimed)
    problem = next((found for one in theorems if (found := one.disagreement) is not None), None)
    return Verification(second.leaves, theorems, problem)


class _Second:
    """One look at a subject."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._isolation = Isolation(subject.owners)
        self._rights: dict[str, WriteOrExecute] = {}
        self._wellformed = Wellformed(subject.owners)
        self._unsound: str | None = None
        self.leaves = 0

    def look(self, claims: list[dict[str, Any]], details: bytes) -> None:
        """Go through all tables."""
        spaces = (*self._subject.spaces, *self._subject.own)
        if len(claims) != len(spaces):
            raise DisagreementError(f"the certificate is about {len(claims)} spaces, and here are {len(spaces)}")
        for space, claim in zip(spaces, claims, strict=True):
            try:
                self._space(space, claim, details)
            except UnsoundError as error:
                self._unsound = str(error)
                return

    def _space(self, space: Space, claim: dict[str, Any], details: bytes) -> None:
        _same(space, claim, identity(space))
        visit = Visit(space, self._subject.source)
        first = ROW * claim["first"]
        rows = struct.iter_unpack("<4Q", memoryview(details)[first : first + ROW * claim["rows"]])
        leaves = held_against(space, visit.leaves(), rows)
        if not space.name or space.write_xor_execute:
            leaves = self._rights.setdefault(space.who, WriteOrExecute(space.who)).passing(space, leaves)
        if space.name:
            self._isolation.see(space, leaves)
        # Of the hypervisor's mappings nothing but their rights is looked at.
        deque(leaves, maxlen=0)
        self.leaves += visit.leaves_seen
        self._wellformed.see(space, visit)
        _same(space, claim, {"leaves": visit.leaves_seen})
        for level in visit.levels():
            if level not in claim["levels"]:
                text = f"{space.who}: the {level['tables']} tables of level {level['level']} are not the certificate's"
                raise DisagreementError(text)

    def theorems(self, claimed: dict[str, bool | None]) -> tuple[Checked, ...]:
        """What became of each theorem, whether the certificate names it or not."""
        self._isolation.end()
        unsound = "an entry is not sound, and nothing behind it was looked at"
        rights = next((problem for one in self._rights.values() if (problem := one.end()) is not None), None)
        wrong = dict(self._isolation.wrong, wellformed=self._unsound or self._wellformed.end(), wx=rights)
        why_not = dict(_ELSEWHERE)
        if self._subject.owners is None:
            why_not["owned"] = "nothing says who owns the host's memory"
        if not self._rights:
            why_not["wx"] = "the hypervisor has no tables of its own here, and no VM's file says write_xor_execute"
        found = []
        for name in dict.fromkeys((*_NAMES, *claimed)):
            problem = wrong.get(name)
            reason = why_not.get(name) or (unsound if self._unsound and problem is None else "")
            if name not in _NAMES:
                reason = "this program knows no such theorem"
            found.append(Checked(name, claimed.get(name), None if reason else problem is None, problem, reason))
        return tuple(found)


def _same(space: Space, claim: dict[str, Any], found: dict[str, Any]) -> None:
    for key, value in found.items():
        if claim.get(key) != value:
            raise DisagreementError(f"{space.who}: {key} is {value!r}, and the certificate says {claim.get(key)!r}")


def _read(path: Path) -> tuple[dict[str, bool | None], list[dict[str, Any]], bytes]:
    """The theorems and spaces of a certificate, and its details."""
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
        claimed = {str(one["name"]): one["holds"] for one in found["theorems"]}
        sound = all(holds in (True, False, None) for holds in claimed.values())
        for space in spaces:
            first, rows, levels = space["first"], space["rows"], space["levels"]
            sound &= isinstance(first, int) and isinstance(rows, int) and isinstance(levels, list)
            sound &= 0 <= first <= first + rows <= len(details) // ROW
        if not sound:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError("is no certificate of `stage2 prove`", file=str(path)) from None
    return claimed, spaces, details


def _bytes(path: Path) -> bytes:
    return read_regular(str(path), _MOST, "certificate")
