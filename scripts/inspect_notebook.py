"""Run examples/inspect.ipynb on a dump of Debian's Linux, and write it with what the cells show: `make inspect`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tour import run

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "inspect.ipynb"
DUMP = "STAGE2_DUMP"


def main(output: Path) -> None:
    """Run the notebook; on the dump that STAGE2_DUMP names, or one of a machine that is booted for it.

    Args:
        output: the file to write.
    """
    if DUMP in os.environ:
        run(NOTEBOOK, output)
        return
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "inspect")]
    from linux_machines import linux

    here = Path.cwd()
    with TemporaryDirectory() as folder, linux("x86_64", Path(folder)) as machine:
        # The notebook shows the name of the file, which should be the same in every run.
        os.chdir(machine.core.parent)
        os.environ[DUMP] = machine.core.name
        run(NOTEBOOK, here / output)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOK)
