"""Channels between VMs: memory that one VM publishes and others subscribe to while they run.

The host declares `[[share]]` memory before a VM starts; a channel is the same at run time, by the guests' own calls.
A publisher maps it read-write, each subscriber with the access the publisher granted, nobody executable. Its frames
are taken zeroed, belong to the channel, and go back, flushed and zeroed, when the last VM has let go of it.

Locks: the table's own first, then a space's, then the allocator's. A space never calls back, so the order cannot
turn round.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ..address import SIZE_2M, SIZE_4K, Gpa, Hpa, Range, align_up
from ..errors import ChannelError, OutOfMemoryError, Stage2Error
from ..flags import MappingFlags, MapType
from ..memory.frames import FrameAllocator
from ..memory.owners import Owner, OwnerKind
from ..space.address_space import AddressSpace
from ..space.region import MemoryRegion

READ_WRITE = MappingFlags.READ | MappingFlags.WRITE
CHANNEL_LIMIT = 16 << 20
"""Limit: bytes of one channel."""
PUBLISHED_LIMIT = 32 << 20
"""Limit: bytes that one VM has published, those it has unpublished but others still map included."""
COUNT_LIMIT = 64
"""Limit: channels that one VM maps, its own and others'; and those it published that still hold frames."""


@dataclass(eq=False, slots=True)
class Channel:
    """One channel.

    Args:
        publisher: id of the VM that made it.
        key: its name among that VM's channels.
        span: the frames.
        access: what subscribers may do.
        owner: whom the frames belong to.
        published: False once the publisher took it back; those who have it keep it.
        users: where each VM maps it, by VM id.
    """

    publisher: int
    key: int
    span: Range
    access: MappingFlags
    owner: Owner
    published: bool = True
    users: dict[int, Gpa] = field(default_factory=dict)


class ChannelTable:
    """All channels of a host.

    Args:
        frames: host memory.
    """

    def __init__(self, frames: FrameAllocator) -> None:
        self._frames = frames
        self._lock = threading.RLock()
        self._spaces: dict[int, AddressSpace] = {}
        self._published: dict[tuple[int, int], Channel] = {}
        self._mapped: dict[int, dict[tuple[int, int], Channel]] = {}
        self._held: list[Channel] = []
        self._made = 0

    # --- VMs ---------------------------------------------------------------------------------------------

    def join(self, vm: int, space: AddressSpace) -> None:
        """Let a VM take part.

        Raises:
            ChannelError: a VM with this id does already.
        """
        with self._lock:
            if vm in self._spaces:
                raise ChannelError(f"VM {vm} takes part already")
            self._spaces[vm] = space
            self._mapped[vm] = {}

    def leave(self, vm: int) -> None:
        """End everything a VM has published and subscribed to. Harmless when repeated."""
        with self._lock:
            if vm not in self._spaces:
                return
            for publisher, key in list(self._mapped[vm]):
                if publisher == vm:
                    self.unpublish(vm, key)
                else:
                    self.unsubscribe(vm, publisher, key)
            del self._spaces[vm], self._mapped[vm]

    # --- the four calls ----------------------------------------------------------------------------------

    def publish(self, vm: int, key: int, size: int, access: MappingFlags = MappingFlags.READ) -> Gpa:
        """Make a channel and map it read-write in the publisher.

        Args:
            vm: the publisher's id.
            key: its name, unique among the publisher's channels.
            size: bytes, rounded up to whole pages.
            access: what subscribers may do: READ, or READ and WRITE.

        Returns:
            Where the publisher sees it.

        Raises:
            ChannelError: the key is taken, the size is none, the access is odd, or a limit is reached.
            OutOfMemoryError: no frames, or no free GPA. In every case nothing changed.
        """
        with self._lock:
            space = self._space(vm)
            if access not in (MappingFlags.READ, READ_WRITE):
                raise ChannelError(f"subscribers may read, or read and write, not {access.short}")
            if (vm, key) in self._mapped[vm]:
                raise ChannelError(f"VM {vm} has published channel {key:#x} already")
            if not 0 < size <= CHANNEL_LIMIT:
                raise ChannelError(f"a channel has 1 to {CHANNEL_LIMIT:#x} bytes, not {size:#x}")
            page = space.format.page_size
            size = align_up(size, page)
            self._require_room(vm)
            mine = [channel for channel in self._held if channel.publisher == vm]
            if len(mine) >= COUNT_LIMIT or sum(channel.span.size for channel in mine) + size > PUBLISHED_LIMIT:
                raise ChannelError(f"VM {vm} has published as much as it may; {len(mine)} channels still hold frames")
            self._made += 1
            owner = Owner(OwnerKind.SHARE, f"channel {key:#x} of VM {vm} (#{self._made})")
            # A single frame would come from a block set aside for its owner, and every channel is a new owner: a guest
            # could break up all of memory. Aligned to more than itself, it comes from what is broken already.
            align = SIZE_2M if size >= SIZE_2M else max(page, 2 * SIZE_4K)
            channel = Channel(
                vm, key, Range.sized(self._frames.allocate(size, align=align, owner=owner), size), access, owner
            )
            try:
                gpa = self._map(vm, channel, READ_WRITE)
            except BaseException:
                self._frames.free(channel.span, owner=owner)
                raise
            self._held.append(channel)
            self._published[vm, key] = channel
            return gpa

    def subscribe(self, vm: int, publisher: int, key: int) -> Gpa:
        """Map another VM's channel with the access it grants; where this VM sees it.

        Raises:
            ChannelError: there is no such channel, it is this VM's own, it is subscribed to already, a limit is
                reached, or this VM's pages are too large for it.
            OutOfMemoryError: no free GPA, or no frame for a table. In every case nothing changed.
        """
        with self._lock:
            self._space(vm)
            if publisher == vm:
                raise ChannelError(f"VM {vm} published channel {key:#x} itself")
            channel = self._published.get((publisher, key))
            if channel is None:
                raise ChannelError(f"VM {publisher} publishes no channel {key:#x}")
            if (publisher, key) in self._mapped[vm]:
                raise ChannelError(f"VM {vm} has subscribed to channel {key:#x} of VM {publisher} already")
            self._require_room(vm)
            return self._map(vm, channel, channel.access)

    def unpublish(self, vm: int, key: int) -> None:
        """Take a channel back: it leaves the publisher at once, and each subscriber when that unsubscribes.

        Raises:
            ChannelError: the VM publishes no such channel.
        """
        with self._lock:
            self._space(vm)
            channel = self._published.get((vm, key))
            if channel is None:
                raise ChannelError(f"VM {vm} publishes no channel {key:#x}")
            self._unmap(vm, channel)
            del self._published[vm, key]
            channel.published = False
            self._settle(channel)

    def unsubscribe(self, vm: int, publisher: int, key: int) -> None:
        """Unmap another VM's channel.

        Raises:
            ChannelError: the VM has not subscribed to it.
        """
        with self._lock:
            self._space(vm)
            channel = self._mapped[vm].get((publisher, key))
            if channel is None or publisher == vm:
                raise ChannelError(f"VM {vm} has not subscribed to channel {key:#x} of VM {publisher}")
            self._unmap(vm, channel)
            self._settle(channel)

    def size(self, vm: int, publisher: int, key: int) -> int:
        """Bytes of a channel that a VM maps or could subscribe to.

        Raises:
            ChannelError: there is none.
        """
        with self._lock:
            self._space(vm)
            channel = self._mapped[vm].get((publisher, key)) or self._published.get((publisher, key))
            if channel is None:
                raise ChannelError(f"VM {publisher} publishes no channel {key:#x}")
            return channel.span.size

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Every channel that holds frames, unpublished ones that somebody still maps included."""
        with self._lock:
            return tuple(self._held)

    def mapped_by(self, vm: int) -> int:
        """How many channels a VM maps."""
        with self._lock:
            return len(self._mapped.get(vm, ()))

    def writers(self, span: Range, *, besides: int) -> list[str]:
        """The names of the VMs that may write to shared host memory, declared or a channel's.

        Args:
            span: HPAs.
            besides: id of a VM that is not meant.
        """
        with self._lock:
            return [
                space.name
                for vm, space in self._spaces.items()
                if vm != besides
                and any(
                    region.map_type is MapType.SHARE
                    and region.flags & MappingFlags.WRITE
                    and region.host_range is not None
                    and region.host_range.overlaps(span)
                    for region in space.memory_regions
                )
            ]

    # --- inside ------------------------------------------------------------------------------------------

    def _space(self, vm: int) -> AddressSpace:
        if vm not in self._spaces:
            raise ChannelError(f"VM {vm} takes no part in channels")
        return self._spaces[vm]

    def _require_room(self, vm: int) -> None:
        if len(self._mapped[vm]) >= COUNT_LIMIT:
            raise ChannelError(f"VM {vm} maps {COUNT_LIMIT} channels, and no VM may map more")

    def _map(self, vm: int, channel: Channel, flags: MappingFlags) -> Gpa:
        space = self._spaces[vm]
        with space.lock:
            last = max((region.end for region in space.memory_regions), default=0)
            for hint, align in ((last, SIZE_2M), (0, space.format.page_size)):
                gpa = space.find_free_area(align_up(max(hint, SIZE_4K), align), channel.span.size, align=align)
                if gpa is not None:
                    break
            else:
                raise OutOfMemoryError(f"VM {vm} has no {channel.span.size:#x} bytes of GPA free for a channel")
            # A region of a share is named as its memory is owned: that is how proofs know that it is this one.
            name = channel.owner.name
            try:
                space.map(
                    MemoryRegion(gpa, channel.span.size, flags, MapType.SHARE, Hpa(channel.span.start), name=name)
                )
            except OutOfMemoryError:
                raise
            except Stage2Error as error:
                # For instance a channel of 4 KiB pages in a VM that has pages of 64 KiB.
                raise ChannelError(f"channel {channel.key:#x} cannot be mapped in VM {vm}: {error}") from None
        channel.users[vm] = gpa
        self._mapped[vm][channel.publisher, channel.key] = channel
        return gpa

    def _unmap(self, vm: int, channel: Channel) -> None:
        space = self._spaces[vm]
        with space.lock:
            # A space that was destroyed has let go of everything by itself.
            if not space.destroyed:
                space.unmap(channel.users[vm], channel.span.size)
        del channel.users[vm]
        del self._mapped[vm][channel.publisher, channel.key]

    def _settle(self, channel: Channel) -> None:
        """Give the frames back once nobody maps them."""
        if not channel.users and not channel.published:
            self._held.remove(channel)
            self._frames.free(channel.span, owner=channel.owner)
