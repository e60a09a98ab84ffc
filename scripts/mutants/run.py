"""Tries the mutants that `draw` drew: each should make a test fail. See docs/testing.md.

A mutant lives in memory only: a forked child imports the mutated source in place of the file, runs the tests that
call the mutated function, the quickest first, and stops at the first that fails. Where the rules are compiled numba
cannot be imported there, so that nothing runs from machine code of the true source, and none of a mutant is kept.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import json
import os
import resource
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from rules import RULES, Rules

SECONDS = 240
"""Of the CPU for one mutant; all the tests together take less. Who needs more is caught in a loop."""
BYTES = 8 << 30
KILLED, SURVIVED, TIMEOUT = "killed", "survived", "timeout"


@dataclass
class Suite:
    """What the true source did: seconds and functions (file, first line) of each test that passed."""

    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    on_import: set[tuple[str, int]] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)


class Recorder:
    """Notes which functions of the rules each test calls."""

    def __init__(self, rules: Rules) -> None:
        self.folders = [Path(folder).resolve() for folder in rules.folders]
        self.suite = Suite()
        self.called = self.suite.on_import
        self.files: dict[str, str | None] = {}

    def trace(self, frame: FrameType, *_: Any) -> None:
        """Called at every call, and for nothing in it: a profiler would be told of every C function, too."""
        name = frame.f_code.co_filename
        if name not in self.files:
            path = Path(name).resolve()
            self.files[name] = str(path) if path.parent in self.folders else None
        found = self.files[name]
        if found is not None:
            self.called.add((found, frame.f_code.co_firstlineno))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.called = self.suite.calls[nodeid] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.suite.seconds[report.nodeid] = self.suite.seconds.get(report.nodeid, 0) + report.duration
        if not report.passed and report.nodeid not in self.suite.failed:
            self.suite.failed.append(report.nodeid)


class Chosen:
    """Runs the tests given, in their order, and keeps the name of the first that fails."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {test: at for at, test in enumerate(tests)}
        self.killer = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.place), key=lambda i: self.place[i.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.killer:
            self.killer = report.nodeid


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module in a text instead of its file."""

    def __init__(self, path: Path, source: str) -> None:
        parts = path.relative_to("src").with_suffix("").parts
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.path, self.source = path.resolve(), source

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        package = self.path.name == "__init__.py"
        spec = importlib.machinery.ModuleSpec(name, self, origin=str(self.path), is_package=package)
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [str(self.path.parent)]
        return spec

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def pytest_run(rules: Rules, files: list[str], plugin: object, *options: str) -> int:
    """Runs tests in this process: always the same examples, and no file left behind."""
    settings.register_profile(
        "mutants",
        database=None,
        deadline=None,
        max_examples=rules.examples,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    given = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile=mutants", "--tb=no"]
    given += ["-W", "ignore::pytest.PytestAssertRewriteWarning", *options]
    return int(pytest.main([*given, *files], plugins=[plugin]))


def forked(work: Callable[[], Any]) -> tuple[int, int]:
    """(pid, descriptor) of a child that writes what `work` gives as JSON."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    try:
        os.close(read)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        answer = json.dumps(work()).encode()
        while answer:
            answer = answer[os.write(write, answer) :]
    finally:
        os._exit(0)


def answer_of(descriptor: int) -> Any:
    """What a child wrote, and None if it ended before."""
    with os.fdopen(descriptor, "rb") as stream:
        text = stream.read()
    return json.loads(text) if text else None


def record(rules: Rules) -> Suite:
    """Runs all tests on the true source."""

    def work() -> Any:
        recorder = Recorder(rules)
        sys.settrace(recorder.trace)
        pytest_run(rules, list(rules.tests), recorder)
        sys.settrace(None)
        suite = recorder.suite
        calls = {test: sorted(called) for test, called in suite.calls.items()}
        return [suite.seconds, calls, sorted(suite.on_import), suite.failed]

    pid, descriptor = forked(work)
    answer = answer_of(descriptor)
    os.waitpid(pid, 0)
    if answer is None or not answer[0]:
        sys.exit("the tests did not end on the true source")
    seconds, calls, on_import, failed = answer
    as_sets = {test: {(path, line) for path, line in called} for test, called in calls.items()}
    return Suite(seconds, as_sets, {(path, line) for path, line in on_import}, failed)


def tests_of(mutant: dict[str, Any], suite: Suite) -> list[str]:
    """Tests that call the mutated function; of a constant, or a function called on import, all of the files that test
    the family, those that call something of its file first. The quickest come first."""
    path = Path(mutant["path"]).resolve()
    place = (str(path), mutant["function"])
    on_import = mutant["function"] == 0 or place in suite.on_import
    of_family = {
        test.partition("::")[0]
        for test, called in suite.calls.items()
        if on_import and any(Path(name).parent == path.parent for name, _ in called)
    }
    near: dict[str, int] = {}
    for test, called in suite.calls.items():
        if test in suite.failed:
            continue
        if place in called:
            near[test] = 0
        elif test.partition("::")[0] in of_family:
            near[test] = 1 if any(name == str(path) for name, _ in called) else 2
    return sorted(near, key=lambda test: (near[test], suite.seconds[test]))


def attempt(rules: Rules, mutant: dict[str, Any], tests: list[str]) -> list[str]:
    """[outcome, the test that failed]."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    sys.meta_path.insert(0, Mutated(Path(mutant["path"]), mutant["source"]))
    chosen = Chosen(tests)
    code = pytest_run(rules, sorted({test.partition("::")[0] for test in tests}), chosen, "-x")
    return [SURVIVED, ""] if code == 0 else [KILLED, chosen.killer or "the import"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("drawn", type=Path, help="the mutants, a line of JSON each")
    parser.add_argument("--what", choices=RULES, default="formats", help="the rules that they are of")
    parser.add_argument("--report", type=Path, required=True, help="what became of each, in words")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    started = time.monotonic()
    rules = RULES[arguments.what]
    if rules.compiled:
        importlib.import_module("numba")  # once, for all children
    else:
        sys.modules["numba"] = None  # type: ignore[assignment]
    mutants = [json.loads(line) for line in arguments.drawn.read_text().splitlines()]
    suite = record(rules)
    why = "they fail" if rules.compiled else "they need numba"
    told = f"{len(suite.seconds)} tests in {sum(suite.seconds.values()):.0f} s; {len(suite.failed)} left out, {why}"
    print(told, *suite.failed, sep="\n    ", flush=True)
    running: dict[int, tuple[int, dict[str, Any], float]] = {}
    waiting, done = list(reversed(mutants)), 0
    while waiting or running:
        while waiting and len(running) < arguments.jobs:
            mutant = waiting.pop()
            tests = tests_of(mutant, suite)
            mutant.update(tests=len(tests), outcome=SURVIVED, killer="", seconds=0.0)
            if tests:
                pid, descriptor = forked(partial(attempt, rules, mutant, tests))
                running[pid] = (descriptor, mutant, time.monotonic())
            else:
                print(describe(mutant), flush=True)
        if not running:
            break
        pid, status = os.wait()
        descriptor, mutant, began = running.pop(pid)
        late = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        outcome, killer = answer_of(descriptor) or (TIMEOUT if late else KILLED, "the end of the process")
        mutant.update(outcome=outcome, killer=killer, seconds=time.monotonic() - began)
        done += 1
        if outcome != KILLED:
            print(f"{done}: {describe(mutant)}", flush=True)
    arguments.report.write_text(report(mutants, time.monotonic() - started))
    print(f"{tally(mutants)}; the report is in {arguments.report}")


def tally(mutants: list[dict[str, Any]]) -> str:
    count = Counter(mutant["outcome"] for mutant in mutants)
    return f"{len(mutants)} mutants: {count[KILLED]} killed, {count[SURVIVED]} survived, {count[TIMEOUT]} out of time"


def describe(mutant: dict[str, Any]) -> str:
    return (
        f"{mutant['outcome']}: {mutant['path']}:{mutant['line']} {mutant['operator']} "
        f"({mutant['tests']} tests, {mutant['seconds']:.0f} s)\n    - {mutant['before']}\n    + {mutant['after']}"
    )


def report(mutants: list[dict[str, Any]], seconds: float) -> str:
    """Counts for each file, then the survivors, then all others with their killers."""
    files: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for mutant in mutants:
        files[mutant["path"].removeprefix("src/stage2/")].append(mutant)
    lines = [f"{tally(mutants)}, in {seconds / 60:.0f} min", ""]
    lines += [f"{name}: {tally(found)}" for name, found in sorted(files.items())]
    order = sorted(mutants, key=lambda m: (m["outcome"] == KILLED, m["path"], m["line"]))
    lines += ["", *(describe(m) + (f"\n    by {m['killer']}" if m["killer"] else "") for m in order)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
