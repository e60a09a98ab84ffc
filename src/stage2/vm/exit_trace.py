"""A file of what stopped guests: one line of JSON for each exit, in the order they were answered."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import ConfigError


class ExitTrace:
    """The file. `write` is called from the threads of several VMs.

    Args:
        path: the file; what was in it is gone.

    Raises:
        ConfigError: it cannot be written, also when it is closed.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._failure: OSError | None = None
        try:
            self._file = path.open("w", encoding="utf-8", newline="\n")
        except OSError as error:
            raise self._error(error) from None

    def write(self, line: str) -> None:
        """Write a line. A guest does not stop because a disk is full: what fails is told when the file is closed."""
        with self._lock:
            if self._failure is None:
                try:
                    self._file.write(line + "\n")
                except OSError as error:
                    self._failure = error

    def close(self) -> None:
        """Close the file. Harmless when repeated."""
        with self._lock:
            try:
                self._file.close()
            except OSError as error:
                self._failure = self._failure or error
            failure, self._failure = self._failure, None
        if failure is not None:
            raise self._error(failure)

    def _error(self, error: OSError) -> ConfigError:
        return ConfigError(f"--trace: cannot be written: {error.strerror}", file=os.fspath(self._path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
