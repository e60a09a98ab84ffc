"""Run examples/tour.ipynb from its first cell to its last, and write it with what the cells show: `make tour`."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tour.ipynb"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def run(notebook: Path, output: Path) -> None:
    """Run a notebook; a cell that fails ends this with its error.

    Args:
        notebook: the file to run.
        output: the file to write.
    """
    read = nbformat.read(notebook, as_version=4)
    # Times and versions would differ in every run, and say nothing.
    NotebookClient(read, timeout=None, kernel_name=KERNEL["name"], record_timing=False).execute()
    read.metadata = nbformat.NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    for cell in read.cells:
        cell.metadata.pop("execution", None)
    nbformat.write(read, output)


if __name__ == "__main__":
    run(NOTEBOOK, Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOK)
