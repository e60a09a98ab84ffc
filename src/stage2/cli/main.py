"""`stage2`: the entry point. Commands are imported when they are called, errors end in one line and a code.

What has no command (help, the version) is answered without the parser of command lines: importing that takes longer
than the rest.
"""

from __future__ import annotations

import gc
import io
import itertools
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ConfigError, Stage2Error
from .interrupts import kept_interrupts

if TYPE_CHECKING:
    from cyclopts import App
    from rich.console import Console

OK, BAD_INPUT, INTERNAL, INTERRUPTED, BROKEN_PIPE = 0, 2, 70, 130, 141
"""Exit codes; 70 is sysexits' "internal software error". The codes of `run` are in its help."""
TRACEBACK = "STAGE2_TRACEBACK"
"""Environment variable: when it is 1, errors are not caught, for developers."""

_COMMANDS = {
    "run": "Run guests until they power off, and report what their memory did.",
    "demo": "Run a tiny bundled guest that touches every kind of memory.",
    "show": "Show what configuration files were understood to say.",
    "check": "Find every mistake in VM files before a board hangs on them.",
    "migrate": "Write a VM file of an older format in upstream's present one.",
    "walk": "Explain how an address is translated, step by step, through one stage or both.",
    "translate": "Tell where addresses lead in a memory: one of them, or millions.",
    "map": "List all that tables in a memory map: GVA -> GPA -> HPA.",
    "rmap": "Tell which addresses reach some memory, through all roots of tables.",
    "find": "Find the roots of tables in a memory that nobody explains, with reasons.",
    "diff": "Tell how the mappings of two memories, or of two moments of one, differ.",
    "explain": "Tell a table entry, a register or a fault in plain sentences.",
    "check-trace": "Judge what `run --trace-edits` wrote: was every invalidation done that was owed?",
    "build": "Write the stage-2 tables of VMs as files for a hypervisor to load.",
    "audit": "Find what is dangerous in the tables of a memory: W^X, open tables, guests that reach each other.",
    "prove": "Prove that VMs are isolated, on the bytes of their tables, or show where they are not.",
    "layout": "Show how the hypervisor's kernel lies in memory, and what is wrong with that.",
    "conform": "Compare our walker with MMUs nobody here wrote: QEMU's and Bochs's.",
    "fetch": "Fetch what others made: a guest's kernel, emulators, hypervisors to look at.",
}


_BUILTINS = {"map"}
"""Commands whose names are Python's own: their functions have an underscore behind them."""
_ABOUT = "A hypervisor's memory: build it, run it, see it, prove it."
_HELP, _VERSION, _COMPLETION = ("--help", "-h"), "--version", "--install-completion"
_ALL = "--all"
_COLLECT_AFTER = 100_000
"""Objects made before Python looks for garbage: starting makes tens of thousands, and nearly all of them stay."""


def build_app() -> App:
    """The command line, with no command imported yet."""
    from cyclopts import App

    app = App(
        name="stage2",
        help=_ABOUT,
        version=_version,
        suppress_keyboard_interrupt=False,
        console=_help_console(),
    )
    for name, text in _COMMANDS.items():
        module = name.replace("-", "_")
        function = f"{module}_" if name in _BUILTINS else module
        app.command(f"stage2.cli.{module}:{function}", name=name, help=text)
    return app


def _help_console() -> Console | None:
    """What help is printed on where nobody wants colours; None leaves it to the parser."""
    from ..plain_terminal import wants_plain

    if not wants_plain():
        return None
    from ..render.tables import plain_console

    return plain_console(sys.stdout)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code.

    Args:
        arguments: without the program's name; None takes the process's own.
    """
    gc.set_threshold(_COLLECT_AFTER)
    code = call(sys.argv[1:] if arguments is None else arguments)
    # Python looks through all that it has made before it ends, which takes longer than some commands.
    gc.freeze()
    sys.exit(code)


def call(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; every error is told in one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal or a locale that lacks a character gets its number, not an exception.
            stream.reconfigure(errors="backslashreplace")
    try:
        with kept_interrupts():
            code = _call(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _call(arguments: Sequence[str]) -> int:
    if os.environ.get(TRACEBACK) == "1":
        return _dispatch(arguments)
    try:
        return _dispatch(arguments)
    except Stage2Error as error:
        return _fail(str(error))
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}")
    except MemoryError:
        return _fail("this process can have no more memory: a limit (ulimit -v), or the host's memory is used up")
    except Exception as error:  # noqa: BLE001  # the last line of defence: no traceback for a user
        what = f"{type(error).__name__}: {error}"
        return _fail(f"this should not happen: {what}; {TRACEBACK}=1 shows where", INTERNAL)


def _dispatch(arguments: Sequence[str]) -> int:
    if _asks_for_processors(arguments):
        return list_processors(json_output="--json" in arguments)
    if not arguments or arguments[0] in _HELP:
        print(_overview())
        return OK
    if arguments[0] == _VERSION:
        return _tell_version(arguments[1:])
    from cyclopts.exceptions import CycloptsError

    app = build_app()
    if arguments[0] == _COMPLETION:
        app.register_install_completion_command(help="Install completion for bash, zsh or fish (--shell says which).")
    try:
        result = app(list(arguments), result_action="return_value", exit_on_error=False, print_error=False)
    except CycloptsError as error:
        command = next((word for word in arguments[:1] if word in _COMMANDS), "")
        raise ConfigError(f"{error} See {' '.join(filter(None, ('stage2', command, '--help')))}.") from None
    return result if isinstance(result, int) else OK


def _overview() -> str:
    """What `stage2 --help` prints."""
    width = max(map(len, _COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in sorted(_COMMANDS.items()))
    return (
        f"Usage: stage2 COMMAND\n\n{_ABOUT}\n\n{commands}\n\n"
        f"stage2 COMMAND --help explains a command, stage2 {_VERSION} tells the version ({_ALL}: of everything that\n"
        f"takes part), stage2 {_COMPLETION} lets the shell complete commands and options."
    )


def _tell_version(rest: Sequence[str]) -> int:
    if not rest:
        print(_version())
        return OK
    if list(rest) != [_ALL]:
        raise ConfigError(f"{_VERSION} {' '.join(rest)}: only {_ALL} may follow {_VERSION}")
    from ..render.tables import print_renderable
    from .versions import render_versions

    print_renderable(render_versions(_version()))
    return OK


def _asks_for_processors(arguments: Sequence[str]) -> bool:
    """Whether `--cpu list` stands among the arguments of any command, which then need not be complete."""
    return "--cpu=list" in arguments or ("--cpu", "list") in itertools.pairwise(arguments)


def list_processors(*, json_output: bool) -> int:
    """Print every processor that has a name, with its parts."""

    from ..processor import architectures, named
    from ..render.json_text import json_text
    from ..render.processors import processors_json, render_processors
    from ..render.tables import print_renderable

    found = [tuple(named(arch).values()) for arch in architectures()]
    if json_output:
        print(json_text("processors", processors_json(found)))
        return OK
    for processors in found:
        print_renderable(render_processors(processors))
    return OK


def _fail(text: str, code: int = BAD_INPUT) -> int:
    from ..render.plain import plain

    sys.stdout.flush()
    print(f"stage2: error: {plain(text)}", file=sys.stderr)
    return code


def _version() -> str:
    from .. import __version__

    return __version__
