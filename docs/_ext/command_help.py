"""The directive `command-help`: what `stage2 ... --help` prints, asked when the page is made."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from stage2.cli.main import OK, call


class CommandHelp(SphinxDirective):
    """Takes the words between `stage2` and `--help`; none for the overview."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        words = self.arguments[0].split() if self.arguments else []
        out = io.StringIO()
        plainly = {"COLUMNS": "78", "NO_COLOR": "1", "TERM": "dumb"}
        with mock.patch.dict(os.environ, plainly), contextlib.redirect_stdout(out):
            code = call([*words, "--help"])
        if code != OK:
            raise self.error(f"stage2 {' '.join(words)} --help ended with {code}")
        text = "\n".join(line.rstrip() for line in out.getvalue().strip("\n").split("\n"))
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
