"""`stage2 build`, and `stage2 walk` on what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stage2.cli.main import call
from stage2.render.json_text import with_hex

DEMO = Path(__file__).parents[2] / "src" / "stage2" / "vm" / "guests" / "demo-riscv64.toml"
HOSTILE = DEMO.with_name("hostile-riscv64.toml")


def test_what_is_built_is_walked_like_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call(["build", str(DEMO), str(HOSTILE), "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert "VM 1 demo: " in text
    assert "hgatp  0x8000" in text
    for vm in ("demo", "hostile"):
        files = [str(DEMO), str(HOSTILE)]
        for gpa in ("0x2000_0000", "0x8000_0008", "0x3000_0000"):
            assert call(["walk", *files, "--vm", vm, "--gpa", gpa, "--json"]) == 0
            live = json.loads(capsys.readouterr().out)
            assert call(["walk", str(out), "--vm", vm, "--gpa", gpa, "--json"]) == 0
            stored = json.loads(capsys.readouterr().out)
            assert stored["steps"] == live["steps"]
            assert stored["result"].get("hpa") == live["result"].get("hpa")
            assert (stored["region"] or {}).get("name") == (live["region"] or {}).get("name")


def test_the_manifest_is_printed_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["build", str(DEMO), "-o", str(tmp_path / "out"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["vms"] == with_hex(json.loads((tmp_path / "out" / "manifest.json").read_text()))["vms"]


def test_lazy_tables_hold_only_what_is_fixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["build", str(DEMO), "-o", str(tmp_path / "out"), "--populate", "lazy", "--json"]) == 0
    (vm,) = json.loads(capsys.readouterr().out)["vms"]
    assert vm["mapped_bytes"] == 0x200000 + 0x1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["build", str(DEMO)], "output"),
        (["walk", "DIR", "--gpa", "0", "--touch"], "--touch means nothing for DIR"),
        (["walk", "DIR", "--gpa", "0", "--populate", "lazy"], "--populate means nothing for DIR"),
        (["walk", "DIR", str(DEMO), "--gpa", "0"], "DIR is a folder: give it alone"),
        (["walk", "DIR", "--gpa", "0", "--vm", "nobody"], "--vm nobody: no VM is called so in DIR: there are demo"),
        (["walk", str(DEMO), "--gpa", "0", "--vm", "nobody"], "--vm nobody: no VM is called so in the files"),
        (["walk", "EMPTY", "--gpa", "0"], "EMPTY has no manifest.json"),
        (["build", str(DEMO), "-o", "FOREIGN"], "FOREIGN holds files that are not ours"),
        (["build", "none.toml", "-o", "NEW"], "none.toml"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    places = {name: tmp_path / name for name in ("DIR", "EMPTY", "FOREIGN", "NEW")}
    places["EMPTY"].mkdir()
    places["FOREIGN"].mkdir()
    (places["FOREIGN"] / "file").write_text("x")
    assert call(["build", str(DEMO), "-o", str(places["DIR"])]) == 0
    capsys.readouterr()
    assert call([str(places.get(word, word)) for word in arguments]) == 2
    error = capsys.readouterr().err
    for name, place in places.items():
        error = error.replace(str(place), name)
    assert says in error
    assert error.count("\n") == 1
    assert not places["NEW"].exists()
