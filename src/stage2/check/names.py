"""Names in VM files that look like slips of copying: the rules S2310 and S2925."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

from ..config.vm import VmConfig
from ..config.wording import shown
from .finding import Finding, Location, Party, Rule, Severity
from .setup import Setup

ONE_FILE_FOR_TWO = Rule(
    "S2310", Severity.WARNING, "two images of a VM are one file",
    "AxVisor loads it twice, once as what it is not: with a kernel for its device tree a guest finds no device.",
)  # fmt: skip
TWO_ARCHITECTURES = Rule(
    "S2925", Severity.WARNING, "a file and its kernel are named after two architectures",
    "One was made by copying the other and is not finished: the CPU does not know the kernel's instructions.",
)  # fmt: skip
RULES = (ONE_FILE_FOR_TWO, TWO_ARCHITECTURES)

_ARCHITECTURES = {
    "x86_64": "x86_64", "x86-64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64",
    "riscv64": "riscv64", "loongarch64": "loongarch64",
}  # fmt: skip
_NAME = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(_ARCHITECTURES)})(?![a-z0-9])")


def check_names(setup: Setup) -> Iterator[Finding]:
    """Paths of images, beside each other and beside the name of the file that has them."""
    for vm in setup.files:
        yield from _one_file(vm)
        yield from _architectures(vm)


def _one_file(vm: VmConfig) -> Iterator[Finding]:
    images = [image for image in vm.kernel.images if image.path is not None]
    for number, image in enumerate(images):
        assert image.path is not None, "only those with a path"
        same = next((one for one in images[:number] if one.path is not None and one.path.text == image.path.text), None)
        if same is None or same.path is None or image.path.fetched is not None:
            continue
        parties = tuple(Party(f"the {role} of {vm.label}") for role in (image.role, same.role))
        places = tuple(
            Location.of(one.place, party.name) for one, party in zip((image.path, same.path), parties, strict=True)
        )
        yield Finding(
            ONE_FILE_FOR_TWO, f"{parties[0]} is {shown(image.path.text)}, which is its {same.role} too", parties,
            locations=places, fix=f"name the {image.role}'s own file",
        )  # fmt: skip


def _architectures(vm: VmConfig) -> Iterator[Finding]:
    path = vm.kernel.kernel.path
    if path is None:
        return
    file, kernel = PurePath(vm.file).name, PurePath(path.text).name
    own, others = _named(file), _named(kernel)
    if len(own) == 1 and len(others) == 1 and own != others:
        parties = (Party(f"the kernel of {vm.label}"), Party(vm.label))
        message = (
            f"the kernel {shown(kernel)} is named after {others.pop()}, and the file {shown(file)} after {own.pop()}"
        )
        where = (Location.of(path.place, parties[0].name),)
        yield Finding(TWO_ARCHITECTURES, message, parties, locations=where, fix="name this architecture's kernel")


def _named(text: str) -> set[str]:
    """The architectures that a name has in it."""
    return {_ARCHITECTURES[word] for word in _NAME.findall(text.lower())}
