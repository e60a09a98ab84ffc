"""A VM that is started and stopped many times leaves nothing behind."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest

import stage2.vm
from stage2.config.load import load_vm
from stage2.engines.run import run_all
from stage2.vm.boot import load_images
from stage2.vm.host import build
from stage2.vm.images import read_images

pytestmark = pytest.mark.slow
DEMO = Path(stage2.vm.__file__).parent / "guests" / "demo-riscv64.toml"
WARM, CYCLES = 20, 100
NOISE_KIB = 16 * 1024


def resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS in /proc/self/status")


def test_a_hundred_starts_and_stops_leave_no_frame_descriptor_thread_or_memory() -> None:
    config = load_vm(DEMO)
    images = read_images(config)
    seen: tuple[int, int, int] | None = None
    for cycle in range(WARM + CYCLES):
        with build([config]) as host:
            load_images(host.vms[0], config, images)
            assert run_all(host).exit_code == 0
            frames = host.frames
            for vm in host.vms:
                vm.close()
            assert frames.used_bytes == 0
            assert list(frames.owners) == []
        if cycle == WARM:
            gc.collect()
            seen = len(os.listdir("/proc/self/fd")), threading.active_count(), resident_kib()
    gc.collect()
    assert seen is not None
    descriptors, threads, resident = seen
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads
    assert resident_kib() - resident < NOISE_KIB
