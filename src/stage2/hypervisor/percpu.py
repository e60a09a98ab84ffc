"""Per-CPU storage: one area for each CPU, side by side in the hypervisor's own frames.

AxVisor links `.percpu` at virtual address 0 and keeps one copy for each CPU, `align_up(size, 64)` bytes apart; a CPU
finds its own through a base register (GS_BASE, TPIDR_EL2, gp). Here the areas begin with the image's bytes, if there
is an image, and then hold the fields that are declared, each with a type and an initial value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..address import SIZE_4K, Hpa, Hva, Range, align_up
from ..errors import ConfigError, OutOfRangeError
from ..memory.frames import FrameAllocator
from ..memory.linear import LinearMap
from ..memory.owners import Owner, OwnerKind
from .layout import CACHE_LINE

BASE_REGISTERS = {"x86_64": "GS_BASE", "aarch64": "TPIDR_EL2", "riscv64": "gp"}
"""The register that holds a CPU's area, by architecture."""
OWNER = Owner(OwnerKind.PER_CPU)


@dataclass(frozen=True, slots=True)
class PerCpuField:
    """One variable that each CPU has a copy of.

    Args:
        name: its name, once in a layout.
        offset: bytes from the start of an area.
        dtype: its type.
        initial: what every copy holds first.
    """

    name: str
    offset: int
    dtype: np.dtype[Any]
    initial: int | float

    @property
    def end(self) -> int:
        return self.offset + self.dtype.itemsize


class PerCpuLayout:
    """What an area holds: the image's bytes, then fields in the order in which they are declared.

    Args:
        image: the bytes of the image's `.percpu`.
    """

    def __init__(self, image: bytes = b"") -> None:
        self.image = image
        self._fields: dict[str, PerCpuField] = {}
        self._size = len(image)

    def declare(self, name: str, dtype: npt.DTypeLike, initial: int | float = 0) -> PerCpuField:
        """Add a field, aligned to its type.

        Args:
            name: what it is called.
            dtype: a numpy type of fixed size: `np.uint64`.
            initial: what every CPU's copy holds first.

        Raises:
            ConfigError: the name is taken.
            OutOfRangeError: the type does not hold the initial value, or has no size.
        """
        if name in self._fields:
            raise ConfigError(f"the per-CPU field {name} is declared twice")
        kind = np.dtype(dtype)
        if not kind.itemsize or kind.hasobject:
            raise OutOfRangeError(f"the per-CPU field {name}: {kind} has no fixed size in memory")
        try:
            np.array([initial]).astype(kind, casting="same_kind") if isinstance(initial, float) else kind.type(initial)
        except (OverflowError, TypeError, ValueError):
            raise OutOfRangeError(f"the per-CPU field {name}: {initial!r} is no value of {kind}") from None
        field = PerCpuField(name, align_up(self._size, kind.alignment), kind, initial)
        self._fields[name] = field
        self._size = field.end
        return field

    @property
    def fields(self) -> tuple[PerCpuField, ...]:
        """In order of their offsets."""
        return tuple(self._fields.values())

    @property
    def size(self) -> int:
        """Bytes that an area needs."""
        return self._size

    @property
    def stride(self) -> int:
        """Bytes from one CPU's area to the next."""
        return align_up(max(self._size, 1), CACHE_LINE)


class PerCpu:
    """The areas of a machine's CPUs.

    Args:
        layout: what each holds; later declarations have no place in it.
        frames: the host's memory.
        cpus: how many CPUs.
        linear: where the hypervisor sees physical memory, for the base registers; None where HVA is HPA.
        owner: whose frames they are.

    Raises:
        OutOfRangeError: no CPU.
        OutOfMemoryError: the host has no frames for the areas.
    """

    def __init__(
        self,
        layout: PerCpuLayout,
        frames: FrameAllocator,
        *,
        cpus: int,
        linear: LinearMap | None = None,
        owner: Owner = OWNER,
    ) -> None:
        if cpus < 1:
            raise OutOfRangeError(f"a machine of {cpus} CPUs has no areas")
        self.layout, self.cpus, self.stride = layout, cpus, layout.stride
        self._fields = {field.name: field for field in layout.fields}
        self._frames, self._linear, self.owner = frames, linear, owner
        size = align_up(self.stride * cpus, SIZE_4K)
        self.span = Range.sized(frames.allocate(size, align=SIZE_4K, owner=owner), size)
        self._bytes = np.frombuffer(frames.memory.view(Hpa(self.span.start), size), np.uint8)
        for cpu in range(cpus):
            self.reset(cpu)

    def area(self, cpu: int) -> Range:
        """The HPAs of a CPU's area.

        Raises:
            OutOfRangeError: the machine has no such CPU.
        """
        self._require(cpu)
        return Range.sized(self.span.start + cpu * self.stride, self.stride)

    def base_register(self, arch: str, cpu: int) -> tuple[str, int]:
        """The register that a CPU finds its area by, and what it holds: the area's virtual address.

        Raises:
            ConfigError: the architecture has no such register here.
            OutOfRangeError: the machine has no such CPU, or the linear map does not reach the area.
        """
        if arch not in BASE_REGISTERS:
            raise ConfigError(f"{arch} has no base register of per-CPU areas: there are {', '.join(BASE_REGISTERS)}")
        start = Hpa(self.area(cpu).start)
        return BASE_REGISTERS[arch], Hva(start) if self._linear is None else self._linear.phys_to_virt(start)

    def all(self, field: PerCpuField) -> npt.NDArray[Any]:
        """Every CPU's copy of a field, as an array over the memory itself: what is stored there is stored.

        Raises:
            ConfigError: the field is of another layout, or was declared after the areas were made.
        """
        if self._fields.get(field.name) is not field:
            raise ConfigError(f"the per-CPU field {field.name} is not part of these areas")
        return np.ndarray((self.cpus,), field.dtype, self._bytes.data, field.offset, (self.stride,))

    def cell(self, field: PerCpuField, cpu: int) -> memoryview:
        """A CPU's copy of a field, as a view of one item: the quick way for code that reads and writes it often.

        The memory stays open as long as the view is not released.

        Raises:
            OutOfRangeError: the machine has no such CPU.
        """
        self._require(cpu)
        return self.all(field)[cpu : cpu + 1].data

    def read(self, field: PerCpuField, cpu: int) -> int | float:
        """A CPU's copy of a field.

        Raises:
            OutOfRangeError: the machine has no such CPU.
        """
        self._require(cpu)
        value: int | float = self.all(field)[cpu].item()
        return value

    def write(self, field: PerCpuField, cpu: int, value: int | float) -> None:
        """Set a CPU's copy of a field.

        Raises:
            OutOfRangeError: the machine has no such CPU, or the type does not hold the value.
        """
        self._require(cpu)
        try:
            self.all(field)[cpu] = value
        except OverflowError:
            raise OutOfRangeError(f"the per-CPU field {field.name}: {value!r} is no value of {field.dtype}") from None

    def reset(self, cpu: int) -> None:
        """Bring a CPU's area to its first state: the image's bytes, and the fields' initial values."""
        at = self.area(cpu).start - self.span.start
        self._bytes[at : at + self.stride] = 0
        self._bytes[at : at + len(self.layout.image)] = np.frombuffer(self.layout.image, np.uint8)
        for field in self._fields.values():
            self.all(field)[cpu] = field.initial

    def close(self) -> None:
        """Give the frames back."""
        self._bytes = np.empty(0, np.uint8)
        self._frames.free(self.span, owner=self.owner)

    def _require(self, cpu: int) -> None:
        if not 0 <= cpu < self.cpus:
            raise OutOfRangeError(f"CPU {cpu} is none of the machine's {self.cpus}")
