"""Starting what a host may lack: elsewhere than in CI its absence skips the test, with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal, TypeVar

import pytest

from stage2.errors import HostToolError

T = TypeVar("T")


def or_skip(start: Callable[[], T]) -> T:
    """What `start` gives; a missing tool of the host skips the test, in CI it fails."""
    try:
        return start()
    except HostToolError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def machine_fixture(
    start: Callable[[], AbstractContextManager[T]], scope: Literal["module", "function"] = "module"
) -> object:
    """The fixture `machine` of a test file: what `start` gives, closed afterwards; skipped as by `or_skip`."""

    @pytest.fixture(scope=scope)
    def machine() -> Iterator[T]:
        with or_skip(start) as found:
            yield found

    return machine
