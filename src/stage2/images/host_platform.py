"""The host as its device tree describes it, beside what a platform or board file says of the hypervisor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..address import SIZE_4K, Range, align_down, align_up
from ..config.board import BoardConfig
from ..config.document import Notice
from ..config.platform import PlatformConfig, ReservedMemory, union
from ..errors import ImageError
from .host_nodes import node_ranges
from .host_tree import HostTree

_VIRTIO = "virtio,mmio"


def platform_of(tree: HostTree, given: PlatformConfig | BoardConfig | None = None) -> PlatformConfig:
    """The host of a device tree.

    Args:
        tree: RAM, reservations and devices are what it says.
        given: a platform file, which says where the hypervisor lies; or a board file, which says the architecture and
            how many levels tables have.

    Raises:
        ImageError: the tree has no RAM, or is of another architecture than the file.
        ConfigError: the hypervisor's kernel is in no RAM of the tree.
    """
    memory = union(_whole_pages(bank.span for bank in tree.ram))
    if not memory:
        raise ImageError("has no memory node with a whole page of RAM: a host needs one", file=tree.file)
    arch = tree.arch if given is None else given.arch or tree.arch
    if given is not None and None not in (given.arch, tree.arch) and given.arch != tree.arch:
        raise ImageError(f"is of {tree.arch}, and {given.file} says {given.arch}: name one host", file=tree.file)
    found = PlatformConfig(
        file=tree.file,
        arch=arch,
        platform=tree.model,
        family="device tree",
        memory=tuple(memory),
        reserved=tuple(_reserved(tree)),
    )
    found = _with_devices(found, tree)
    if isinstance(given, BoardConfig):
        return replace(found, four_levels=given.four_levels, notices=given.notices)
    return found if given is None else _joined(found, given)


def _joined(found: PlatformConfig, given: PlatformConfig) -> PlatformConfig:
    """A platform file whose memory and devices are what the tree says."""
    place = given.kernel_place
    if given.kernel_paddr is not None and not any(span.contains(given.kernel_paddr) for span in found.memory):
        problem = f"{given.kernel_paddr:#x} is in no RAM of {found.file}: {', '.join(map(str, found.memory))}"
        raise ImageError(problem, file=given.file) if place is None else place.error(problem)
    notices = list(given.notices)
    if given.memory != found.memory and place is not None:
        text = f"RAM is what {found.file} says, {', '.join(map(str, found.memory))}, not what this file says"
        notices.append(Notice(text, place.whole_line))
    return replace(
        given,
        memory=found.memory,
        reserved=found.reserved,
        mmio=found.mmio,
        virtio_mmio=found.virtio_mmio,
        pci_ranges=found.pci_ranges,
        pci_ecam_base=found.pci_ecam_base,
        uart_paddr=found.uart_paddr,
        gicd_paddr=found.gicd_paddr,
        gicr_paddr=found.gicr_paddr,
        gicc_paddr=found.gicc_paddr,
        notices=tuple(notices),
    )


def _whole_pages(spans: Iterator[Range]) -> Iterator[Range]:
    """The whole pages inside ranges."""
    for span in spans:
        start, end = align_up(span.start, SIZE_4K), align_down(span.end, SIZE_4K)
        if start < end:
            yield Range(start, end)


def _reserved(tree: HostTree) -> Iterator[ReservedMemory]:
    """What is reserved at a fixed place, in whole pages; what its system may use (`reusable`) is not."""
    for one in tree.reservations:
        if one.span is not None and not one.reusable:
            yield ReservedMemory(one.span.widened(SIZE_4K), str(one.place))


def _with_devices(platform: PlatformConfig, tree: HostTree) -> PlatformConfig:
    virtio = {placed.path for placed in tree.nodes if _VIRTIO in placed.compatible}
    found = node_ranges(tree, "/")
    regions = {name: span.start for one in reversed(tree.controllers) for name, span in reversed(one.regions)}
    ecam = [span.start for host in tree.pci for span in host.config]
    return replace(
        platform,
        mmio=tuple(one.span for one in found if one.what == "registers" and one.node not in virtio),
        virtio_mmio=tuple(one.span for one in found if one.node in virtio),
        pci_ranges=tuple(one.span for one in found if one.what != "registers"),
        pci_ecam_base=ecam[0] if ecam else None,
        uart_paddr=tree.console.ranges[0].start if tree.console is not None and tree.console.ranges else None,
        gicd_paddr=regions.get("GICD"),
        gicr_paddr=regions.get("GICR"),
        gicc_paddr=regions.get("GICC"),
    )
