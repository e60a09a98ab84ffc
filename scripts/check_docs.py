"""Write docs/checks.md out of the rules of `stage2 check` and the faults that the tests keep; --check: compare only."""

from __future__ import annotations

import tomllib
from pathlib import Path

from made_page import write_or_check

from stage2.check.every import RULES
from stage2.check.finding import Rule

ROOT = Path(__file__).parents[1]
FAULTS = ROOT / "tests" / "check" / "faults"
OPENING = """\
# Checks

`stage2 check [--platform P] [--host-dtb F] [--hypervisor ELF] [--cpu C] VM.toml...` finds what is wrong with VM files
that are to run together, without a running machine. Each finding has the code of a rule, the lines it is about, what
happens on the board and what to do. `--json` is for programs ([json.md](json.md)), `--sarif` for code hosts and
editors, `--html page.html` for browsers; `--explain S2301` tells of one rule.

* Exit code 0: no finding is an error. 1: one is. 2: a file cannot be read, or is no VM file.
* `# stage2: allow S2301 reason` on the line, or on the line above it, keeps a finding quiet if it gives a reason.
  Of a finding about several places, one is enough. A comment that allows nothing is told of (S2922).
* `--fix` writes what a finding says to write, where one value mends it, and tells what is left. Comments, order and
  line ends stay as they are; a file is changed whole or not at all.
* `--sarif` prints SARIF 2.1.0: `stage2 check VM.toml... --sarif > check.sarif`. Paths are relative to the folder that
  the command runs in (`%SRCROOT%`), so run it where the repository begins. Columns count characters; a fingerprint is
  made of what the lines say and stays when they move; `fixes` has what `--fix` would write.
* `--html page.html` writes one file that loads nothing from elsewhere, beside text, `--json` or `--sarif`. Without
  scripts it shows everything; with them findings can be filtered by severity, file, rule and text.
* Without `--platform` or `--host-dtb` nothing is known of the host, and the rules about it find nothing.
* Without `--hypervisor` the place of the hypervisor is computed from the platform (S2109 to S2111); the other rules
  S21xx need its ELF file, and are told by `stage2 layout` too.
* Images that the files name are read where they are at hand (S22xx, told by `show` and `run` too); S2210 names the
  rest.

What it finds in AxVisor's own files: [upstream-findings.md](upstream-findings.md).

This page is made of the rules by `python scripts/check_docs.py`.
"""
GROUPS = {
    "S21": "The hypervisor's own kernel",
    "S22": "Images and device trees of guests",
    "S23": "One VM's memory",
    "S24": "Several VMs",
    "S25": "VMs and the host's memory",
    "S26": "Devices",
    "S27": "Devices that master memory",
    "S28": "CPUs",
    "S29": "Keys and generations",
}


def example(rule: Rule) -> str:
    """What it says of the fault that the tests keep; empty where there is none."""
    for folder in sorted(FAULTS.glob(f"{rule.code}-*")):
        found: str = tomllib.loads((folder / "expected.toml").read_text())["message"]
        return f"\n    {rule.code}: {found}\n"
    return ""


def page() -> str:
    """The whole text."""
    parts = [OPENING]
    rules = sorted(RULES, key=lambda rule: rule.code)
    for group, title in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [
            f"### {rule.code}: {rule.title}\n\n*{rule.severity}.* {rule.why}\n{example(rule)}"
            for rule in rules
            if rule.code.startswith(group)
        ]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    raise SystemExit(write_or_check("checks.md", page(), "check_docs.py", "the rules"))
