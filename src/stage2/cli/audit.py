"""`stage2 audit`: what is dangerous in the tables of a memory, whoever wrote them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ..errors import ConfigError
from .memory import Base, RegisterValues, Roots, inspected
from .page import require_page

if TYPE_CHECKING:
    from ..inspect.audit.every import Audit


def audit(
    source: Annotated[str | None, Parameter(name="SOURCE", show_default=False)] = None,
    /,
    *,
    root: Roots = None,
    register: RegisterValues = None,
    base: Base = None,
    explain: str | None = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
    sarif: Annotated[bool, Parameter(negative="")] = False,
    html: Path | None = None,
) -> int:
    """Find what is dangerous in the tables of a memory, whoever wrote them: memory that is writable and executable,
    tables and code that those they confine can reach, guests that reach each other.

    Exit code 0: no finding is an error; 1: one is; 2: bad input.

    Parameters
    ----------
    source
        An ELF core, a LiME or AVML dump, a raw image (with --base), a folder of `stage2 build`, a snapshot, a VM file,
        or a running QEMU: qmp:SOCKET, gdb:SOCKET or both with a comma between.
    root
        FORMAT@ADDRESS[,control=value], of as many VMs as there are; of a guest's own tables STAGE1@GPA/STAGE2@HPA.
        Without it all roots that registers and source tell, and those that a search for roots finds besides.
    explain
        Tell of one rule, by its code (S3001), and look at nothing; "list" names all.
    json_output
        Print JSON instead of text.
    sarif
        Print SARIF 2.1.0 instead of text.
    html
        Write a page for browsers into this file as well (NAME.html), which needs no other file.
    """
    from ..render.plain import plain

    if explain is not None:
        return _explain(explain)
    if source is None:
        raise ConfigError("no memory is given: stage2 audit SOURCE (or --explain S3001)")
    if json_output and sarif:
        raise ConfigError("--json and --sarif exclude one another: standard output has room for one of them")
    require_page(html)
    with inspected(source, None, register, base) as memory:
        found = memory.audit(root or ())
        if html is not None:
            from ..render.audit_page import audit_page
            from ..whole_file import write_whole

            write_whole(html, audit_page(found))
        _print(found, "json" if json_output else "sarif" if sarif else "text")
    if html is not None:
        # Beside JSON nothing else may stand on standard output.
        stream = sys.stderr if json_output or sarif else sys.stdout
        print(f"The page is {plain(os.fspath(html))}", file=stream)
    return 1 if found.has_errors else 0


def _print(found: Audit, form: Literal["text", "json", "sarif"]) -> None:
    from ..render.audit import audit_json, render_audit
    from ..render.json_text import json_text
    from ..render.tables import print_renderable

    if form == "json":
        print(json_text("audit", audit_json(found)))
    elif form == "sarif":
        from ..render.sarif import sarif_text

        print(sarif_text(found.findings))
    else:
        print_renderable(render_audit(found))


def _explain(code: str) -> int:
    """One rule in words, or the list of all."""
    from ..inspect.audit.every import RULES, rule_of
    from .check import tell_rules

    tell_rules(RULES if code == "list" else (rule_of(code),))
    return 0
