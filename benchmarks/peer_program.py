"""Asks one peer for translations; run by `peers.py` with an interpreter that has it. Prints one line of JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def volatility3(question: dict[str, Any]) -> Callable[[int], int]:
    """`Intel32e.translate`, whose caches begin empty."""
    from volatility3.framework import contexts
    from volatility3.framework.layers import intel, physical

    context = contexts.Context()
    context.config["base.location"] = Path(question["image"]).as_uri()
    context.layers.add_layer(physical.FileLayer(context, "base", "memory"))
    context.config["kernel.memory_layer"] = "memory"
    context.config["kernel.page_map_offset"] = question["root"]
    layer = intel.Intel32e(context, "kernel", "kernel")
    context.layers.add_layer(layer)

    def translate(address: int) -> int:
        found: int = layer.translate(address)[0]
        return found

    return translate


def memprocfs(question: dict[str, Any]) -> Callable[[int], int]:
    """`memory.virt2phys` of the one process that is there."""
    import memprocfs as package

    device = ["-device", question["image"], "-dtb", hex(question["root"])]
    vmm = package.Vmm([*device, "-disable-symbolserver", "-disable-python"])
    found: Callable[[int], int] = vmm.process_list()[0].memory.virt2phys
    return found


def main() -> None:
    peer, file = sys.argv[1:]
    question = json.loads(Path(file).read_text())
    translate = {"volatility3": volatility3, "memprocfs": memprocfs}[peer](question)
    addresses = question["addresses"]
    for address, answer in zip(addresses[:2000], question["answers"], strict=False):
        if translate(address) != answer:
            raise SystemExit(f"{peer} says {translate(address):#x} for {address:#x}, and {answer:#x} is right")
    taken = []
    for _ in range(question["runs"]):
        began = time.thread_time_ns()
        for address in addresses:
            translate(address)
        taken.append((time.thread_time_ns() - began) / len(addresses) / 1e3)
    print(json.dumps({"us": statistics.median(taken), "version": importlib.metadata.version(peer)}))
    sys.stdout.flush()
    # A peer's own threads may not end by themselves.
    os._exit(0)


if __name__ == "__main__":
    main()
