"""Writes docs/upstream-findings.md: what `stage2 check` finds in AxVisor's own files, and what `stage2 prove` says of
their tables; --check compares only.

The files are data beside the repository, as for tests/config/test_upstream_files.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from made_page import write_or_check

from stage2.check.every import rule_of
from stage2.cli.main import call
from stage2.vm.reasons import REFUTING

SHARED = Path(__file__).resolve().parents[2] / "shared"
FOLDERS = ("axvisor-configs/seed/vms", "axvisor-configs/head/vms", "axvisor-guest-configs")
PLATFORMS = {
    "x86_64": "x86_64-qemu-q35", "riscv64": "riscv64-qemu-virt", "a1000": "aarch64-bsta1000b-hv",
    "rk3588": "aarch64-rk3588j-hv", "aarch64": "aarch64-qemu-virt-hv",
}  # fmt: skip
"""The seed's platform of a VM file, by the first of these words in its name; head has no such files any more."""
TOGETHER = (
    ("axvisor-configs/seed/vms/linux-qemu-aarch64.toml", "axvisor-configs/seed/vms/linux-qemu-aarch64-vm2.toml"),
    ("axvisor-configs/head/vms/arceos-aarch64-qemu-smp1.toml", "axvisor-configs/head/vms/linux-aarch64-qemu-smp1.toml"),
    (
        "axvisor-configs/head/vms/arceos-aarch64-rk3568-smp1.toml",
        "axvisor-configs/head/vms/linux-aarch64-rk3568-smp1.toml",
    ),
)
"""Files of one machine, of which two are to run at once."""
TRUE = {
    "S2401": "AxVisor registers VMs by id; both files have the same.",
    "S2403": "Both have map_type 1 at one address, and at the seed the address is taken as it is: the second VM's "
    "allocation fails there with no more than a warning, and both write to the same memory.",
    "S2501": "The platform's RAM is what AxVisor's own allocator has; the VM's lies elsewhere, on boards with more.",
    "S2608": "Both name the registers, and nothing takes turns.",
    "S2611": "The seed and head map 0xfee0_0000 of the CPU into the guest: it drives the timer and the interrupts of "
    "the CPU that the hypervisor runs on.",
    "S2612": "Linux reads the FCH's registers on AMD's CPUs, and nothing is mapped there.",
    "S2613": "For guest_type \"passthrough\" the present format maps the window one to one first, and takes out what "
    "the hypervisor plays.",
    "S2614": "interrupt_mode is no_irq where a file leaves it out.",
    "S2702": "The entry \"most-devices\" is everything below the RAM, and the platform has its PCI host there.",
    "S2733": "The path is resolved on the board, by a tree that is not among these files.",
    "S2901": "Each says what it is about: keys that nobody reads, memory that moves since head, addresses that the "
    "board chooses, and oddities of the platforms' own lists.",
    "S2903": "The device bit (0x10) is in the flags, and AxVisor leaves such a region out.",
    "S2907": "The key is one of another generation.",
    "S2909": "Nothing in the file is of one generation alone; these are the seed's, and are read so.",
    "S2921": "The line has both; the number is what counts.",
    "S2922": "The comment is there and does nothing.",
    "S2923": "The line has both; the number is what counts.",
    "S2924": "AxVisor's loader knows \"memory\" and \"fs\" and panics without either.",
    "S2925": "The kernel's name and its devices are the other architecture's: the file is a copy.",
    "S2926": "Both numbers are in the file: the RTC's key has QEMU's address (0x901_0000), the list another, or a "
    "board's file was made from another's.",
    "S2310": "Both keys have one path; the comment beside the second speaks of a BIOS.",
}  # fmt: skip
"""Why findings of a rule are true of these files."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the command."""

    files: tuple[str, ...]
    options: tuple[str, ...]
    findings: tuple[dict[str, Any], ...]


def platform_of(file: str) -> tuple[str, ...]:
    """The options that name a seed file's platform; none for the others."""
    if "/seed/" not in file:
        return ()
    name = Path(file).name
    board = next(board for word, board in PLATFORMS.items() if word in name)
    return ("--platform", f"axvisor-configs/seed/platforms/{board}.toml")


def run(files: tuple[str, ...]) -> Run:
    """Check files, with their platform where they have one."""
    options, out, err = platform_of(files[0]), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call(["check", "--json", *options, *files])
    if code == 2:
        raise SystemExit(f"{files}: {err.getvalue()}")
    found = json.loads(out.getvalue())["findings"]
    # That images are not beside the files says nothing of the files.
    return Run(files, options, tuple(finding for finding in found if finding["code"] != "S2210"))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `stage2 prove` says of files.

    Args:
        files: they.
        refuted: the theorems that do not hold, as JSON has them; None where it is bad input.
        problem: why it is bad input.
    """

    files: tuple[str, ...]
    refuted: tuple[dict[str, Any], ...] | None
    problem: str = ""


def architecture_of(file: str) -> str:
    """The architecture in a file's name; the few without one are Arm's."""
    return next((arch for arch in ("x86_64", "riscv64") if arch in Path(file).name), "aarch64")


def prove(files: tuple[str, ...]) -> Verdict:
    """Prove files, with their platform where they have one."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call(["prove", "--json", "--arch", architecture_of(files[0]), *platform_of(files[0]), *files])
    if code == 2:
        (error,) = (line for line in err.getvalue().splitlines() if line.startswith("stage2: error: "))
        return Verdict(files, None, error.removeprefix("stage2: error: "))
    theorems = json.loads(out.getvalue())["theorems"]
    return Verdict(files, tuple(theorem for theorem in theorems if theorem["holds"] is False))


def short(path: str) -> str:
    """A file's name in the page."""
    return path.removeprefix("axvisor-configs/")


def place(finding: dict[str, Any]) -> str:
    """The first place of a finding."""
    where = finding["locations"][0] if finding["locations"] else {"file": "", "line": None}
    return f"{short(where['file'])}:{where['line']}" if where["line"] else short(where["file"])


def page() -> str:
    """The whole text."""
    before = Path.cwd()
    os.chdir(SHARED)
    try:
        files = [f"{folder}/{path.name}" for folder in FOLDERS for path in sorted(Path(folder).glob("*.toml"))]
        alone = [run((file,)) for file in files]
        together = [run(pair) for pair in TOGETHER]
        verdicts = [(prove(one.files), one) for one in (*alone, *together)]
    finally:
        os.chdir(before)
    parts = (opening(alone), summary(alone), details(alone), pairs(together), proofs(verdicts))
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def opening(alone: list[Run]) -> list[str]:
    """What was done."""
    clean = [short(one.files[0]) for one in alone if not one.findings]
    return [
        "# What `stage2 check` and `stage2 prove` find in AxVisor's own files",
        "",
        f"The {len(alone)} VM files of AxVisor's seed and head, and of its present format, each checked alone: the",
        "seed's with the platform file they belong to (`--platform`), the others with nothing, for they have none.",
        "Errors stop a VM, warnings may not be meant, notes are worth knowing. What images would tell is not among",
        "this: they are not at hand. Made by `python scripts/upstream_docs.py`; [checks.md](checks.md) has the rules.",
        "",
        f"Nothing at all is found in: {', '.join(f'`{name}`' for name in clean) or 'none'}.",
        "",
    ]


def by_rule(runs: list[Run]) -> dict[str, list[dict[str, Any]]]:
    """Findings by code."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in runs:
        for finding in one.findings:
            found[finding["code"]].append(finding)
    return dict(sorted(found.items()))


def summary(alone: list[Run]) -> list[str]:
    """A table of rules."""
    lines = ["| rule | severity | findings | files | what |", "|---|---|---|---|---|"]
    for code, findings in by_rule(alone).items():
        files = {finding["locations"][0]["file"] for finding in findings if finding["locations"]}
        severity, title = findings[0]["severity"], rule_of(code).title
        lines.append(f"| [{code}](#{code.lower()}) | {severity} | {len(findings)} | {len(files)} | {title} |")
    return [*lines, ""]


def headline(code: str) -> str:
    """A rule's title as a sentence's beginning."""
    title = rule_of(code).title
    return title[0].upper() + title[1:]


def details(alone: list[Run]) -> list[str]:
    """Every finding, those with the same words together."""
    lines = []
    for code, findings in by_rule(alone).items():
        lines += [f"## {code}", "", f"{headline(code)}. {TRUE[code]}", ""]
        same: dict[str, list[str]] = defaultdict(list)
        for finding in findings:
            same[finding["message"].replace("axvisor-configs/", "")].append(place(finding))
        for message, places in same.items():
            where = list(dict.fromkeys(places))
            lines.append(f"* {message}")
            lines += [f"  * `{one}`" for one in where]
        lines.append("")
    return lines


def pairs(together: list[Run]) -> list[str]:
    """What files of one machine say of each other."""
    lines = ["## Files of one machine, checked together", ""]
    for one in together:
        lines += [f"`{'`, `'.join(short(file) for file in one.files)}`:", ""]
        errors = [finding for finding in one.findings if finding["severity"] == "error"]
        lines += [f"* {finding['code']}: {finding['message'].replace('axvisor-configs/', '')}" for finding in errors]
        lines += [] if errors else ["* no error"]
        lines.append("")
    return lines


def require_agreement(verdict: Verdict, checked: Run) -> None:
    """End where prover and checker disagree: one of them is wrong, and no page is to hide it."""
    told = {finding["code"] for finding in checked.findings} & {code for codes in REFUTING.values() for code in codes}
    refuted = bool(verdict.refuted)
    unexplained = any(not theorem["reasons"] for theorem in verdict.refuted or ())
    if verdict.refuted is not None and (refuted != bool(told) or unexplained):
        names = {theorem["name"]: theorem["reasons"] for theorem in verdict.refuted}
        raise SystemExit(f"{verdict.files}: `prove` refutes {names}, and `check` says {sorted(told)}")


def proofs(verdicts: list[tuple[Verdict, Run]]) -> list[str]:
    """What `stage2 prove` says, beside what `stage2 check` said."""
    for pair in verdicts:
        require_agreement(*pair)
    refuted = sum(bool(one.refuted) for one, _ in verdicts)
    bad = sum(one.refuted is None for one, _ in verdicts)
    lines = [
        "## What `stage2 prove` says of their tables",
        "",
        "`check` judges what files declare, [`prove`](prove.md) the tables that they become. The seed's files have",
        "their platform, the others their architecture and a host that is assumed to be large enough; where the",
        "host's device tree is not at hand, its nodes are in nobody's tables. What a file declares and cannot have is",
        "mapped all the same, so that the tables show it.",
        "",
        f"Of {len(verdicts)} runs {len(verdicts) - refuted - bad} are proved, {refuted} refuted, each for what `check` "
        f"says too, and {bad} is of VMs",
        "that could never run together.",
        "",
        "| files | verdict | witness | `check` says |",
        "|---|---|---|---|",
    ]
    for one, checked in verdicts:
        names = ", ".join(f"`{short(file)}`" for file in one.files)
        if one.refuted is None:
            problem = one.problem.replace("axvisor-configs/", "")
            errors = dict.fromkeys(each["code"] for each in checked.findings if each["severity"] == "error")
            lines.append(f"| {names} | bad input | {problem} | {', '.join(errors)} |")
            continue
        if not one.refuted:
            lines.append(f"| {names} | proved | | |")
        for theorem in one.refuted:
            codes = dict.fromkeys(reason["code"] for reason in theorem["reasons"])
            links = ", ".join(codes)
            witness = theorem["witness"]["problem"]
            lines.append(f"| {names} | refuted: `{theorem['name']}` | {witness} | {links} |")
    return [*lines, ""]


if __name__ == "__main__":
    if not SHARED.is_dir():
        raise SystemExit("AxVisor's files are not beside the repository")
    raise SystemExit(
        write_or_check("upstream-findings.md", page(), "upstream_docs.py", "AxVisor's files and the rules")
    )
