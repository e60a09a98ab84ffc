"""Every rule of an audit, and the audit itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from ...check.finding import Finding, Rule, Severity, has_errors, rule_named
from ...errors import ConfigError
from ..root import Root
from ..source import MemorySource
from . import (
    executable_devices,
    guests_apart,
    memory_types,
    not_present,
    structure,
    user_reach,
    writable_tables,
    write_execute,
)
from .scene import Looked, Scene, build_scene

CHECKS: tuple[Callable[[Scene], Iterable[Finding]], ...] = (
    guests_apart.check_guests_apart,
    writable_tables.check_writable_tables,
    write_execute.check_write_execute,
    user_reach.check_user_reach,
    executable_devices.check_executable_devices,
    memory_types.check_memory_types,
    not_present.check_not_present,
    structure.check_structure,
)
RULES: tuple[Rule, ...] = tuple(
    sorted(
        (
            *write_execute.RULES,
            *user_reach.RULES,
            *writable_tables.RULES,
            *executable_devices.RULES,
            *memory_types.RULES,
            *not_present.RULES,
            *guests_apart.RULES,
            *structure.RULES,
        ),
        key=lambda rule: rule.code,
    )
)
_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found, and of what.

    Args:
        source: the memory.
        findings: errors first.
        looked: the roots that were read.
        assumed: what was inferred of owners, a sentence each.
        notices: what of registers or roots makes no sense, a sentence each.
    """

    source: MemorySource
    findings: tuple[Finding, ...]
    looked: tuple[Looked, ...]
    assumed: tuple[str, ...]
    notices: tuple[str, ...] = ()

    @property
    def has_errors(self) -> bool:
        """Whether one of the findings is an error."""
        return has_errors(self.findings)


def audit(
    source: MemorySource,
    roots: Sequence[Root],
    *,
    guessed: Collection[Root] = (),
    notices: Sequence[str] = (),
) -> Audit:
    """Look for what is dangerous in the tables of some roots.

    Args:
        source: the memory.
        roots: of as many VMs and systems as there are; a stage 1 names the stage 2 that it is under.
        guessed: those of the roots that were found by looking for them. What a guest can write may be a guest's own.
        notices: what the reader of them has to say.

    Raises:
        ConfigError: there is no root.
        SourceError: the source can no longer be read.
    """
    if not roots:
        raise ConfigError(f"{source.name}: no root of tables is known: name some (--root FORMAT@ADDRESS), or registers")
    scene = build_scene(source, roots, guessed=guessed)
    found = [_graded(finding, scene) for check in CHECKS for finding in check(scene)]
    found.sort(key=lambda finding: (_ORDER[finding.level], finding.code))
    return Audit(source, tuple(found), tuple(scene.looked), tuple(scene.assumed), tuple(notices))


def _graded(finding: Finding, scene: Scene) -> Finding:
    """A finding as bad as what it rests on: an error by guessed roots of stage 1 alone is a warning."""
    if finding.level is not Severity.ERROR or not scene.guessed:
        return finding
    named = {place.says for place in finding.locations}
    first = {one.root for one in scene.looked if one.root.stage == 1 and str(one.root) in named}
    if not first or not first <= scene.guessed:
        return finding
    text = f"{finding.message}; by roots that only a search found"
    return replace(finding, message=text, severity=Severity.WARNING)


def rule_of(code: str) -> Rule:
    """The rule of a code.

    Raises:
        ConfigError: there is none.
    """
    return rule_named(
        RULES, code, f"no rule of an audit is called {code[:20]!r}: `stage2 audit --explain list` names all"
    )
