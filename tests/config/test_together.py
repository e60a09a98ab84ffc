"""VMs that are to run on one host."""

from __future__ import annotations

import pytest

from stage2.config.document import parse_document
from stage2.config.regions import PlannedVm, plan_vm
from stage2.config.together import check_together
from stage2.config.vm import read_vm
from stage2.errors import ConfigError


def vm_of(
    vm_id: int,
    name: str = "",
    memory: str = "[0x8000_0000, 0x1000, 7, 0]",
    devices: str = "",
    shares: tuple[str, ...] = (),
) -> PlannedVm:
    document = parse_document(
        f'[base]\nid = {vm_id}\nname = "{name or f"vm{vm_id}"}"\n[kernel]\nentry_point = 0x8000_0000\n'
        f"kernel_load_addr = 0x8000_0000\nmemory_regions = [{memory}]\n"
        f"[devices]\npassthrough_devices = [{devices}]\n" + "".join(shares),
        f"{name or f'vm{vm_id}'}.toml",
    )
    return plan_vm(read_vm(document))


def share(peers: str, name: str = "ring", size: int = 0x1000, access: str = "rw") -> str:
    return f'[[share]]\nname = "{name}"\ngpa = 0x1000\nsize = {size}\naccess = "{access}"\npeers = [{peers}]\n'


def error_of(*vms: PlannedVm) -> str:
    with pytest.raises(ConfigError) as caught:
        check_together(vms)
    return str(caught.value)


def test_ids_must_differ() -> None:
    assert error_of(vm_of(1, "a"), vm_of(1, "b")) == (
        "b.toml:2: base.id: VM id 1 is taken by 'a' of a.toml:1: to run both, give one of them another id in [base]"
    )
    assert "(the same file twice?)" in error_of(vm_of(1, "a"), vm_of(1, "a"))


def test_equal_names_are_a_notice() -> None:
    assert "has the name of VM 1 'a'" in check_together([vm_of(1, "a"), vm_of(2, "a")]).notices[0].text


@pytest.mark.parametrize("map_type", [1, 2])
def test_host_memory_of_one_vm_belongs_to_no_other(map_type: int) -> None:
    message = error_of(
        vm_of(1, memory="[0x8000_0000, 0x3000, 7, 1]"),
        vm_of(2, memory=f"[0x8000_0000, 0x1000, 7, 0], [0x8000_2000, 0x2000, 7, {map_type}]"),
    )
    assert message.startswith("vm2.toml:7: ")
    for part in ("VM 1 'vm1'", "VM 2 'vm2'", "[0x80002000, 0x80004000)", "meet in [0x80002000, 0x80003000)"):
        assert part in message


def test_ram_at_the_same_gpa_is_no_conflict() -> None:
    together = check_together([vm_of(1), vm_of(2)])
    assert (together.shares, together.notices) == ((), ())


def test_a_device_of_one_vm_cannot_be_memory_of_another() -> None:
    # The second VM's own alias must not hide the first VM's device.
    first = vm_of(1, devices='["d", 0x1000, 0x9000_0000, 0x4000, 1]')
    second = vm_of(
        2,
        memory="[0x8000_0000, 0x1000, 7, 0], [0x9000_2000, 0x4000, 7, 1]",
        devices='["alias", 0x1000, 0x9000_0000, 0x8000, 1]',
    )
    for vms in ((first, second), (second, first)):
        assert "one VM would reach the other's memory" in error_of(*vms)


def test_a_device_that_two_vms_drive_is_a_notice() -> None:
    device = '["gic", 0x800_0000, 0x800_0000, 0x1_0000, 1]'
    notices = check_together([vm_of(1, devices=device), vm_of(2, devices=device)]).notices
    assert len(notices) == 1
    assert "both VMs drive what is in [0x8000000, 0x8010000)" in notices[0].text


def test_a_share_holds_when_all_declare_it() -> None:
    together = check_together(
        [
            vm_of(1, shares=(share('"vm2", 3'),)),
            vm_of(2, shares=(share('1, "vm3"', access="r"),)),
            vm_of(3, shares=(share("1, 2"),)),
        ]
    )
    assert [(g.name, g.size, [vm.id for vm, _ in g.members]) for g in together.shares] == [("ring", 0x1000, [1, 2, 3])]


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        (
            share("2"),
            "",
            "vm1.toml:10: share[0]: VM 1 'vm1' shares 'ring' with VM 2 'vm2', but vm2.toml does not declare it",
        ),
        (
            share("9"),
            "",
            "share 'ring': peer 9 is none of the VMs given, VM 1 'vm1', VM 2 'vm2': give the file of each",
        ),
        (share("1"), "", "share 'ring': peer 1 is this VM itself"),
        (share("2"), share("1", name="rung"), "vm2.toml does not declare it"),
        (share("2"), share("1", size=0x2000), "share 'ring' has 0x1000 bytes here and 0x2000 in vm2.toml:10"),
    ],
)
def test_a_share_that_is_not_agreed_on_is_refused(first: str, second: str, problem: str) -> None:
    assert problem in error_of(vm_of(1, shares=(first,)), vm_of(2, shares=(second,)))


def test_a_vm_cannot_join_a_share_unasked() -> None:
    message = error_of(
        vm_of(1, shares=(share("2"),)), vm_of(2, shares=(share("1"),)), vm_of(3, shares=(share("1, 2"),))
    )
    assert "VM 3 'vm3' declares share 'ring' too (vm3.toml:10), but is no peer of VM 1 'vm1' here" in message


def test_a_peer_must_be_named_without_doubt() -> None:
    message = error_of(vm_of(1, shares=(share('"twin"'),)), vm_of(2, "twin"), vm_of(3, "twin"))
    assert "peer 'twin' is the name of 2 VMs: name it by its id" in message
