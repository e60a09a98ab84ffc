"""The hypervisor's linear map: virtual address = physical address + a constant."""

from __future__ import annotations

from dataclasses import dataclass

from ..address import ADDRESS_LIMIT, Hpa, Hva, Range
from ..errors import OutOfRangeError


@dataclass(frozen=True, slots=True)
class LinearMap:
    """Translates between the two addresses of the hypervisor's own memory by one addition.

    Args:
        offset: what to add to an HPA to get the HVA (`phys-virt-offset` of the platform); may be negative.
        physical: the HPAs the map covers.

    Raises:
        OutOfRangeError: the virtual side leaves the 64-bit address space.
    """

    offset: int
    physical: Range

    def __post_init__(self) -> None:
        start, end = self.physical.start + self.offset, self.physical.end + self.offset
        if start < 0 or end > ADDRESS_LIMIT:
            raise OutOfRangeError(
                f"linear map of {self.physical} with offset {self.offset:#x} leaves the 64-bit address space"
            )

    @property
    def virtual(self) -> Range:
        """The HVAs the map covers."""
        return Range(self.physical.start + self.offset, self.physical.end + self.offset)

    def phys_to_virt(self, hpa: Hpa, size: int = 1) -> Hva:
        """The HVA of an HPA whose next `size` bytes are all in the map.

        Raises:
            OutOfRangeError: they are not.
        """
        self._check("HPA", hpa, size, self.physical)
        return Hva(hpa + self.offset)

    def virt_to_phys(self, hva: Hva, size: int = 1) -> Hpa:
        """The HPA of an HVA whose next `size` bytes are all in the map.

        Raises:
            OutOfRangeError: they are not.
        """
        self._check("HVA", hva, size, self.virtual)
        return Hpa(hva - self.offset)

    @staticmethod
    def _check(what: str, address: int, size: int, span: Range) -> None:
        if size < 1 or not (span.start <= address and address + size <= span.end):
            raise OutOfRangeError(f"{size} bytes at {what} {address:#x} are not all in the linear map {span}")
