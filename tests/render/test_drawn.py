"""Things show themselves in notebooks, whether or not the extension is loaded."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_picture import texts, vm

from stage2.address import GIB, KIB, MIB, Gpa, Range
from stage2.config.load import load_vm
from stage2.flags import MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.prove.theorem import Proof, Theorem
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion
from stage2.vm.host import Host, build
from waiting import HANG_S

__all__ = ["vm"]

RWX = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.EXECUTE


@pytest.fixture
def space() -> AddressSpace:
    """64 KiB declared and 8 KiB of them populated."""
    frames = FrameAllocator(PhysicalMemory([Range.sized(2 * GIB, 64 * MIB)]))
    space = AddressSpace("sv39x4", frames, name="guest")
    space.map(MemoryRegion(Gpa(GIB), 64 * KIB, RWX, MapType.MAP_ALLOC, name="ram"))
    space.populate_range(Range.sized(GIB, 8 * KIB))
    return space


@pytest.fixture
def host(vm: str) -> Host:
    return build([load_vm(Path(vm))])


def formatted(thing: object) -> dict[str, Any]:
    """What IPython shows of a thing that a cell ends with."""
    interactiveshell = pytest.importorskip("IPython.core.interactiveshell")
    formatter = interactiveshell.InteractiveShell().display_formatter
    found, _ = formatter.format(thing)
    return dict(found)


def test_an_address_space_shows_its_map(space: AddressSpace) -> None:
    shown = texts(formatted(space)["image/svg+xml"])
    assert {"VM guest: guest physical addresses", "64 KiB rwx--- ram", "populated: 8 KiB of 64 KiB, 12 %"} <= set(shown)
    assert any(text.endswith("page tables of VM guest") for text in shown)


def test_a_page_table_shows_its_tree(space: AddressSpace) -> None:
    shown = texts(formatted(space.page_table)["image/svg+xml"])
    assert f"Page table: sv39x4, root at HPA {space.page_table.root:#x}" in shown
    assert "2 leaves, 510 empty" in shown


def test_a_host_and_its_proof_show_themselves(host: Host) -> None:
    assert "VM 1 one: guest physical addresses" in texts(formatted(host)["image/svg+xml"])
    proof = host.prove()
    html = formatted(proof)["text/html"]
    text, _, picture = html.partition("</pre>")
    assert "apart holds" in text
    ET.fromstring(picture)
    assert "VM one: guest physical addresses" in texts(picture)
    assert formatted(proof)["text/plain"] == repr(proof)
    assert "world" not in repr(proof)


def test_a_refuted_proof_shows_its_witness_marked(host: Host) -> None:
    table = host.vms[0].space.page_table
    leaf = table.explain(0x1000_0000).steps[-1]
    at = (int(leaf.slot) - host.memory.base) // 8
    host.memory.words[at : at + 1] += np.uint64(1 << 20)
    proof = host.prove()
    assert not proof.proved
    html = proof._repr_html_()
    assert html is not None
    assert "declared does not hold" in html
    assert "#b00020" in html


def test_what_cannot_be_drawn_shows_what_a_prompt_would(host: Host, space: AddressSpace) -> None:
    table = host.vms[0].space.page_table
    host.close()
    assert table._repr_svg_() is None
    assert set(formatted(table)) == {"text/plain"}
    assert "refuted: apart" in str(Proof((Theorem("apart", "", False),))._repr_html_())


def test_a_name_in_a_proof_is_text() -> None:
    html = Proof((Theorem("<script>", "", True),))._repr_html_()
    assert html is not None
    assert "<script" not in html


def test_showing_at_a_prompt_loads_no_renderer() -> None:
    code = (
        "import sys, stage2\nspace = stage2.AddressSpace('sv39x4', stage2.FrameAllocator(stage2.PhysicalMemory("
        "[stage2.Range.sized(0, 1 << 26)])))\nrepr(space), repr(space.page_table)\n"
        "assert not any(name.startswith('stage2.render') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=HANG_S, check=True)
