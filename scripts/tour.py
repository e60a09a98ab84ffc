"""Run examples/tour.ipynb from its first cell to its last, and write it with what the cells show: `make tour`."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tour.ipynb"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main(output: Path) -> None:
    """Run the notebook; a cell that fails ends this with its error.

    Args:
        output: the file to write.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # Times and versions would differ in every run, and say nothing.
    NotebookClient(notebook, timeout=None, kernel_name=KERNEL["name"], record_timing=False).execute()
    notebook.metadata = nbformat.NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, output)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOK)
