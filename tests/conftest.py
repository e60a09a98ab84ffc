"""How the tests are run: seeds, how hard they try, marks and the choice of a quick run. See docs/testing.md.

Timing is never a test, so Hypothesis has no deadlines: the first example of a property may compile kernels, and the
machine may be busy with something else.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

import effort
import layers
from stage2.tables.compiled import compile_at_once

settings.register_profile("dev", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), max_examples=40, print_blob=True, database=None)
settings.register_profile("soak", settings.get_profile("dev"), max_examples=1000, print_blob=True)
SOAK_FACTOR = 20


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("stage2")
    group.addoption("--seed", type=int, default=0, help="of all random tests; the same seed does the same")
    group.addoption(
        "--quick", action="store_true", help="tests of touched rooms first, then those that compile nothing"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    profile = profile_name()
    settings.load_profile(profile)
    effort.SEED = config.option.seed
    effort.FACTOR = SOAK_FACTOR if profile == "soak" else 1
    # What runs compiled where there is much to do is tested compiled where there is little, too;
    # tests/tables/test_plain_kernels.py, the commands that tests start and the other formats see to the other form.
    compile_at_once(effort.compiles)
    # Without this Hypothesis draws a new seed in every run. It reads its option after us.
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(config.option.seed)


def profile_name() -> str:
    return os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        layers.mark(item)
    if config.option.quick:
        touched = layers.rooms_of(layers.changed_files(config.rootpath))
        items[:], left_out = layers.quick(items, touched)
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what repeats this run; with -q pytest prints no header."""
    terminalreporter.write_line(f"seed {config.option.hypothesis_seed}, profile {profile_name()}")


@pytest.fixture(autouse=True)
def every_answer_is_of_its_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command prints as JSON in a test is held against the schema of its kind."""
    from stage2.render import json_text

    print_as = json_text.json_text

    def checked(kind: str, found: object) -> str:
        from json_schemas import require_schema

        text = print_as(kind, found)
        require_schema(kind, text)
        return text

    monkeypatch.setattr(json_text, "json_text", checked)
