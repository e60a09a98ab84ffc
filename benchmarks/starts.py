"""How long commands take to start: with an empty kernel cache, and with a warm one beside a bare `import numpy`.

Whole processes, in turns; the figures are what the operating system says of each: wall clock, user and system time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
VM = HERE / "src/stage2/vm/guests/demo-riscv64.toml"
STAGE2 = (sys.executable, "-c", "from stage2.cli.main import main; main()")
COMMANDS: dict[str, tuple[str, ...]] = {
    "--help": ("--help",),
    "show": ("show", str(VM)),
    "walk": ("walk", str(VM), "--gpa", "0x8000_0000"),
    "build": ("build", str(VM), "--output", "{folder}/built"),
}
COLD: dict[str, tuple[str, ...]] = {"demo": ("demo",), "walk": COMMANDS["walk"], "build": COMMANDS["build"]}
WARM_GOALS = {"--help": 1.0, "show": 1.2, "walk": 2.0, "build": 2.0}
COLD_GOALS_S = {"demo": 4.0, "walk": 1.0, "build": 1.0}


@dataclass(frozen=True, slots=True)
class Start:
    """How long a command took.

    Args:
        name: the command.
        wall_s, cpu_s: medians, seconds of wall clock and of user and system time.
        ratio: wall clock over that of `import numpy`, median of the pairs; None for a cold start.
        cpu_ratio: the same of user and system time.
        goal: what is aimed at, seconds for a cold start, else the ratio.
        runs: how many.
    """

    name: str
    wall_s: float
    cpu_s: float
    ratio: float | None
    cpu_ratio: float | None
    goal: float
    runs: int


Times = tuple[float, float]
"""(wall clock, user and system time) of one process, seconds."""


def beside(name: str, pairs: Sequence[tuple[Times, Times]], goal: float) -> Start:
    """A command that ran in turns with `import numpy`.

    Args:
        name: the command.
        pairs: its times, and the other's right after.
        goal: as in `Start`.
    """
    return Start(
        name,
        statistics.median(own[0] for own, _ in pairs),
        statistics.median(own[1] for own, _ in pairs),
        statistics.median(own[0] / bare[0] for own, bare in pairs),
        statistics.median(own[1] / bare[1] for own, bare in pairs),
        goal,
        len(pairs),
    )


def users_environment() -> dict[str, str]:
    """This environment, with bytecode kept: else every start would compile our modules anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(command: Sequence[str], folder: Path, cache: Path) -> Times:
    """(wall clock, user and system time) of one process, seconds.

    Raises:
        SystemExit: it failed.
    """
    environment = users_environment() | {"STAGE2_CACHE": str(cache)}
    words = [word.format(folder=folder) if "{" in word and "\n" not in word else word for word in command]
    began = time.perf_counter()
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder)
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words[-4:])} failed: {told.decode(errors='replace')[-400:]}")
    return wall, usage.ru_utime + usage.ru_stime


def cold_starts(runs: int) -> list[Start]:
    """Commands with an empty kernel cache each time."""
    found = []
    for name, arguments in COLD.items():
        walls, cpus = [], []
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as folder:
                wall, cpu = run((*STAGE2, *arguments), Path(folder), Path(folder) / "cache")
            walls.append(wall)
            cpus.append(cpu)
        goal = COLD_GOALS_S[name]
        found.append(Start(name, statistics.median(walls), statistics.median(cpus), None, None, goal, runs))
    return found


def warm_starts(runs: int) -> list[Start]:
    """Commands whose kernels were compiled before, beside `import numpy` in turns."""
    found = []
    numpy = (sys.executable, "-c", "import numpy")
    with tempfile.TemporaryDirectory() as held:
        folder, cache = Path(held), Path(held) / "cache"
        for name, arguments in COMMANDS.items():
            command = (*STAGE2, *arguments)
            run(command, folder, cache)
            pairs = [(run(command, folder, cache), run(numpy, folder, cache)) for _ in range(runs)]
            found.append(beside(name, pairs, WARM_GOALS[name]))
    return found
