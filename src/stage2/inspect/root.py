"""Roots of tables: where a translation begins, as people and sources name it.

A root is written `FORMAT@ADDRESS`, with what differs from the format's usual controls behind it:
`arm-s2-4k-40@0x44136000,pa36,fwb`, `x86-4level@0x1e0a000,controls=0x3400001`. Every root that a command prints can be
given to `--root` as it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import ConfigError, Stage2Error
from ..formats import TypeSources, by_name, families, family_for
from ..formats.effective import NOTHING_KNOWN
from ..formats.record import Format
from ..tables.regime import Regime
from .source import Cpu

_CONTROLS, _ON, _OFF = "controls", ("1", "on", ""), ("0", "off")


@dataclass(frozen=True, slots=True)
class Root:
    """The root of tables in a source.

    Args:
        regime: format, address and controls.
        role: whose translation it is, in a few words; empty where nobody knows.
        where: what names it: `TTBR1_EL1 of CPU 0`, `--root`.
        under: the stage 2 that a stage-1 root's addresses go through; None where they are host physical addresses.
        active: whether a CPU translates by it now; None where nothing tells.
        types: what beside its leaves decides memory types (MAIR, PAT), as far as registers tell.
    """

    regime: Regime
    role: str = ""
    where: str = ""
    under: Root | None = None
    active: bool | None = None
    types: TypeSources = NOTHING_KNOWN

    @property
    def stage(self) -> int:
        """1 or 2."""
        return self.regime.format.stage

    @property
    def name(self) -> str:
        """As `--root` takes it."""
        return root_text(self.regime)

    def __str__(self) -> str:
        told = ", ".join(part for part in (self.role, self.where) if part)
        return self.name + (f" ({told})" if told else "")


def root_text(regime: Regime) -> str:
    """A regime as `--root` takes it."""
    fmt = regime.format
    text = f"{fmt.name}@{regime.root:#x}"
    left = regime.controls
    if left == fmt.default_controls:
        return text
    on = [
        name
        for name, switch in fmt.switches.items()
        if switch.turn_on(left) == left and switch.turn_on(fmt.default_controls) != fmt.default_controls
    ]
    if on and fmt.controls_with(*on) == left:
        return ",".join([text, *on])
    return f"{text},{_CONTROLS}={left:#x}"


def parse_root(text: str) -> Regime:
    """The regime that `FORMAT@ADDRESS[,control=value]...` stands for.

    A control is a switch of the format (`fwb`, `fwb=1`), or `controls=NUMBER` for all of them as one number.

    Raises:
        ConfigError: it is not written so, there is no such format or control, or the root is not aligned.
    """
    place, *options = text.split(",")
    name, at, address = place.partition("@")
    if not at or not name.strip() or not address.strip():
        raise ConfigError(f"--root {text}: write FORMAT@ADDRESS, such as arm-s2-4k-40@0x44136000 or sv39@0x80202000")
    try:
        fmt = by_name(name.strip())
        root, controls = _number(address, text), fmt.default_controls
        for option in options:
            controls = _with(fmt, controls, option.strip(), text)
        return Regime(fmt, root, controls)
    except ConfigError:
        raise
    except Stage2Error as error:
        raise ConfigError(f"--root {text}: {error}") from None


def _with(fmt: Format, controls: int, option: str, text: str) -> int:
    name, _, value = option.partition("=")
    if name == _CONTROLS:
        return _number(value, text)
    if value not in _ON + _OFF:
        raise ConfigError(f"--root {text}: {option}: a control is on (1) or off (0)")
    turned = fmt.controls_with(name, base=controls)
    return turned if value in _ON else controls


def _number(value: str, text: str) -> int:
    try:
        return int(value.replace("_", ""), 0)
    except ValueError:
        raise ConfigError(f"--root {text}: {value or 'nothing'} is no number: write 0x8020_2000") from None


def given_roots(texts: Sequence[str]) -> tuple[Root, ...]:
    """The roots of `--root`, at most one of each stage; the one of stage 1 is under the one of stage 2.

    Raises:
        ConfigError: two are of one stage or of two architectures, or one is not written as it should be.
    """
    regimes = [parse_root(text) for text in texts]
    second = next((regime for regime in regimes if regime.format.stage == 2), None)
    first = [regime for regime in regimes if regime.format.stage == 1]
    if len(regimes) - len(first) > 1 or len(first) > 2 or (len(first) == 2 and not _halves(first)):
        raise ConfigError("--root: give one root of each stage (of Arm's stage 1 both halves, the high one with -high)")
    if second is not None and any(one.format.family != second.format.family for one in first):
        raise ConfigError("--root: both stages must be of one architecture")
    below = None if second is None else Root(second, where="--root")
    found = [Root(regime, where="--root", under=below) for regime in first]
    return (*found, *(() if below is None else (below,)))


def _halves(regimes: Sequence[Regime]) -> bool:
    return {regime.format.high_half for regime in regimes} == {False, True}


def roots_of_registers(cpus: Sequence[Cpu], arch: str | None = None) -> tuple[tuple[Root, ...], tuple[str, ...]]:
    """The roots that registers select, CPU by CPU, and what of the registers makes no sense.

    The same root of several CPUs is told once, by the first. What a CPU translates by at the moment comes first.

    Args:
        cpus: whose registers are known.
        arch: the machine's architecture; None where only the names of the registers tell it.
    """
    found: dict[tuple[str, Regime | None], Root] = {}
    problems: list[str] = []
    for cpu in cpus:
        of = arch or _arch_of(cpu)
        if of is None:
            continue
        selected, wrong = family_for(of).roots(cpu.values)
        problems += [f"CPU {cpu.number}: {problem}" for problem in wrong]
        second: dict[str, Root] = {}
        for one in sorted(selected, key=lambda one: -one.format.stage):
            try:
                regime = Regime(one.format, one.root, one.controls, one.identifier)
            except Stage2Error as error:
                problems.append(f"CPU {cpu.number}: {one.register}: {error}")
                continue
            under = second.get(one.below)
            root = Root(regime, one.role, f"{one.register} of CPU {cpu.number}", under, one.active, one.types)
            if one.format.stage == 2:
                second[one.register] = root
            found.setdefault((root.name, None if under is None else under.regime), root)
    ordered = sorted(found.values(), key=lambda root: (root.active is not True, root.stage))
    return tuple(ordered), tuple(problems)


def _arch_of(cpu: Cpu) -> str | None:
    """The architecture that has such registers."""
    for family in families().values():
        if any(register.name in cpu.values for register in family.registers()):
            return family.arch
    return None


def of_stage(roots: Iterable[Root], stage: int) -> tuple[Root, ...]:
    """Those of one stage."""
    return tuple(root for root in roots if root.stage == stage)
