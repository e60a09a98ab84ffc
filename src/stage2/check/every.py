"""Every rule, and every finding about VMs that are to run together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from . import (
    allow,
    comments,
    conflicts,
    cpus,
    dma,
    file_notices,
    given_devices,
    guest_images,
    guest_tree,
    host_devices,
    host_memory,
    huge_pages,
    image_places,
    kernel_layout,
    left_out,
    names,
    readings,
    write_execute,
    x86_holes,
)
from .allow import without_allowed
from .finding import Finding, Rule, Severity, rule_named
from .readings import compare_readings
from .setup import Setup

CHECKS: tuple[Callable[[Setup], Iterable[Finding]], ...] = (
    conflicts.check_conflicts,
    host_memory.check_host_memory,
    host_memory.check_width,
    write_execute.check_write_execute,
    huge_pages.check_huge_pages,
    host_devices.check_host_devices,
    given_devices.check_given_devices,
    dma.check_dma,
    x86_holes.check_x86_holes,
    comments.check_comments,
    names.check_names,
    left_out.check_left_out,
    cpus.check_cpus,
    file_notices.check_notices,
)
"""What looks at VM files; images and kernels are looked at by those who have read them."""
RULES: tuple[Rule, ...] = (
    *kernel_layout.RULES,
    *guest_images.RULES,
    *image_places.RULES,
    *guest_tree.RULES,
    *conflicts.RULES,
    *host_memory.RULES,
    *write_execute.RULES,
    *huge_pages.RULES,
    *host_devices.RULES,
    *given_devices.RULES,
    *dma.RULES,
    *x86_holes.RULES,
    *comments.RULES,
    *names.RULES,
    *left_out.RULES,
    *cpus.RULES,
    *file_notices.RULES,
    *readings.RULES,
    *allow.RULES,
)
_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


def rule_of(code: str) -> Rule:
    """The rule of a code.

    Raises:
        ConfigError: there is none.
    """
    return rule_named(RULES, code, f"no rule is called {code[:20]!r}: `stage2 check --explain list` names all")


def check_setup(setup: Setup, of_images: Iterable[Finding] = ()) -> list[Finding]:
    """What is wrong with VMs that are to run together, but for what their files allow: errors first, then by file and
    line.

    Args:
        setup: the VMs and their host.
        of_images: what is wrong with their images, by who has read them.
    """
    found = [finding for check in CHECKS for finding in check(setup)]
    if setup.other is not None:
        found += compare_readings(setup, found, [finding for check in CHECKS for finding in check(setup.other)])
    found += of_images
    return sorted(without_allowed(found, setup.toml_files, {rule.code for rule in RULES}), key=_place)


def _place(finding: Finding) -> tuple[int, str, int, str]:
    first = finding.locations[0] if finding.locations else None
    where = (first.file, first.line or 0) if first is not None else ("", 0)
    return _ORDER[finding.level], *where, finding.code
