"""`stage2 prove`: files and folders, text and JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from json_schemas import require_schema
from stage2.cli.main import call

VM = """\
[base]
id = {number}
name = "vm{number}"
vm_type = 1
cpu_num = 1
arch = "riscv64"
[kernel]
entry_point = 0x8000_0000
kernel_load_addr = 0x8000_0000
memory_regions = [[0x8000_0000, 0x40_0000, 0x7, 0]]
[devices]
passthrough_devices = [{device}]
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        device = '["uart", 0x1000_0000, 0x1000_0000, 0x1000, 10]' if number == 1 else ""
        Path(f"vm{number}.toml").write_text(VM.format(number=number, device=device))
    return ["vm1.toml", "vm2.toml"]


def test_isolated_vms_are_proved_as_text_and_as_json(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["prove", *files]) == 0
    assert capsys.readouterr().out.rstrip().endswith("proved: 5 theorems hold.")
    assert call(["prove", *files, "--json"]) == 0
    answer = capsys.readouterr().out
    require_schema("prove", answer)
    found = json.loads(answer)
    assert found["proved"] is True
    assert {one["name"]: one["holds"] for one in found["theorems"]} == {
        "apart": True, "owned": True, "declared": True, "wx": None, "wellformed": True, "tlb": None, "dma": True,
    }  # fmt: skip
    assert all(one["assumed"] for one in found["theorems"])


def test_a_folder_is_proved_and_changed_bytes_are_refused_or_refuted(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["build", *files, "-o", "out"]) == 0
    capsys.readouterr()
    assert call(["prove", "out"]) == 0
    text = capsys.readouterr().out
    assert "owned does not apply" in text
    assert "apart holds" in text
    tables = next(Path("out").rglob("tables-*.bin"))
    data = bytearray(tables.read_bytes())
    data[8] ^= 0xFF
    tables.write_bytes(data)
    assert call(["prove", "out"]) == 2
    assert "SHA-256" in capsys.readouterr().err


def test_a_refuted_folder_names_the_witness_with_its_walk(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["build", *files, "-o", "out"]) == 0
    manifest = json.loads(Path("out/manifest.json").read_text())
    manifest["vms"][0]["regions"] = manifest["vms"][0]["regions"][1:]
    Path("out/manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert call(["prove", "out", "--json"]) == 1
    answer = capsys.readouterr().out
    require_schema("prove", answer)
    (refuted,) = (one for one in json.loads(answer)["theorems"] if one["holds"] is False)
    assert refuted["name"] == "declared"
    seat = refuted["witness"]["seat"]
    assert seat["walk"]["result"]["hpa"] == refuted["witness"]["hpa"]
    assert call(["prove", "out"]) == 1
    assert "where it declares nothing" in " ".join(capsys.readouterr().out.split())


def test_bad_input_is_one_line(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments in (["prove", "empty"], ["prove", "nothing.toml"], ["prove"]):
        assert call(arguments) == 2
        assert capsys.readouterr().err.startswith("stage2: error")


def certified(capsys: pytest.CaptureFixture[str], files: list[str]) -> None:
    """A folder of tables, and its certificate."""
    assert call(["build", *files, "-o", "out"]) == 0
    assert call(["prove", "out", "--certificate", "proof.json"]) == 0
    capsys.readouterr()


def test_a_certificate_is_verified_by_a_second_look(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    certified(capsys, files)
    assert call(["prove", "--verify", "proof.json", "out"]) == 0
    text = capsys.readouterr().out
    assert "apart holds\n" in text
    assert "owned was not proved anew: nothing says who owns the host's memory" in text
    assert "verified: the tables are those of the certificate, and 3 theorems hold" in text
    assert call(["prove", "--verify", "proof.json", "out", "--json"]) == 0
    answer = capsys.readouterr().out
    require_schema("verify", answer)
    assert json.loads(answer)["leaves"] > 4
    # The same files make the same tables.
    assert call(["prove", "--verify", "proof.json", *files]) == 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"leaves"', '"leafs"', "leaves is 3, and the certificate says None"),
        ('"tables": 1,', '"tables": 2,', "are not the certificate's"),
        ('"format": "sv39x4"', '"format": "sv48x4"', "the certificate says"),
        ('"controls": ', '"controls": 1', "the certificate says"),
    ],
)
def test_a_changed_certificate_is_not_verified(
    old: str, new: str, told: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    certified(capsys, files)
    text = Path("proof.json").read_text()
    assert old in text
    Path("proof.json").write_text(text.replace(old, new, 1))
    assert call(["prove", "--verify", "proof.json", "out"]) == 1
    assert told in " ".join(capsys.readouterr().out.split())


def test_other_tables_are_not_verified(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    certified(capsys, files)
    assert call(["prove", "--verify", "proof.json", *files, "--page-size", "4k"]) == 1
    assert call(["prove", "--verify", "proof.json", files[0]]) == 1
    assert "about 2 spaces, and here are 1" in capsys.readouterr().out


def test_what_is_no_certificate_is_one_line(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    certified(capsys, files)
    Path("proof.ranges").write_bytes(Path("proof.ranges").read_bytes()[:-1])
    for name in ("proof.json", "vm1.toml", "nothing.json"):
        assert call(["prove", "--verify", name, "out"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert call(["prove", "out", "--certificate", "proof"]) == 2
    assert "ends in .json" in capsys.readouterr().err


PLATFORM = """\
arch = "riscv64"
platform = "board"
[plat]
phys-memory-base = 0x8000_0000
phys-memory-size = 0x800_0000
kernel-base-paddr = 0x8020_0000
kernel-base-vaddr = "0xffff_ffc0_8020_0000"
phys-virt-offset = "0xffff_ffc0_0000_0000"
[devices]
mmio-regions = [[0x1000_0000, 0x1000]]
"""


def test_damaged_tables_of_the_hypervisor_are_an_error_and_not_left_out(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("board.toml").write_text(PLATFORM)
    assert call(["build", *files, "--platform", "board.toml", "-o", "out"]) == 0
    capsys.readouterr()
    assert call(["prove", "out"]) == 0
    assert "wx holds" in capsys.readouterr().out
    manifest = json.loads(Path("out/manifest.json").read_text())
    segment = Path("out", manifest["hypervisor"]["halves"][0]["segments"][0]["file"])
    segment.write_bytes(bytes(len(segment.read_bytes())))
    assert call(["prove", "out"]) == 2
    assert "SHA-256" in capsys.readouterr().err
