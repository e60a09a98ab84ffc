"""Compiled kernels are never stale, and a second process does not compile again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stage2
from stage2.formats import by_name
from stage2.formats.riscv import entry
from stage2.tables import compiled, kernel_cache
from stage2.tables.two_stage_kernel import one_by_one

PROBE = """
import json, sys
import stage2
from stage2.address import SIZE_4K, Hpa, Range
from stage2.flags import MappingFlags
from stage2.formats import by_name
from stage2.memory.physical import PhysicalMemory
from stage2.tables.batch import translate_batch, translate_kernel
from stage2.tables.compiled import compile_at_once, host_memory
from stage2.tables.explain import explain_stage
from stage2.tables.regime import Regime

compile_at_once()
fmt = by_name("sv39x4")
with PhysicalMemory([Range(0x8000_0000, 0x8001_0000)]) as memory:
    memory.store_u64(Hpa(0x8000_0000 + 8 * 3), fmt.leaf_entry(2, 0x4000_0000, MappingFlags.READ))
    regime = Regime.of(fmt, 0x8000_0000)
    batch = translate_batch(host_memory(memory), regime, [0xC000_0123])
    explained = explain_stage(memory, regime, 0xC000_0123).result
    stats = translate_kernel(fmt).compiled.stats
    json.dump({"package": stage2.__file__, "batch": int(batch.hpa[0]), "explained": int(explained.hpa),
               "hits": sum(stats.cache_hits.values()), "misses": sum(stats.cache_misses.values())}, sys.stdout)
"""
RULE = "    address = (entry & u64(PPN_FIELD)) << u64(2)\n"
EDITED = "    address = (entry & u64(PPN_FIELD)) << u64(2) | u64(1 << 50)\n"


def probe(home: Path) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(home), "STAGE2_CACHE": str(home / "cache")}
    # The first process compiles the sources, the others load their bytecode: names that were one object are two there.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert Path(answer["package"]).is_relative_to(home), "the copy was not what ran"
    return answer


def test_an_edited_decode_runs_at_once_and_a_second_process_starts_from_the_cache(tmp_path: Path) -> None:
    package = Path(stage2.__file__).parent
    shutil.copytree(package, tmp_path / "stage2", ignore=shutil.ignore_patterns("__pycache__"))
    first, second = probe(tmp_path), probe(tmp_path)
    assert (first["hits"], first["misses"]) == (0, 1)
    assert (second["hits"], second["misses"]) == (1, 0)
    assert first["batch"] == first["explained"] == second["batch"] == 0x4000_0123

    file = tmp_path / "stage2" / Path(entry.__file__).relative_to(package)
    source, times = file.read_text(), file.stat()
    assert source.count(RULE) == 1
    file.write_text(source.replace(RULE, EDITED))
    # Not even a file system without fine time stamps may hide the edit.
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    edited, again = probe(tmp_path), probe(tmp_path)
    assert edited["batch"] == edited["explained"] == again["batch"] == 0x4000_0123 | 1 << 50
    assert (edited["hits"], edited["misses"]) == (0, 1)
    assert (again["hits"], again["misses"]) == (1, 0)

    file.write_text(source)
    restored = probe(tmp_path)
    assert restored["batch"] == restored["explained"] == 0x4000_0123
    assert (restored["hits"], restored["misses"]) == (1, 0), "the old kernels are still good for the old source"


def test_caches_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STAGE2_CACHE", str(tmp_path / "own"))
    assert kernel_cache.cache_root() == tmp_path / "own" / "kernels"
    monkeypatch.delenv("STAGE2_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernel_cache.cache_root() == tmp_path / "stage2" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kernel_cache.cache_root() == tmp_path / ".cache" / "stage2" / "kernels"


def test_a_format_from_outside_the_package_has_a_cache_of_its_own() -> None:
    known = by_name("sv39x4")
    folders = set()
    for number in (1, 2):
        space: dict[str, Any] = {}
        exec(compile(f"def mark(entry, write, controls):\n    return entry + {number}\n", f"<{number}>", "exec"), space)
        folders.add(
            kernel_cache.cache_folder(compiled.keep_marks_back, (known.with_rules("changed", mark=space["mark"]),))
        )
    folders.add(kernel_cache.cache_folder(compiled.keep_marks_back, (known,)))
    assert len(folders) == 3


def test_kernels_that_differ_in_what_they_were_made_from_have_folders_of_their_own() -> None:
    pair = by_name("sv39"), by_name("sv39x4")
    with_marks, without = (one_by_one(*pair, keep) for keep in (compiled.store, compiled.keep_marks_back))
    assert kernel_cache.cache_folder(with_marks, pair) != kernel_cache.cache_folder(without, pair)


def test_old_caches_are_forgotten_but_for_a_few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for age in range(10):
        folder = tmp_path / f"{age}"
        folder.mkdir()
        os.utime(folder, (1000 - age, 1000 - age))
    kernel_cache._forget_old_caches(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["0", "1", "2", "3"]
    kernel_cache._forget_old_caches(tmp_path / "missing")


@pytest.mark.parametrize("code", ["import stage2", "import stage2.formats, stage2.formats.riscv.formats"])
def test_importing_the_package_or_its_formats_loads_neither_numba_nor_numpy(code: str) -> None:
    check = f"{code}\nimport sys\nassert not {{'numba', 'numpy'}} & set(sys.modules), sorted(sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
