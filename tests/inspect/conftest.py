"""Machines that the tests of this folder share: each boots once, when the first test wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest
from linux_machines import ARCHITECTURES, LinuxMachine, linux


@pytest.fixture(scope="session")
def linux_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], LinuxMachine]]:
    """The stopped Linux of an architecture."""
    with ExitStack() as stack:

        @cache
        def started(arch: str) -> LinuxMachine:
            # A Unix socket's path has 107 bytes at most, and pytest's are long already.
            return stack.enter_context(linux(arch, tmp_path_factory.mktemp("m")))

        yield started


@pytest.fixture(params=ARCHITECTURES)
def stopped_linux(request: pytest.FixtureRequest, linux_of: Callable[[str], LinuxMachine]) -> LinuxMachine:
    """The stopped Linux of each architecture."""
    return linux_of(request.param)
