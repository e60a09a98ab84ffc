"""`--host-dtb` of show, walk, build and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stage2.cli.main import call
from trees import bus, small_tree, write_tree

VM = """\
[base]
id = 1
name = "guest"
[kernel]
entry_point = 0x9000_0000
kernel_path = "none"
kernel_load_addr = 0x9000_0000
memory_regions = [[0x9000_0000, 0x40_0000, 0x7, 0]]
[devices]
passthrough_devices = [["/soc/uart"]]
emu_devices = [["timer", 0x3000_0000, 0x1000, 0, 0x2, []]]
"""


GIVEN = "the registers of a node that the guest is given, one to one"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences with paths of temporary folders in them stay on one line."""
    monkeypatch.setenv("COLUMNS", "400")


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A VM's file and the tree of its host, which reserves the first 2 MiB of RAM."""
    root = small_tree()
    bus(root).child("uart@20000000").set_u64("reg", 0x2000_0000, 0x1000)
    kept = root.child("reserved-memory").set("#address-cells", 2).set("#size-cells", 2).set("ranges")
    kept.child("firmware@80000000").set_u64("reg", 0x8000_0000, 0x20_0000).set("no-map")
    file = tmp_path / "vm.toml"
    file.write_text(VM)
    return str(file), str(write_tree(tmp_path, root))


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert call([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_show_prints_the_map_that_will_be(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    vm, tree = files
    assert call(["show", vm, "--host-dtb", tree]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"reserved [0x80000000, 0x80200000) by {tree}:/reserved-memory/firmware@80000000" in text
    assert "Stage-2 map of VM 1 guest window 2 TiB: /cpus/cpu@0 has riscv,sv39" in text
    assert "0x20000000 0x20001000 passthrough rw-ud- = GPA /soc/uart@20000000: the registers of a node" in text
    assert "0x90000000 0x90400000 ram rwxu-- 0x80200000 RAM ram0: allocated, taken to be the first fit" in text


def test_the_map_as_json_has_every_address_and_where_its_reason_stands(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    vm, tree = files
    shown = answer(capsys, "show", vm, "--host-dtb", tree)
    found = shown["vms"][0]["map"]
    assert found["window"] == {
        "space": "GPA", "start": 0, "start_hex": "0x0", "end": 1 << 41, "end_hex": "0x20000000000",
    }  # fmt: skip
    assert [(one["range"]["start_hex"], one["kind"], one["hpa_hex"], one["name"]) for one in found["ranges"]] == [
        ("0x0", "hole", None, "nothing"),
        ("0x20000000", "passthrough", "0x20000000", "/soc/uart@20000000"),
        ("0x20001000", "hole", None, "nothing"),
        ("0x30000000", "hole", None, "device timer"),
        ("0x30001000", "hole", None, "nothing"),
        ("0x90000000", "ram", "0x80200000", "RAM ram0"),
        ("0x90400000", "hole", None, "nothing"),
    ]
    assert found["ranges"][1]["places"] == [
        {"file": vm, "line": 10, "node": None}, {"file": tree, "line": None, "node": "/soc/uart@20000000"},
    ]  # fmt: skip
    assert [one["range"]["start"] for one in found["mappings"]] == [0x2000_0000, 0x9000_0000]
    assert (found["conflicts"], found["notices"]) == ([], [])
    (device,) = [one for one in shown["vms"][0]["devices"] if one["kind"] == "passthrough"]
    assert (device["name"], device["gpa"]) == ("/soc/uart@20000000", 0x2000_0000)
    assert [one["who"] for one in shown["platform"]["reserved"]] == [f"{tree}:/reserved-memory/firmware@80000000"]


def test_without_a_tree_there_is_no_map_and_the_node_is_named_as_unresolved(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (shown,) = answer(capsys, "show", files[0])["vms"]
    assert shown["map"] is None
    assert "'/soc/uart' is a node of the host's device tree, which is not at hand: nothing is mapped" in [
        notice["text"] for notice in shown["notices"]
    ]


@pytest.mark.parametrize(
    ("gpa", "kind", "name", "reason"),
    [
        (0x2000_0000, "passthrough", "/soc/uart@20000000", GIVEN),
        (0x3000_0000, "hole", "device timer", "a device that the hypervisor plays: every access traps"),
        (0x8000_0000, "hole", "nothing", "no file and no tree puts anything here: accesses trap"),
    ],
)  # fmt: skip
def test_walk_says_why_a_gpa_is_mapped_or_a_hole(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str], gpa: int, kind: str, name: str, reason: str
) -> None:
    vm, tree = files
    why = answer(capsys, "walk", vm, "--host-dtb", tree, "--gpa", hex(gpa))["why"]
    assert (why["kind"], why["name"], why["reason"]) == (kind, name, reason)


def test_walk_says_it_in_a_sentence(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    vm, tree = files
    assert call(["walk", vm, "--host-dtb", tree, "--gpa", "0x3000_0000"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.endswith(
        "On the board [0x30000000, 0x30001000) is a hole: device timer: a device that the hypervisor plays: every "
        f"access traps [{vm}:11]."
    )


def test_walk_goes_to_the_registers_of_the_node(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    vm, tree = files
    found = answer(capsys, "walk", vm, "--host-dtb", tree, "--gpa", "0x2000_0010")
    assert found["result"]["hpa"] == 0x2000_0010
    assert found["region"]["name"] == "/soc/uart@20000000"


def test_a_tree_means_nothing_for_tables_that_are_there_already(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vm, tree = files
    assert call(["build", vm, "--host-dtb", tree, "-o", str(tmp_path / "out")]) == 0
    assert call(["walk", str(tmp_path / "out"), "--gpa", "0", "--host-dtb", tree]) == 2
    assert f"--host-dtb means nothing for {tmp_path}/out: its tables are built already" in capsys.readouterr().err


def test_build_puts_nothing_where_the_tree_reserves_memory(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vm, tree = files
    built = answer(capsys, "build", vm, "--host-dtb", tree, "-o", str(tmp_path / "out"))["vms"][0]
    hpas = [segment["hpa"] for segment in built["segments"]]
    assert len(hpas) > 0
    assert all(0x8020_0000 <= hpa < 0xC000_0000 for hpa in hpas)


def test_tables_are_not_put_into_what_the_tree_reserves(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vm, tree = files
    arguments = ["build", vm, "--host-dtb", tree, "-o", str(tmp_path / "out"), "--tables-at", "0x8010_0000:0x10_0000"]
    assert call(arguments) == 2
    said = capsys.readouterr().err
    assert "--tables-at [0x80100000, 0x80200000): " in said
    assert f"reserved by {tree}:/reserved-memory/firmware@80000000" in said


def test_identical_memory_of_the_seed_over_reserved_memory_is_refused_with_both_names(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vm, tree = files
    text = VM.replace("[0x9000_0000, 0x40_0000, 0x7, 0]", "[0x8000_0000, 0x40_0000, 0x7, 1]")
    text = text.replace("0x9000_0000", "0x8000_0000") + '[stage2]\ngeneration = "seed"\n'
    Path(vm).write_text(text)
    assert call(["walk", vm, "--host-dtb", tree, "--gpa", "0x8000_0000"]) == 2
    said = capsys.readouterr().err
    assert f"{vm}:8" in said
    assert f"reserved by {tree}:/reserved-memory/firmware@80000000" in said


def test_memory_of_map_type_2_is_what_the_tree_reserves_for_it(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    vm, tree = files
    text = VM.replace("[0x9000_0000, 0x40_0000, 0x7, 0]", "[0x8000_0000, 0x10_0000, 0x7, 2]")
    Path(vm).write_text(text.replace("0x9000_0000", "0x8000_0000"))
    assert answer(capsys, "walk", vm, "--host-dtb", tree, "--gpa", "0x8000_0000")["result"]["hpa"] == 0x8000_0000


def test_run_names_a_node_that_the_tree_does_not_have(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    vm, tree = files
    Path(vm).write_text(VM.replace("/soc/uart", "/soc/usrt@20000000"))
    assert call(["run", vm, "--host-dtb", tree]) == 2
    assert capsys.readouterr().err == (
        f"stage2: error: {vm}:10: devices.passthrough_devices[0]: {tree}: has no node '/soc/usrt@20000000' "
        "(did you mean /soc/uart@20000000?)\n"
    )


def test_a_damaged_tree_is_one_line(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    vm, tree = files
    Path(tree).write_bytes(b"\xd0\x0d\xfe\xed" + bytes(60))
    assert call(["show", vm, "--host-dtb", tree]) == 2
    assert capsys.readouterr().err == f"stage2: error: {tree}: device tree version 0 is not understood\n"


def test_two_vms_are_taken_to_be_allocated_one_after_the_other(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vm, tree = files
    second = tmp_path / "second.toml"
    second.write_text(VM.replace("id = 1", "id = 2").replace('"guest"', '"second"'))
    shown = answer(capsys, "show", vm, str(second), "--host-dtb", tree)["vms"]
    assert [one["hpa"] for found in shown for one in found["map"]["ranges"] if one["kind"] == "ram"] == [
        0x8020_0000, 0x8060_0000,
    ]  # fmt: skip


def test_a_notice_says_which_memory_the_tree_gave_beside_a_platform_file(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vm, tree = files
    platform = tmp_path / "host.toml"
    platform.write_text(
        'arch = "riscv64"\nplatform = "mine"\n[plat]\nphys-memory-base = 0x8000_0000\nphys-memory-size = 0x1000_0000\n'
        "kernel-base-paddr = 0x8020_0000\n"
    )
    shown = answer(capsys, "show", vm, "--platform", str(platform), "--host-dtb", tree)
    assert [one["end"] for one in shown["platform"]["memory"]] == [0xC000_0000]
    assert "RAM is what" in shown["platform"]["notices"][0]["text"]
    (ram,) = [one for one in shown["vms"][0]["map"]["ranges"] if one["kind"] == "ram"]
    assert ram["hpa"] > 0x8020_0000
