"""volatility3 and MemProcFS on the bytes of a table of ours: one translation from Python.

They live in an environment of their own (`make bench` makes it from the package index), so each is asked in a process
of its own; `peer_program.py` runs there and knows nothing of this project. Both read the same image of host memory.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from stage2.address import GIB, SIZE_4K, Hpa, Range
from stage2.flags import RWX
from stage2.formats import by_name
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.tables.pagetable import PageTable

from .settings import TABLES, random_addresses

PROGRAM = Path(__file__).with_name("peer_program.py")
PEERS = ("volatility3", "memprocfs")
_START = 1 << 39
_TABLES = Range.sized(0x10_0000, 4 << 20)
_DATA = 0x1000_0000
_BOUND_S = 300


def ask_peers(python: Path, runs: int = 9) -> dict[str, dict[str, float | str]]:
    """What the peers take for one random translation in 1 GiB of x86-64 pages.

    Args:
        python: the interpreter that has them.

    Returns:
        By peer: `us` a translation (thread CPU time, median), `version`; or `error`.
    """
    with tempfile.TemporaryDirectory() as held:
        image = Path(held) / "memory.raw"
        root = write_image(image)
        addresses = random_addresses(_START, GIB, 20_000).tolist()
        question = {
            "image": str(image),
            "root": root,
            "runs": runs,
            "addresses": addresses,
            "answers": [_DATA + address - _START for address in addresses],
        }
        (Path(held) / "question.json").write_text(json.dumps(question))
        found: dict[str, dict[str, float | str]] = {}
        for peer in PEERS:
            command = [str(python.absolute()), str(PROGRAM), peer, f"{held}/question.json"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=_BOUND_S, check=True, cwd=held)
                found[peer] = json.loads(done.stdout.splitlines()[-1])
            except subprocess.CalledProcessError as error:
                found[peer] = {"error": (error.stderr or error.stdout).strip().splitlines()[-1]}
            except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
                found[peer] = {"error": str(error)}
        return found


def write_image(image: Path) -> int:
    """Write the memory of a machine whose table maps 1 GiB in 4 KiB pages to a sparse file; the root's address."""
    with PhysicalMemory([_TABLES]) as memory:
        table = PageTable(by_name("x86-4level"), FrameAllocator(memory), owner=TABLES)
        table.map_range(_START, Hpa(_DATA), GIB, RWX, largest=SIZE_4K)
        with image.open("wb") as file:
            file.truncate(_DATA + GIB)
            for span in table.table_ranges:
                file.seek(span.start)
                file.write(bytes(memory.view(Hpa(span.start), span.size)))
        root = int(table.root)
        table.destroy()
        return root
