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


def test_tables_lie_where_they_are_wanted_and_the_folder_is_walked_as_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for wanted in ("0x1_3000_0000:0x10_0000", "0x1_3000_0000"):
        assert call(["build", str(DEMO), "-o", str(out), "--json", "--tables-at", wanted]) == 0
        (vm,) = json.loads(capsys.readouterr().out)["vms"]
        assert vm["root"] == 0x1_3000_0000
        assert all(0x1_3000_0000 <= piece["hpa"] < 0x1_3010_0000 for piece in vm["segments"])
        ram = next(region for region in vm["regions"] if region["name"] == "ram0")
        assert all(span["end"] <= 0x1_3000_0000 or span["start"] >= 0x1_3000_0000 for span in ram["host_ranges"])
        assert call(["walk", str(out), "--gpa", "0x8000_0000", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["result"]["hpa"] == ram["host_ranges"][0]["start"]


def test_nothing_is_taken_from_what_is_reserved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reserved = ["--reserve", "0x1_2000_0000:0x2000_0000", "--reserve", "0x1000:0x1000"]
    assert call(["build", str(DEMO), "-o", str(tmp_path / "out"), "--json", *reserved]) == 0
    (vm,) = json.loads(capsys.readouterr().out)["vms"]
    spans = [span for region in vm["regions"] for span in region["host_ranges"]]
    assert all(span["end"] <= 0x1_2000_0000 for span in spans)
    assert all(piece["hpa"] < 0x1_2000_0000 for piece in vm["segments"])


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--tables-at", "0x1000", "was assumed since no host was given: name yours with --platform"),
        ("--tables-at", "0x1_3000_0000:0x1000", "larger size"),
        ("--tables-at", "0x1_3000_0001", "4 KiB is the least unit of host memory: write multiples of 0x1000"),
        ("--tables-at", "0x1_3000_0000:0", "the size is 0"),
        ("--tables-at", "here", "write ADDRESS:SIZE with both as numbers, such as 0x9000_0000:0x10_0000"),
        ("--reserve", "0x9000_0000:1MiB", "write ADDRESS:SIZE with both as numbers"),
        ("--reserve", "0x1_3000_0000", "write ADDRESS:SIZE"),
        ("--reserve", "0xffff_ffff_ffff_f000:0x2000", "beyond 64 bits"),
        ("--reserve", "0x9000_0000:0x1000", "cannot be given"),
    ],
)
def test_a_wrong_place_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, told: str
) -> None:
    assert call(["build", str(DEMO), "-o", str(tmp_path / "out"), option, value]) == 2
    streams = capsys.readouterr()
    assert told in streams.err
    assert streams.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_window_for_tables_that_reaches_into_a_reservation_is_refused_by_both_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--tables-at", "0x1_3000_0000:0x10_0000", "--reserve", "0x1_3000_0000:0x4000"]
    assert call(["build", str(DEMO), "-o", str(tmp_path / "out"), *where]) == 2
    assert capsys.readouterr().err == (
        "stage2: error: --tables-at [0x130000000, 0x130100000): [0x130000000, 0x130004000) of it is reserved: choose a "
        "window that no reservation reaches into\n"
    )


def test_the_folder_is_named_on_one_line_however_narrow_the_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = tmp_path / ("a-long-name-" * 8)
    assert call(["build", str(DEMO), "-o", str(out)]) == 0
    assert f", in {out / 'demo'}\n" in capsys.readouterr().out


def test_the_summary_says_which_host_memory_lies_behind_each_region(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["build", str(DEMO), "-o", str(tmp_path / "out"), "--json"]) == 0
    (vm,) = json.loads(capsys.readouterr().out)["vms"]
    assert call(["build", str(DEMO), "-o", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    for region in vm["regions"]:
        for span in region["host_ranges"]:
            assert f"{span['start']:#x}, {span['end']:#x})" in out, region["name"]


def test_the_header_tells_host_memory_of_regions_and_what_the_hypervisor_adds_to_registers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["build", str(DEMO), "-o", str(tmp_path / "out"), "--json"]) == 0
    (vm,) = json.loads(capsys.readouterr().out)["vms"]
    header = (tmp_path / "out" / "demo" / "tables.h").read_text()
    for region in vm["regions"]:
        for number, span in enumerate(region["host_ranges"]):
            name = f"STAGE2_DEMO_REGION_{region['name'].upper()}_HPA_{number}"
            assert f"#define {name} {span['start']:#x}ULL" in header
    assert vm["register_duties"]["hgatp"].startswith("whole")
    assert f"/* {vm['register_duties']['hgatp']} */" in header
    assert call(["build", str(DEMO), "-o", str(tmp_path / "out")]) == 0
    assert "HFENCE.GVMA" in capsys.readouterr().out
