"""`stage2 check`: what is wrong with VM files, before anything runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ..errors import ConfigError
from .page import require_page
from .vm_files import GenerationName

if TYPE_CHECKING:
    from ..check.finding import Finding, Rule
    from ..check.setup import Setup
    from ..config.board import BoardConfig
    from ..config.platform import PlatformConfig
    from ..hypervisor.image import Image
    from ..hypervisor.layout import KernelLayout


def check(
    *vms: Annotated[Path, Parameter(name="VM.toml")],
    platform: Path | None = None,
    host_dtb: Path | None = None,
    hypervisor: Path | None = None,
    cpu: str | None = None,
    arch: Literal["riscv64", "aarch64", "x86_64"] | None = None,
    generation: GenerationName | None = None,
    define: Annotated[list[str] | None, Parameter(negative="")] = None,
    fix: Annotated[bool, Parameter(negative="")] = False,
    explain: Annotated[str | None, Parameter(name="--explain")] = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
    sarif: Annotated[bool, Parameter(negative="")] = False,
    html: Path | None = None,
) -> int:
    """Find every mistake in VM files before a board hangs on them. Needs no running machine; images that are at
    hand are checked too.

    Exit code 0: no finding is an error; 1: one is; 2: bad input.

    Parameters
    ----------
    vms
        AxVisor VM files that are to run together.
    platform
        AxVisor platform file of the host, or a board file.
    host_dtb
        The host's device tree, as DTB or as DTS: its RAM, reservations and devices, and the nodes that VMs are given.
    hypervisor
        ELF file of the hypervisor, as its linker wrote it (also packed with gzip). Without it, the place of the
        hypervisor is computed from the platform.
    cpu
        Processor that the tables are for (cortex-a72, "cortex-a72,pa=40"; "--cpu list" names all).
    arch
        Architecture of the guests, when neither file nor platform says.
    generation
        AxVisor's format that the files are in: seed, head, tg or present; by default what they say or show.
    define
        NAME=VALUE for ${NAME} in paths; other names are taken from the environment.
    fix
        Write into the files what findings say to write ("write 0x7"), and tell what is left.
    explain
        Tell of one rule, by its code (S2301), and check nothing; "list" names all.
    json_output
        Print JSON instead of text.
    sarif
        Print SARIF 2.1.0 instead of text, which code hosts and editors show beside the lines.
    html
        Write a page for browsers into this file as well (NAME.html), which needs no other file.
    """
    from ..check.every import check_setup
    from ..check.finding import has_errors
    from ..render.plain import plain
    from ..vm.images import check_at_hand

    if explain is not None:
        return _explain(explain)
    if not vms:
        raise ConfigError("no VM file is given: stage2 check VM.toml... (or --explain S2301)")
    if json_output and sarif:
        raise ConfigError("--json and --sarif exclude one another: standard output has room for one of them")
    require_page(html)

    def look() -> list[Finding]:
        setup = _setup(vms, platform, host_dtb, hypervisor, cpu, arch, generation, define)
        return check_setup(setup, check_at_hand(setup.vms, setup.arch_of))

    findings = _mended(look) if fix else look()
    if html is not None:
        _write_page(html, findings, [*vms, *(file for file in (platform, host_dtb, hypervisor) if file is not None)])
    _print(findings, len(vms), "json" if json_output else "sarif" if sarif else "text")
    if html is not None:
        # Beside JSON nothing else may stand on standard output.
        stream = sys.stderr if json_output or sarif else sys.stdout
        print(f"The page is {plain(os.fspath(html))}", file=stream)
    return 1 if has_errors(findings) else 0


def _setup(
    vms: Sequence[Path],
    platform: Path | None,
    host_dtb: Path | None,
    hypervisor: Path | None,
    cpu: str | None,
    arch: str | None,
    generation: GenerationName | None,
    define: Sequence[str] | None,
) -> Setup:
    """The files, read and planned."""
    from ..check.setup import set_up
    from ..config.cpu import NamedCpu
    from .vm_files import load_machine, read_vms

    refused: list[ConfigError] = []
    host, tree = load_machine(platform, host_dtb)
    kernel = None if hypervisor is None else _open_hypervisor(hypervisor, host, arch)
    files = read_vms(vms, generation, define, tree, lenient=True, refuse=refused.append)
    named = None if cpu is None else NamedCpu(cpu)
    ready = partial(set_up, platform=host, tree=tree, arch=arch, cpu=named, hypervisor=kernel)
    setup = ready(files, refused=refused)
    undecided = [Path(vm.file) for vm in files if vm.is_undecided]
    if undecided:
        heads = read_vms(undecided, "head", define, tree, lenient=True, refuse=refused.append)
        by_file = {vm.file: vm for vm in heads}
        others = [by_file.get(vm.file) if vm.is_undecided else vm for vm in files]
        other = ready([vm for vm in others if vm is not None], refused=refused)
        setup = replace(setup, other=other)
    if named is not None:
        for wanted in dict.fromkeys(setup.arch_of(vm) for vm in files):
            named.require(wanted)
    return setup


def _open_hypervisor(
    file: Path, host: PlatformConfig | BoardConfig | None, arch: str | None
) -> tuple[Image, KernelLayout]:
    """The hypervisor's image, and where it lies; a board file tells nothing of that but the architecture."""
    from ..config.platform import PlatformConfig
    from ..hypervisor.layout import open_image

    if isinstance(host, PlatformConfig):
        return open_image(file, host if host.file is not None else None, arch=arch)
    return open_image(file, arch=arch or (None if host is None else host.arch))


_MOST_LOOKS = 8
"""Limit: how often files are mended and looked at again; what one edit reveals, the next one mends."""


def _mended(look: Callable[[], list[Finding]]) -> list[Finding]:
    """Make the edits of findings, and of those that come to light then; what is left is given back."""
    from ..check.fixes import fixed
    from ..render.plain import plain
    from ..whole_file import write_whole

    findings = look()
    for _ in range(_MOST_LOOKS):
        files = fixed(findings)
        for file in files:
            write_whole(Path(file.file), file.text)
            for edit in file.edits:
                print(f"stage2: {plain(str(edit.location))}: {plain(edit.told)}", file=sys.stderr)
        if not files:
            break
        findings = look()
    return findings


def _write_page(page: Path, findings: Sequence[Finding], checked: Sequence[Path]) -> None:
    """The page for browsers."""
    from ..render.findings_page import findings_page
    from ..whole_file import write_whole

    write_whole(page, findings_page(findings, [os.fspath(file) for file in checked]))


def _print(findings: Sequence[Finding], files: int, form: Literal["text", "json", "sarif"]) -> None:
    """What was found in so many VM files, on standard output."""
    from ..render.excerpt import render_excerpts
    from ..render.findings import finding_json
    from ..render.json_text import json_text
    from ..render.plain import counted
    from ..render.tables import print_renderable, text, text_width

    if form == "json":
        print(json_text("check", {"findings": [finding_json(finding) for finding in findings]}))
    elif form == "sarif":
        from ..render.sarif import sarif_text

        print(sarif_text(findings))
    elif findings:
        print_renderable(render_excerpts(findings, text_width(sys.stdout)))
    else:
        print_renderable(text(f"{counted(files, 'VM file')}: nothing is wrong."))


def _explain(code: str) -> int:
    """One rule in words, or the list of all."""
    from ..check.every import RULES, rule_of

    tell_rules(RULES if code == "list" else (rule_of(code),))
    return 0


def tell_rules(rules: Sequence[Rule]) -> None:
    """Print one rule in words, or the list of several."""
    from ..render.tables import facts, print_renderable, text

    if len(rules) == 1:
        (rule,) = rules
        print_renderable(text(f"{rule.severity} {rule.code}: {rule.title}\n\n{rule.why}"))
        return
    print_renderable(
        facts((rule.code, f"{rule.severity}: {rule.title}") for rule in sorted(rules, key=lambda rule: rule.code))
    )
