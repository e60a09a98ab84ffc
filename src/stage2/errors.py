"""Every exception this package raises on purpose.

    Stage2Error
    ├── ConfigError            a file is wrong: carries file, line, key
    ├── ImageError             a guest image is missing, unreadable or does not fit
    ├── AddressError           an address or a range is wrong
    │   ├── MisalignedError
    │   ├── OutOfRangeError    outside the space, the format's width or host memory
    │   └── EmptyRangeError    size 0, or end before start
    ├── MappingError           an edit of a table or of a region map was refused; nothing changed
    │   ├── OverlapError       something is mapped or declared there already
    │   └── NotMappedError
    ├── EncodingError          a format cannot express what was asked for
    ├── FrameError             physical memory
    │   ├── OutOfMemoryError
    │   └── OwnerConflictError somebody else holds the frames
    ├── GuestAccessError       guest memory cannot be accessed as asked: carries address, available, fault
    │   ├── GuestUnmappedError       nothing is there (*)
    │   ├── GuestEndOfRegionError    begins in memory and runs beyond what is there (*)
    │   ├── GuestNotMemoryError      a device, or no host memory behind it (*)
    │   ├── GuestDeniedError         there, but not for this access
    │   └── GuestNotContiguousError  there, but not in one piece of host memory
    ├── StaleTranslationError  the checker: a TLB may still hold what a table no longer says
    ├── ChannelError           a VM's call about a channel is refused; nothing changed
    ├── SnapshotError          a machine's state cannot be saved, read or put back; nothing changed
    ├── SourceError            a memory source (a dump, a live machine) cannot be read, or tells too little
    ├── TableImageError        a folder of tables cannot be written or read back
    ├── EngineError            a CPU engine is missing or not the one we know
    ├── MachineError           an emulated machine did not start, did not answer, or died
    └── HostToolError          a program of the host is missing or failed

(*) is an OutOfRangeError as well.

A memory access that a table forbids is no exception: it is a `Fault`, a value.
"""


class Stage2Error(Exception):
    """Base of all deliberate errors; its text is fit to be shown to a user as it is."""


class ConfigError(Stage2Error):
    """A configuration file is wrong.

    Args:
        problem: what is wrong, with the value found and what is allowed.
        file: path of the file as the user named it.
        line: 1-based line of the offending key or value, when known.
        key: dotted key (`kernel.memory_regions[0]`), when known.
    """

    def __init__(
        self, problem: str, *, file: str | None = None, line: int | None = None, key: str | None = None
    ) -> None:
        self.problem, self.file, self.line, self.key = problem, file, line, key
        place = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(": ".join(part for part in (place, key, problem) if part))


class ImageError(ConfigError):
    """A guest image is missing, unreadable, or does not fit where it is to be loaded."""


class AddressError(Stage2Error):
    """An address or a range is wrong."""


class MisalignedError(AddressError):
    """An address or a size is not a multiple of what it must be."""


class OutOfRangeError(AddressError):
    """An address is outside the space, wider than the format, or outside host memory."""


class EmptyRangeError(AddressError):
    """A range has no byte in it."""


class MappingError(Stage2Error):
    """An edit was refused; tables, regions, frames and owners are as before."""


class OverlapError(MappingError):
    """Something is mapped or declared there already."""


class NotMappedError(MappingError):
    """Nothing is mapped or declared there."""


class EncodingError(Stage2Error):
    """A format cannot express what was asked for (permissions, memory type, level)."""


class FrameError(Stage2Error):
    """Physical memory cannot be had or is not held as claimed."""


class OutOfMemoryError(FrameError):
    """No frame, or no contiguous run of them, is left."""


class OwnerConflictError(FrameError):
    """The frames belong to somebody else."""


class GuestAccessError(Stage2Error):
    """Guest memory cannot be accessed as asked; of what was to be written, nothing was.

    Args:
        problem: one line with the address and the VM.
        address: the lowest address refused, of the kind the access used (GPA or GVA).
        available: bytes before it that the access could have had.
        fault: by GVA, the `tables.result.Fault` that a CPU would have taken there; None where there is none.
    """

    def __init__(self, problem: str, *, address: int, available: int = 0, fault: object | None = None) -> None:
        self.problem, self.address, self.available, self.fault = problem, address, available, fault
        super().__init__(problem)


class GuestUnmappedError(GuestAccessError, OutOfRangeError):
    """Nothing is declared at the first byte; by GVA, it does not translate."""


class GuestEndOfRegionError(GuestAccessError, OutOfRangeError):
    """The access begins in what is there and runs beyond it."""


class GuestNotMemoryError(GuestAccessError, OutOfRangeError):
    """A device is declared there, or what is declared has no host memory behind it."""


class GuestDeniedError(GuestAccessError):
    """The guest may not access it so."""


class GuestNotContiguousError(GuestAccessError):
    """The bytes are there but not in one piece of host memory; `available` is how many of them are."""


class StaleTranslationError(Stage2Error):
    """After an edit, a TLB may hold what the table no longer says: an invalidation that was owed was left out."""


class IsolationError(Stage2Error):
    """What a hypervisor owes its VMs does not hold on the tables as they are: the text says the theorem and why."""


class OwedInvalidationsWarning(ResourceWarning):
    """An edit owed operations to TLBs, nothing did them, and nobody looked at `Edit.owed` before it was dropped.

    Python shows it where it shows what else was left undone: under `-X dev`, `-W default`, and in pytest.
    """


class ChannelError(Stage2Error):
    """A call about a channel between VMs is refused; nothing changed."""


class SnapshotError(Stage2Error):
    """The state of a machine cannot be saved, read or put back; machine and memory are as before."""


class SourceError(Stage2Error):
    """A memory source cannot be opened or read, or does not tell what is needed."""


class TableImageError(Stage2Error):
    """A folder of tables cannot be written, or is not what `stage2 build` wrote."""


class EngineError(Stage2Error):
    """A CPU engine is missing, or is not the build whose behaviour is known."""


class MachineError(Stage2Error):
    """An emulated machine did not start, did not answer in time, or ended; the text has what it said."""


class HostToolError(Stage2Error):
    """A program of the host is missing or failed."""
