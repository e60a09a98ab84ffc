"""Memory that is writable and executable: S3001 and S3002."""

from __future__ import annotations

from collections.abc import Iterator

from ...check.finding import Finding, Severity
from ...formats.outcome import EXECUTE, WRITE
from .reach import ANY_EXECUTE, ANY_WRITE, PRIVILEGED_WRITE, USER_EXECUTE, USER_WRITE, Layer, Reach
from .scene import Scene
from .spans import common, without
from .telling import rule, tell

ONE_MAPPING = rule(
    "S3001", Severity.ERROR, "memory is writable and executable",
    "Whoever finds a way to write there runs code of his own. Of kernels and hypervisors it is an error; programs that "
    "make code do it, and a stage 2 usually allows a guest all of its RAM, so of those it is a note.",
)  # fmt: skip
TWO_MAPPINGS = rule(
    "S3002", Severity.WARNING, "code of the kernel is writable by another mapping",
    "The mapping that executes it is not writable, but the same memory is writable at another address, so that one "
    "stray write changes code. It is an error where user mode has the second mapping. Linux changes its own code "
    "through such mappings for a moment only.",
)  # fmt: skip
RULES = (ONE_MAPPING, TWO_MAPPINGS)


def check_write_execute(scene: Scene) -> Iterator[Finding]:
    """What each party may both write and execute."""
    for reach in scene.of_layer(Layer.OWN, Layer.GUEST):
        yield from _of_kernel(scene, reach)
        both = reach.of_kind([_both(kind.permissions, USER_WRITE, USER_EXECUTE) for kind in reach.kinds])
        if both.any():
            text = f"{reach.party.name}: user mode may write and execute {{amount}}"
            ways = [(reach, both, "user mode")]
            yield tell(ONE_MAPPING, scene.source, reach.spans(both), ways, text, severity=Severity.NOTE)
    for reach in scene.of_layer(Layer.VM):
        both = reach.of_kind([_both(kind.permissions, ANY_WRITE, ANY_EXECUTE) for kind in reach.kinds])
        if both.any():
            text = f"{reach.party.name} may write and execute {{amount}}, as far as its stage 2 goes"
            yield tell(ONE_MAPPING, scene.source, reach.spans(both), [(reach, both, "")], text, severity=Severity.NOTE)


def _of_kernel(scene: Scene, reach: Reach) -> Iterator[Finding]:
    """What supervisor mode executes. Pages of user mode are another matter (S3004)."""
    who = reach.party.name
    runs = reach.of_kind([bool(kind.permissions & EXECUTE) and not kind.user for kind in reach.kinds])
    if not runs.any():
        return
    both = runs & reach.allowing(PRIVILEGED_WRITE)
    at_once = reach.spans(both)
    if len(at_once):
        text = f"{who}: supervisor mode may write and execute {{amount}}"
        fix = "take write or execute out of the entries"
        yield tell(ONE_MAPPING, scene.source, at_once, [(reach, both, "supervisor mode")], text, fix=fix)
    code = without(reach.spans(runs), at_once)
    by_user, by_kernel = reach.allowing(USER_WRITE), reach.allowing(WRITE)
    worst = common(reach.spans(runs), reach.spans(by_user))
    if len(worst):
        text = f"{who}: user mode may write {{amount}} that supervisor mode executes"
        ways = [(reach, runs, "executed by supervisor mode"), (reach, by_user, "written by user mode")]
        yield tell(TWO_MAPPINGS, scene.source, worst, ways, text, severity=Severity.ERROR)
    twice = without(common(code, reach.spans(by_kernel)), worst)
    if len(twice):
        text = f"{who}: supervisor mode executes {{amount}} and may write the same at other addresses"
        ways = [(reach, runs, "executable"), (reach, by_kernel, "writable")]
        yield tell(TWO_MAPPINGS, scene.source, twice, ways, text, fix="write-protect the second mapping")


def _both(permissions: int, one: int, other: int) -> bool:
    return bool(permissions & one) and bool(permissions & other)
