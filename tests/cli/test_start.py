"""How commands start: what they import, what they compile, and what they say of it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from waiting import HANG_S, said_until_closed

VM = Path(__file__).resolve().parents[2] / "src/stage2/vm/guests/demo-riscv64.toml"
COUNT = """
from numba.core import event
from stage2.tables.compiled import numba

compiled = []
class Listener(event.Listener):
    def on_start(self, event):
        compiled.append(event)
    def on_end(self, event):
        pass
numba()
event.register("numba:compile", Listener())
"""
"""Lets a process count the functions that it compiles from then on."""
ASK = (
    COUNT
    + """
import sys
from stage2.address import Hpa, Range
from stage2.formats import by_name
from stage2.memory.physical import PhysicalMemory
from stage2.tables.batch import translate_batch
from stage2.tables.compiled import compile_at_once, host_memory
from stage2.tables.explain import explain_stage
from stage2.tables.regime import Regime
from stage2.flags import MappingFlags
compile_at_once()
answers = []
for name in sys.argv[1:]:
    fmt = by_name(name)
    with PhysicalMemory([Range(0x8000_0000, 0x8010_0000)]) as memory:
        for level in range(fmt.levels - 1, 0, -1):
            entry = fmt.table_entry(0x8000_8000 + 0x4000 * (fmt.levels - level), 0)
            memory.store_u64(Hpa(0x8000_8000 + 0x4000 * (fmt.levels - 1 - level)), entry)
        leaf = fmt.leaf_entry(0, 0x8008_0000, MappingFlags.READ)
        memory.store_u64(Hpa(0x8000_8000 + 0x4000 * (fmt.levels - 1)), leaf)
        regime = Regime.of(fmt, 0x8000_8000)
        batch = translate_batch(host_memory(memory), regime, [0x123])
        explained = explain_stage(memory, regime, 0x123).result
        assert int(batch.hpa[0]) == explained.hpa == 0x8008_0123, (name, batch, explained)
print(len(compiled))
"""
)
"""Translates by compiled kernels, checks against the explained walk, and prints how many functions were compiled."""


def environment(cache: Path) -> dict[str, str]:
    return os.environ | {"STAGE2_CACHE": str(cache)}


def ask(cache: Path, *formats: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ASK, *formats]
    return subprocess.Popen(command, env=environment(cache), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(functions that were compiled, what was said on standard error)."""
    out, said = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, said
    return int(out), said


@pytest.mark.parametrize("line", [["show", VM], ["walk", VM, "--gpa", "0x8000_0000"], ["build", VM, "-o", "built"]])
@pytest.mark.parametrize("size", ["auto", "4k"])
def test_commands_that_look_at_tables_import_no_compiler(line: list[str | Path], size: str, tmp_path: Path) -> None:
    words = [str(word) for word in line] + ([] if line[0] == "show" else ["--page-size", size])
    code = (
        f"from stage2.cli.main import call\nassert call({words!r}) == 0\nimport sys\nassert 'numba' not in sys.modules"
    )
    cache = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(cache), cwd=tmp_path, capture_output=True, text=True,
        timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not cache.exists(), "small work left something in the cache of kernels"


@pytest.mark.parametrize("line", [["--help"], ["-h"], ["--version"], []])
def test_the_overview_needs_no_parser_of_command_lines(line: list[str]) -> None:
    code = f"from stage2.cli.main import call\nassert call({line!r}) == 0\nimport sys\n" + (
        "assert not {'cyclopts', 'rich', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=HANG_S, check=True)


@pytest.mark.kernels
def test_two_processes_share_an_empty_cache_and_a_third_compiles_nothing(tmp_path: Path) -> None:
    # The same kernel for one format twice, and for another: numba numbers its files by what it finds there.
    both = [ask(tmp_path, "sv39x4"), ask(tmp_path, "sv39x4", "ept4")]
    for process in both:
        answer(process)
    compiled, said = answer(ask(tmp_path, "ept4", "sv39x4"))
    assert (compiled, said) == (0, "")


@pytest.mark.kernels
def test_a_cache_that_cannot_be_written_costs_one_line(tmp_path: Path) -> None:
    blocker = tmp_path / "cache"
    blocker.write_text("a file where the folder should be")
    compiled, said = answer(ask(blocker, "sv39x4", "ept4"))
    assert compiled > 0
    assert said.count("\n") == 1
    assert f"cannot be kept in {blocker}/kernels" in said
    assert "$STAGE2_CACHE" in said
    assert not list(Path(__file__).resolve().parents[2].glob("src/**/*.nbi")), "kernels were kept beside the sources"


@pytest.mark.kernels
def test_compiling_is_told_on_a_terminal_and_loading_is_not(tmp_path: Path) -> None:
    def on_a_terminal() -> str:
        ours, theirs = pty.openpty()
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", ASK, "sv39x4"],
                env=environment(tmp_path),
                stdout=subprocess.DEVNULL,
                stderr=theirs,
            )
            os.close(theirs)
            said = said_until_closed(ours)
            assert process.wait(timeout=HANG_S) == 0
        finally:
            os.close(ours)
        return said.decode()

    first = on_a_terminal()
    assert first.startswith(f"stage2: compiling kernels (once; kept in {tmp_path}/kernels)")
    assert "translate for sv39x4: 3 functions" in first
    assert first.endswith("\r\x1b[K"), "the line of progress stayed"
    assert on_a_terminal() == ""
