"""`[stage2.dma]`: what a VM file says of its devices' DMA, and how it goes together with the host's tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage2.address import Range
from stage2.check.dma import given_masters, reaches_pci
from stage2.config.document import parse_document
from stage2.config.generation import Generation
from stage2.config.migrate import migrate
from stage2.config.platform import PlatformConfig
from stage2.config.vm import VmConfig, read_vm
from stage2.errors import ConfigError
from stage2.images.fdt import Node
from stage2.images.fdt_walk import Placed

NET = Range(0x1000_2000, 0x1000_3000)


def vm_source(said: str) -> str:
    return f"""\
[base]
id = 1
name = "guest"
vm_type = 1
cpu_num = 1
[kernel]
entry_point = 0x8000_0000
kernel_load_addr = 0x8000_0000
memory_regions = [[0x8000_0000, 0x20_0000, 0x7, 0]]
[devices]
passthrough_devices = [["net", {NET.start:#x}, {NET.start:#x}, 0x1000, 0], ["/soc"]]
[[region]]
name = "gpu"
gpa = 0x2000_0000
size = 0x1000
type = "mmio"
[stage2.dma]
{said}
"""


def vm(said: str) -> VmConfig:
    return read_vm(parse_document(vm_source(said), "vm.toml"))


def node(path: str, **properties: str) -> Placed:
    found = Node(path.rpartition("/")[2])
    for name, value in properties.items():
        found.set(name, value)
    return Placed(path, found, (NET,))


ETHERNET, UNKNOWN = node("/soc/bus/ethernet@1"), node("/soc/bus/thing@2", compatible="acme,thing")


@pytest.mark.parametrize(
    ("said", "nodes", "masters"),
    [
        ("", (), None),
        ("", (UNKNOWN,), None),
        ("", (UNKNOWN, ETHERNET), True),
        ("net = true", (), True),
        ("net = false", (ETHERNET,), False),
        ('"/soc/bus" = false', (UNKNOWN, ETHERNET), False),
        ('"/" = false\n"/soc/bus/thing@2" = true', (UNKNOWN, ETHERNET), True),
        ('"/soc/bus/thing@2" = false', (UNKNOWN, ETHERNET), True),
        ('"/soc/bu" = true', (UNKNOWN,), None),
    ],
)
def test_a_files_word_goes_before_the_trees(said: str, nodes: tuple[Placed, ...], masters: bool | None) -> None:
    assert given_masters(vm(said), "net", NET, nodes, None) is masters


def test_names_are_those_of_devices() -> None:
    assert list(vm("net = true\ngpu = true").options.dma) == ["net", "gpu"]
    with pytest.raises(ConfigError) as caught:
        vm("nte = true")
    assert str(caught.value) == (
        "vm.toml:18: stage2.dma.nte: no device of this VM is called 'nte'; its devices are: 'net', '/soc', 'gpu'"
    )
    with pytest.raises(ConfigError, match="true or false"):
        vm("net = 1")


def test_pcis_windows_and_its_configuration_space_lead_to_masters() -> None:
    host = PlatformConfig(
        str(Path("board.toml")), "riscv64", "board", "board", (), pci_ranges=(Range(0x4000_0000, 0x5000_0000),),
        pci_ecam_base=0x3000_0000,
    )  # fmt: skip
    for start, size, found in (
        (0x4FFF_F000, 0x1000, True),
        (0x5000_0000, 0x1000, False),
        (0x3000_0000, 0x1000_0000, True),
        (0x2FFF_F000, 0x1000, False),
    ):
        assert reaches_pci(Range.sized(start, size), host) is found
    assert not reaches_pci(NET, None)


@pytest.mark.parametrize("said", ["net = true", 'net = true\n"/soc" = false', "gpu = false"])
def test_a_migrated_file_says_nothing_of_devices_that_are_left_out(said: str) -> None:
    text = vm_source(said)
    document = parse_document(text, "vm.toml")
    migrated = migrate(text, document, read_vm(document))
    ours = parse_document(migrated.ours, "vm.stage2.toml")
    now = read_vm(parse_document(migrated.text, "vm.toml"), Generation.PRESENT, ours)
    assert list(now.options.dma) == [name for name in ("/soc", "gpu") if name in said]
    assert ("left out with its device" in str(migrated.lost)) is ("net" in said)
