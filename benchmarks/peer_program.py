"""Asks one peer for translations or for all mappings; run by an interpreter that has it. Prints one line of JSON."""

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


def volatility3_layer(question: dict[str, Any]) -> Any:
    """An `Intel32e`, whose caches begin empty."""
    from volatility3.framework import contexts
    from volatility3.framework.layers import intel, physical

    context = contexts.Context()
    context.config["base.location"] = Path(question["image"]).as_uri()
    context.layers.add_layer(physical.FileLayer(context, "base", "memory"))
    context.config["kernel.memory_layer"] = "memory"
    context.config["kernel.page_map_offset"] = question["root"]
    layer = intel.Intel32e(context, "kernel", "kernel")
    context.layers.add_layer(layer)
    return layer


def volatility3(question: dict[str, Any]) -> Callable[[int], int]:
    """`Intel32e.translate`."""
    layer = volatility3_layer(question)

    def translate(address: int) -> int:
        found: int = layer.translate(address)[0]
        return found

    return translate


def memprocfs_process(question: dict[str, Any]) -> Any:
    """The one process that is there."""
    import memprocfs as package

    device = ["-device", question["image"], "-dtb", hex(question["root"])]
    vmm = package.Vmm([*device, "-disable-symbolserver", "-disable-python"])
    return vmm.process_list()[0]


def memprocfs(question: dict[str, Any]) -> Callable[[int], int]:
    """`memory.virt2phys`."""
    found: Callable[[int], int] = memprocfs_process(question).memory.virt2phys
    return found


def map_once(peer: str, question: dict[str, Any]) -> tuple[float, int]:
    """Milliseconds of wall clock for all mappings, by a peer that knows nothing yet, and the bytes that they map."""
    if peer == "volatility3":
        layer = volatility3_layer(question)
        began = time.perf_counter_ns()
        found = [entry[1] for entry in layer.mapping(question["start"], question["size"], ignore_errors=True)]
    else:
        process = memprocfs_process(question)
        began = time.perf_counter_ns()
        found = [entry["size"] for entry in process.maps.pte()]
    return (time.perf_counter_ns() - began) / 1e6, sum(found)


def main() -> None:
    peer, file = sys.argv[1:]
    question = json.loads(Path(file).read_text())
    if "size" in question:
        taken, mapped = map_once(peer, question)
        print(json.dumps({"ms": taken, "mapped": mapped, "version": importlib.metadata.version(peer)}))
        sys.stdout.flush()
        os._exit(0)
    translate = {"volatility3": volatility3, "memprocfs": memprocfs}[peer](question)
    addresses = question["addresses"]
    for address, answer in zip(addresses[:2000], question["answers"], strict=False):
        if translate(address) != answer:
            raise SystemExit(f"{peer} says {translate(address):#x} for {address:#x}, and {answer:#x} is right")
    micros = []
    for _ in range(question["runs"]):
        began = time.thread_time_ns()
        for address in addresses:
            translate(address)
        micros.append((time.thread_time_ns() - began) / len(addresses) / 1e3)
    print(json.dumps({"us": statistics.median(micros), "version": importlib.metadata.version(peer)}))
    sys.stdout.flush()
    # A peer's own threads may not end by themselves.
    os._exit(0)


if __name__ == "__main__":
    main()
