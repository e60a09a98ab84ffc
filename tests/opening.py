"""Starting what a host may lack: elsewhere than in CI its absence skips the test, with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal, TypeVar

import pytest

from stage2.conform.oracle import Oracle
from stage2.conform.oracles import by_name
from stage2.errors import HostToolError
from stage2.machines.fetched import RECIPES, fetch

T = TypeVar("T")


def or_skip(start: Callable[[], T]) -> T:
    """What `start` gives; a missing tool of the host skips the test, in CI it fails."""
    try:
        return start()
    except HostToolError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def oracle_or_skip(name: str) -> Oracle:
    """The oracle called `name`. A generation that is not there is fetched in CI; elsewhere the test is skipped."""
    found = by_name(name)
    if found.name != found.kind and not found.is_own() and os.environ.get("CI"):
        fetch(next(recipe for recipe in RECIPES if name.startswith(f"{recipe}-")))
    or_skip(found.version)
    return found


def machine_fixture(
    start: Callable[[], AbstractContextManager[T]], scope: Literal["module", "function"] = "module"
) -> object:
    """The fixture `machine` of a test file: what `start` gives, closed afterwards; skipped as by `or_skip`."""

    @pytest.fixture(scope=scope)
    def machine() -> Iterator[T]:
        with or_skip(start) as found:
            yield found

    return machine
