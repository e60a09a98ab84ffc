"""`stage2 show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stage2.cli.main import call

FIXTURES = Path(__file__).parents[1] / "config" / "fixtures"
SEED, HEAD, OURS = (str(FIXTURES / f"{name}.toml") for name in ("seed", "head", "extensions"))
PLATFORM = """\
arch = "riscv64"
platform = "board"
[plat]
phys-memory-base = 0x8000_0000
phys-memory-size = 0x800_0000
[devices]
mmio-regions = [[0x1000_0000, 0x1000]]
"""


@pytest.fixture
def others(tmp_path: Path) -> dict[str, str]:
    """A file of each other kind."""
    texts = {
        "platform": PLATFORM,
        "defconfig": "smp = 4\nticks-per-sec = 1000\n",
        "board": 'target = "aarch64-unknown-none"\nfeatures = ["fs"]\n',
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.toml").write_text(text)
    return {name: str(tmp_path / f"{name}.toml") for name in texts}


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert call(["show", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, SEED)
    assert found["platform"] is None
    (vm,) = found["vms"]
    assert (vm["name"], vm["id"]) == ("old", 7)
    assert {"regions", "devices", "images"} <= set(vm)
    ram = [(r["start"], r["size"], r["flags"], r["map_type"]) for r in vm["regions"] if isinstance(r["map_type"], int)]
    assert ram == [(0x4000_0000, 0x100_0000, 7, 0), (0x8000_0000, 0x20_0000, 0xF, 1)]


def test_the_platform_is_shown_beside_the_vm(capsys: pytest.CaptureFixture[str], others: dict[str, str]) -> None:
    found = shown(capsys, SEED, "--platform", others["platform"])
    assert found["platform"]["arch"] == "riscv64"
    assert [(span["space"], span["start"], span["size"]) for span in found["platform"]["memory"]] == [
        ("HPA", 0x8000_0000, 0x800_0000)
    ]
    assert [entry["kind"] for entry in found["files"]] == ["vm"]


def test_other_files_are_recognised(capsys: pytest.CaptureFixture[str], others: dict[str, str]) -> None:
    found = shown(capsys, *others.values())
    assert found["vms"] == []
    kinds = {entry["kind"]: entry for entry in found["files"]}
    assert set(kinds) == {"platform", "defconfig", "board"}
    assert kinds["defconfig"]["smp"] == 4
    assert kinds["board"]["arch"] == "aarch64"
    assert found["platform"]["platform"] == "board"


def test_text_names_what_each_file_is(capsys: pytest.CaptureFixture[str], others: dict[str, str]) -> None:
    assert call(["show", *others.values()]) == 0
    text = capsys.readouterr().out
    assert all(title in text for title in ("Platform board", "Defconfig", "Board"))
    assert "describes no memory" in text


def test_vms_that_cannot_run_together_are_still_shown(capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, SEED, SEED)
    assert len(found["vms"]) == 2
    assert "id 7" in found["together"] or "0x7" in found["together"]
    assert call(["show", SEED, SEED]) == 0
    assert "cannot be run together" in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["80", "120"])
def test_a_pipe_gets_plain_lines_that_fit(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert call(["show", HEAD, OURS]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    lines = text.splitlines()
    assert all(len(line) <= int(columns) for line in lines)
    assert all(line == line.rstrip() for line in lines)
    # Numbers are never cut or folded. The other VM has what the identical memory of this one is written at.
    assert any("0x40000000" in line and "0x80000000" in line and "MAP_IDENTICAL  assumed" in line for line in lines)
    assert "fetched:firmware" in text


def test_markup_in_a_name_is_only_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vm.toml"
    path.write_text(Path(OURS).read_text().replace('name = "ours"', 'name = "[red]x[/nope] :smile:"'))
    assert call(["show", str(path)]) == 0
    assert "VM 3 [red]x[/nope] :smile:\n" in capsys.readouterr().out
