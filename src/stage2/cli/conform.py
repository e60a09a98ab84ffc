"""`stage2 conform`: our walker against MMUs that others wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import ConfigError, HostToolError, MachineError


def conform(
    *,
    oracle: Annotated[list[str] | None, Parameter(negative="")] = None,
    cases: int | None = None,
    seed: int = 1,
    format_name: Annotated[list[str] | None, Parameter(name="--format", negative="")] = None,
    long: Annotated[bool, Parameter(negative="")] = False,
    plant: str | None = None,
    report: Path | None = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Compare our walker with the MMUs of QEMU and Bochs on random tables.

    Exit code 0: nothing is unexplained; 1: something is; 2: bad input, or an emulator is missing or does not start.

    Parameters
    ----------
    oracle
        qemu-aarch64, qemu-riscv64, qemu-x86-svm or bochs-ept; may be given several times. All by default.
    cases
        Accesses and translations to judge, for each oracle. A short form by default.
    seed
        Of the first batch of tables. The same seed makes the same tables.
    format_name
        Only pairs with this format (sv39x4), or a pair as reports name it ("sv39 over sv39x4").
    long
        The long form: two million for QEMU's AArch64 and RISC-V, a million for x86 NPT, 100,000 for EPT.
    plant
        Plant an error in our walker, to see that it is found: writable, address, reserved, hole.
    report
        Write the page for the documentation to this file.
    json_output
        Print JSON instead of text.
    """
    from ..conform.oracles import by_name, names
    from ..conform.plant import plant as planted
    from ..conform.run import LONG, SHORT, OracleReport, chosen_pairs, run
    from ..render.conform import render_reports, report_json, report_markdown
    from ..render.tables import print_renderable

    if cases is not None and cases < 1:
        raise ConfigError(f"--cases {cases}: at least one case is needed")
    if seed < 0:
        raise ConfigError(f"--seed {seed}: a seed is not negative")
    chosen = [by_name(name) for name in oracle or names()]
    put = planted(plant) if plant is not None else (lambda fmt: fmt)
    wanted = format_name or []
    work = []
    for found in chosen:
        try:
            work.append((found, chosen_pairs(found, wanted)))
        except ConfigError:
            # Several judges: those that do not know the format have nothing to do.
            if len(chosen) == 1:
                raise
    if not work:
        known = ", ".join(pair.name for found in chosen for pair in found.pairs)
        raise ConfigError(f"--format {', '.join(wanted)}: no oracle judges that; they judge {known}")

    def progress(done: OracleReport) -> None:
        if sys.stderr.isatty():
            print(f"\r{done.oracle}: {done.verdict.cases:,} cases", end="", file=sys.stderr, flush=True)

    reports, missing = [], False
    for found, pairs in work:
        count = cases if cases is not None else (LONG if long else SHORT)[found.kind]
        try:
            reports.append(run(found, cases=count, seed=seed, pairs=pairs, planted=put, progress=progress))
        except (HostToolError, MachineError) as error:
            missing = True
            print(f"stage2: {found.name}: {error}", file=sys.stderr)
        finally:
            if sys.stderr.isatty():
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if report is not None and reports:
        try:
            report.write_text(report_markdown(reports, seed), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--report {report}: {error.strerror}") from None
    if json_output:
        print(json.dumps(report_json(reports), indent=2))
    elif reports:
        print_renderable(render_reports(reports))
    if any(found.mismatches for found in reports):
        return 1
    return 2 if missing else 0
