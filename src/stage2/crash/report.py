"""From the registers of an event to the family that can tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module

from ..errors import ConfigError, Stage2Error
from ..formats.arm.syndromes import hpfar_of
from ..formats.riscv.syndromes import htval_of
from ..formats.syndrome import FaultReport
from .names import ADDRESS, ARM, BY_KEY, EPT, GPA, GVA, LEVEL, NPF, Source
from .reading import Event, Reading


def report_all(reading: Reading) -> list[tuple[Event, FaultReport]]:
    """Every event of a text that its registers tell. One among others that they do not tell is left aside.

    Raises:
        ConfigError, EncodingError: none is told; what the first lacks.
    """
    told: list[tuple[Event, FaultReport]] = []
    problems: list[Stage2Error] = []
    for event in reading.events:
        try:
            told.append((event, report_fault(event.values)))
        except Stage2Error as error:
            problems.append(error)
            reading.ignored += event.values
    if not told:
        raise problems[0]
    return told


def report_fault(values: Mapping[str, int]) -> FaultReport:
    """The report of the family whose registers these are.

    Args:
        values: keys of `names` and their numbers.

    Raises:
        ConfigError: keys of several families, or the one that all others depend on is missing.
        EncodingError: the registers contradict each other.
    """
    source, known = resolve(values)
    if source.keys[0] not in known and source.instead not in known:
        given = ", ".join(values)
        hint = "; `stage2 walk VM.toml --gpa ADDRESS` tells what is mapped there" if source is EPT else ""
        raise ConfigError(f"{given} alone says nothing: {source.what} needs {source.keys[0]}=... too{hint}")
    module = import_module(f"..formats.{source.family}.syndromes", __package__)
    found: FaultReport = getattr(module, source.function)(*(known.get(key) for key in source.keys))
    return _by_its_own_register(found, known) if source is ARM else found


_REGISTER_OF_MANUAL = "ESR_EL2"
_AT_EVERY_LEVEL = "ESR_EL1 (the same at EL2 and EL3)"


def _by_its_own_register(report: FaultReport, known: Mapping[str, int]) -> FaultReport:
    """The same with the manual's reference to the ESR of the level that took the exception.

    The family tells all of them by the one section of ESR_EL2, whose layout is that of the others.
    """
    level = 2 if report.stage == 2 or "hpfar" in known else known.get(LEVEL)
    register = _AT_EVERY_LEVEL if level is None else f"ESR_EL{level}"
    if level == 2 or _REGISTER_OF_MANUAL not in report.manual:
        return report
    return replace(report, manual=report.manual.replace(_REGISTER_OF_MANUAL, register))


def resolve(values: Mapping[str, int]) -> tuple[Source, dict[str, int]]:
    """Whose registers they are, and all of them under that architecture's names.

    Raises:
        ConfigError: they are of several architectures, or of none.
    """
    neutral = {ADDRESS, GVA, GPA}
    sources = list(dict.fromkeys(BY_KEY[key] for key in values if key not in neutral))
    if len(sources) > 1:
        first, second = (next(key for key in values if BY_KEY.get(key) is source) for source in sources[:2])
        raise _apart(first, second)
    if not sources:
        if set(values) == {ADDRESS}:
            raise ConfigError("a faulting address alone says nothing: the line with esr, error code or cause is needed")
        return EPT, dict(values)
    source = sources[0]
    names = {ADDRESS: ADDRESS, **(source.neutral or {})}
    known = {key: value for key, value in values.items() if key in source.keys}
    for key, value in values.items():
        if key in known or (key == ADDRESS and names[ADDRESS] == ADDRESS):
            continue
        name = _HTVAL_NAMES.get(source.keys[0]) if key == GPA and source.keys[0] in _HTVAL_NAMES else names.get(key)
        if name is None:
            raise _apart(next(iter(known)), key)
        known.setdefault(name, _shifted(name, value))
    return source, known


_HTVAL_NAMES = {"scause": "htval"}


def _shifted(name: str, gpa: int) -> int:
    """A GPA as the register that reports it holds it."""
    holds = {"htval": htval_of, "hpfar": hpfar_of}.get(name)
    return gpa if holds is None else holds(gpa)


def _apart(first: str, second: str) -> ConfigError:
    one, other = BY_KEY[first], BY_KEY.get(second, NPF)
    return ConfigError(
        f"{first} and {second} do not belong together: {first} is of {one.what}, {second} of {other.what}"
    )
