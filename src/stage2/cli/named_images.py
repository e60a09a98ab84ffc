"""Images that the command line names instead of a VM file's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..config.kernel_config import GuestImage
    from ..config.regions import PlannedVm


def override(
    config: PlannedVm, kernel: str | None, ramdisk: str | None, dtb: Path | None, cmdline: str | None, *, alone: bool
) -> PlannedVm:
    """The configuration with what the command line says instead.

    Raises:
        ConfigError: images are named for several VMs at once.
    """
    from ..config.document import Notice
    from ..config.images import ImagePath
    from ..config.kernel_config import GuestImage
    from ..place import Place

    given = {"--kernel": kernel, "--ramdisk": ramdisk, "--dtb": dtb, "--cmdline": cmdline}
    used = [option for option, value in given.items() if value is not None]
    if used and not alone:
        raise ConfigError(f"{used[0]} with several VMs: put images into the VM files")

    def replaced(role: str, old: GuestImage | None, value: str | Path | None) -> GuestImage | None:
        if value is None:
            return old
        place = Place("the command line", 1, f"--{role}")
        path = ImagePath(str(value), Path(), place)
        address = old.load_addr if old is not None else None
        return GuestImage(role, path, address, place if old is None else old.place)

    parts = config.kernel
    new_kernel = replaced("kernel", parts.kernel, kernel)
    notices, tree = config.notices, replaced("dtb", parts.dtb, dtb)
    if kernel is not None and tree is not None and tree.path is not None and tree.path.missing:
        # Another kernel was named, and the tree of the file's own is not there.
        said = f"'{tree.path}' is not there, and --kernel names another kernel: a tree is made; --dtb names one"
        notices = (*notices, Notice(said, tree.path.place))
        tree = replace(tree, path=None)
    return replace(
        config,
        notices=notices,
        kernel=replace(
            parts,
            kernel=new_kernel or parts.kernel,
            ramdisk=replaced("ramdisk", parts.ramdisk, ramdisk),
            dtb=tree,
            cmdline=parts.cmdline if cmdline is None else cmdline,
        ),
    )
