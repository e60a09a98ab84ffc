"""Several VMs on one host: whether their files can be run together, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from ..address import Range
from ..flags import MapType
from ..place import Place, Rewrite
from ..ranges import RangeMap
from ..space.region import MemoryRegion
from .conflict import Claim, ConflictError, Refuse, raise_it
from .document import Notice
from .extensions import ShareDeclaration
from .regions import PlannedVm
from .vm import VmConfig
from .wording import shown


@dataclass(frozen=True, slots=True)
class ShareGroup:
    """Memory several VMs agreed to share.

    Args:
        name: its name in all of them.
        size: bytes.
        members: each VM with its declaration (where it sees the memory, and what it may do).
    """

    name: str
    size: int
    members: tuple[tuple[VmConfig, ShareDeclaration], ...]


@dataclass(frozen=True, slots=True)
class Together:
    """What was found about VMs that are to run together.

    Args:
        shares: agreed shares, by name.
        notices: what is allowed but worth knowing, as a device that two VMs drive.
    """

    shares: tuple[ShareGroup, ...]
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True)
class _Claim:
    """A stretch of host memory that a VM reaches at a fixed HPA."""

    vm: VmConfig
    region: MemoryRegion
    span: Range

    @property
    def place(self) -> Place:
        """The region's own line."""
        return (self.region.place or self.vm.place).whole_line

    @property
    def stated(self) -> Claim:
        """It as a party to a conflict."""
        return Claim(
            f"{self.region.map_type.noun} {shown(self.region.label)} of {self.vm.label}", self.place, self.span, "HPA"
        )

    def __str__(self) -> str:
        kind = "device" if self.region.map_type is MapType.MMIO else self.region.map_type.value
        return f"{kind} {shown(self.region.label)} of {self.vm.label} at HPA {self.span} ({self.region.place})"


def check_together(vms: Sequence[PlannedVm], refuse: Refuse = raise_it) -> Together:
    """Check VMs that are to run on one host.

    Ids must differ, and host CPUs that are dedicated to one VM. Host memory that one VM maps one to one must belong to
    no other VM. Every share must be declared by all who take part: same name, same size, naming each other. A device
    that two VMs are given is a notice.

    Args:
        vms: the VMs.
        refuse: what is done with a broken rule.

    Raises:
        ConfigError: one of these rules is broken, and `refuse` does not go on.
    """
    notices: list[Notice] = []
    ids: dict[int, VmConfig] = {}
    taken = {vm.id for vm in vms}
    names: dict[str, VmConfig] = {}
    for vm in vms:
        if vm.id in ids:
            other = ids[vm.id]
            same = " (the same file twice?)" if vm.file == other.file else ""
            problem = (
                f"VM id {vm.id} is taken by {shown(other.name)} of {other.place}{same}: "
                "to run both, give one of them another id in [base]"
            )
            free = next(number for number in count(1) if number not in taken)
            taken.add(free)
            rewrite = None if vm.id_place is None or same else Rewrite(vm.id_place, str(free))
            claims = (Claim(vm.label, vm.id_place or vm.place), Claim(other.label, other.id_place or other.place))
            refuse(ConflictError("same-id", problem, claims, rewrite=rewrite))
        ids[vm.id] = vm
        if vm.name in names:
            notices.append(
                Notice(f"{vm.label} has the name of {names[vm.name].label} of {names[vm.name].file}", vm.place)
            )
        names.setdefault(vm.name, vm)
    _check_dedicated(vms, refuse)
    notices += _check_host_memory(vms, refuse)
    return Together(_agree(vms, refuse), tuple(notices))


def _check_dedicated(vms: Sequence[VmConfig], refuse: Refuse) -> None:
    """Refuse a host CPU that two VMs have for themselves alone."""
    taken: dict[int, VmConfig] = {}
    for vm in vms:
        if not vm.dedicated_cpus:
            continue
        masks = 0
        for mask in vm.phys_cpu_sets or ():
            masks |= mask
        for cpu in (cpu for cpu in range(masks.bit_length()) if masks >> cpu & 1):
            if cpu in taken:
                other = taken[cpu]
                problem = (
                    f"{vm.label} and {other.label} of {other.place} both have host CPU {cpu} dedicated to them: "
                    "give them masks of different CPUs in phys_cpu_sets"
                )
                claims = (Claim(vm.label, vm.place), Claim(other.label, other.place))
                refuse(ConflictError("dedicated-cpu", problem, claims))
        taken |= dict.fromkeys((cpu for cpu in range(masks.bit_length()) if masks >> cpu & 1), vm)


def _check_host_memory(vms: Sequence[PlannedVm], refuse: Refuse) -> list[Notice]:
    ram: RangeMap[_Claim] = RangeMap(merge=False)
    devices: list[list[_Claim]] = []
    for vm in vms:
        devices.append([])
        for region in vm.plan.regions:
            host = region.host_range
            if host is None or not region.map_type.fixed_hpa:
                continue
            claim = _Claim(vm, region, host)
            if not region.map_type.is_ram:
                devices[-1].append(claim)
                continue
            for _, held in ram.overlapping(claim.span):
                refuse(_conflict(claim, held))
            ram.set(claim.span, claim)
    notices: list[Notice] = []
    driven: RangeMap[_Claim] = RangeMap(merge=False)
    for claims in devices:
        for claim in claims:
            for owner in _of_others(claim, ram):
                refuse(_conflict(claim, owner))
            # Of a device that many have, the first who has it: all pairs of a thousand VMs would be half a million.
            notices += [_both(claim, other) for other in _of_others(claim, driven)]
        for claim in claims:
            for gap in driven.gaps(claim.span):
                driven.add(gap, claim)
    return notices


def _of_others(claim: _Claim, held: RangeMap[_Claim]) -> list[_Claim]:
    """What another VM has of a claim's memory: for each VM the first piece."""
    found: dict[int, _Claim] = {}
    for _, one in held.overlapping(claim.span):
        if one.vm is not claim.vm:
            found.setdefault(id(one.vm), one)
    return list(found.values())


def _conflict(claim: _Claim, held: _Claim) -> ConflictError:
    shared = held.span.intersection(claim.span)
    problem = (
        f"{claim} and {held} meet in {shared}: one VM would reach the other's memory; move one, use map_type 0, "
        "or declare the memory with [[share]] in both"
    )
    return ConflictError("host-memory", problem, (claim.stated, held.stated), shared)


def _both(claim: _Claim, held: _Claim) -> Notice:
    shared = held.span.intersection(claim.span)
    return Notice(f"{claim} and {held}: both VMs drive what is in {shared}", claim.place, "two-drivers")


def _agree(vms: Sequence[VmConfig], refuse: Refuse) -> tuple[ShareGroup, ...]:
    declared: dict[str, list[tuple[VmConfig, ShareDeclaration]]] = {}
    for vm in vms:
        for share in vm.shares:
            declared.setdefault(share.name, []).append((vm, share))
    groups = []
    for name, members in sorted(declared.items()):
        parties = {vm.id for vm, _ in members}
        for vm, share in members:
            _check_share(vm, share, members, _peers(vm, share, vms, refuse), parties, refuse)
        groups.append(ShareGroup(name, members[0][1].size, tuple(members)))
    return tuple(groups)


def _disagreement(vm: VmConfig, share: ShareDeclaration, problem: str, *others: Place) -> ConflictError:
    name = f"share {shown(share.name)}"
    claim = Claim(f"{name} of {vm.label}", share.place, Range.sized(share.gpa, share.size))
    return ConflictError("share", problem, (claim, *(Claim(name, place) for place in others)))


def _peers(vm: VmConfig, share: ShareDeclaration, vms: Sequence[VmConfig], refuse: Refuse) -> dict[int, VmConfig]:
    """The VMs a share names, by id."""
    found: dict[int, VmConfig] = {}
    for peer in share.peers:
        matches = [other for other in vms if peer == (other.id if isinstance(peer, int) else other.name)]
        what = f"share {shown(share.name)}: peer {shown(peer)}"
        if not matches:
            known = ", ".join(other.label for other in vms[:8])
            problem = f"is none of the VMs given, {known}: give the file of each VM that shares it, in one command"
        elif len(matches) > 1:
            problem = f"is the name of {len(matches)} VMs: name it by its id"
        elif matches[0] is vm:
            problem = "is this VM itself: name the others"
        else:
            found[matches[0].id] = matches[0]
            continue
        refuse(_disagreement(vm, share, f"{what} {problem}"))
    return found


def _check_share(
    vm: VmConfig,
    share: ShareDeclaration,
    members: Sequence[tuple[VmConfig, ShareDeclaration]],
    peers: dict[int, VmConfig],
    parties: set[int],
    refuse: Refuse,
) -> None:
    name = shown(share.name)
    for peer_id, peer in peers.items():
        if peer_id not in parties:
            problem = (
                f"{vm.label} shares {name} with {peer.label}, but {peer.file} does not declare it: a share holds "
                f"only when all declare it; add a [[share]] with this name and size {share.size:#x} there"
            )
            refuse(_disagreement(vm, share, problem, peer.place))
    for other, declaration in members:
        if other is not vm and other.id not in peers:
            problem = (
                f"{other.label} declares share {name} too ({declaration.place}), but is no peer of {vm.label} here: "
                "add it to peers, or give its share another name"
            )
            refuse(_disagreement(vm, share, problem, declaration.place))
        if declaration.size != share.size:
            problem = (
                f"share {name} has {share.size:#x} bytes here and {declaration.size:#x} in {declaration.place}: "
                "make them equal"
            )
            refuse(_disagreement(vm, share, problem, declaration.place))
