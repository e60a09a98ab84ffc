"""One tiny input for each rule of `stage2 check`, in a folder named after its code and its fault."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faults import FAULTS, expected_of, stand_in
from stage2.check import conflicts, every, guest_images, guest_tree, kernel_layout
from stage2.cli.main import call
from waiting import HANG_S


def findings(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, list[Any]]:
    """What the command says of files, and its exit code."""
    code = call(["check", "--json", *arguments])
    streams = capsys.readouterr()
    assert streams.err == ""
    return code, json.loads(streams.out)["findings"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda folder: folder.name)
def test_a_fault_is_found_once_and_told_in_one_whole_message(
    fault: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = stand_in(fault, tmp_path, monkeypatch)
    expected = expected_of(fault)
    code, found = findings(capsys, arguments)
    finding, *others = found
    assert finding["code"] == fault.name.partition("-")[0]
    assert [other["code"] for other in others] == expected.get("also", [])
    assert (finding["edit"] or {}).get("text") == expected.get("writes")
    assert (finding["severity"], finding["message"]) == (expected["severity"], expected["message"])
    first = finding["locations"][0]
    assert ":".join(str(part) for part in (first["file"], first["line"], first["column"]) if part) == expected["at"]
    assert code == (1 if expected["severity"] == "error" else 0)


@pytest.mark.parametrize(
    "fault",
    [fault for fault in FAULTS if "writes" in expected_of(fault)],
    ids=lambda folder: folder.name,
)
def test_a_fix_it_makes_its_file_clean(
    fault: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = stand_in(fault, tmp_path, monkeypatch)
    assert call(["check", "--fix", *arguments]) == 0
    streams = capsys.readouterr()
    assert "nothing is wrong" in streams.out
    assert streams.err.count("\n") == 1
    assert findings(capsys, arguments) == (0, [])


def test_every_rule_about_vm_files_has_a_fault_of_its_own() -> None:
    met = {fault.name.partition("-")[0] for fault in FAULTS}
    # The rules of the hypervisor's own image, of kernels and of guests' trees have tests of their own.
    elsewhere = (*kernel_layout.RULES, *guest_images.RULES, *guest_tree.RULES)
    judged = [rule for rule in every.RULES if rule not in elsewhere]
    # What no rule names is whatever a reader refuses; its own tests say what.
    assert {rule.code for rule in judged} - met == {conflicts.OTHER.code}


def test_a_rule_has_one_code_and_a_code_one_rule() -> None:
    codes = [rule.code for rule in every.RULES]
    assert len(set(codes)) == len(codes)


def test_the_page_about_checks_is_what_the_rules_say() -> None:
    script = Path(__file__).parents[2] / "scripts" / "check_docs.py"
    assert subprocess.run([sys.executable, str(script), "--check"], timeout=HANG_S).returncode == 0


def test_the_page_about_upstreams_files_is_what_the_rules_find() -> None:
    if not (Path(__file__).parents[3] / "shared" / "axvisor-configs").is_dir():
        pytest.skip("upstream's files are not beside the repository")
    script = Path(__file__).parents[2] / "scripts" / "upstream_docs.py"
    assert subprocess.run([sys.executable, str(script), "--check"], timeout=HANG_S).returncode == 0


def test_a_clean_file_stays_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parent / "faults" / "S2301-ram-twice" / "vm.toml").read_text()
    monkeypatch.chdir(tmp_path)
    Path("vm.toml").write_text(text.replace("0x8010_0000", "0x8020_0000"))
    assert findings(capsys, ["vm.toml"]) == (0, [])


@pytest.mark.parametrize(
    ("comment", "code"),
    [
        ("    # stage2: allow S2301 the loader cuts it\n", 0),
        ("    # stage2: allow S2302 the loader cuts it\n", 1),
        ("    # stage2: allow S2301\n", 1),
        ("    # stage2: allow S2301 the loader cuts it\n\n", 1),
    ],
)
def test_a_comment_on_the_line_above_allows_what_it_names_and_gives_a_reason_for(
    comment: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parent / "faults" / "S2301-ram-twice" / "vm.toml").read_text()
    monkeypatch.chdir(tmp_path)
    Path("vm.toml").write_text(text.replace("    [0x8010_0000", f"{comment}    [0x8010_0000"))
    assert findings(capsys, ["vm.toml"])[0] == code


def test_text_shows_the_lines_with_a_mark_under_the_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent / "faults" / "S2301-ram-twice")
    monkeypatch.setenv("COLUMNS", "80")
    assert call(["check", "vm.toml"]) == 1
    assert capsys.readouterr().out == (
        "error S2301: RAM 'ram1' [0x80100000, 0x80300000) overlaps RAM 'ram0'\n"
        "[0x80000000, 0x80200000) of vm.toml:12 in [0x80100000, 0x80200000): every GPA\n"
        "belongs to one of them only: move or shrink one\n"
        "  --> vm.toml:13:5: RAM 'ram1'\n"
        "   13 |     [0x8010_0000, 0x20_0000, 0x7, 0],\n"
        "      |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "  --> vm.toml:12:5: RAM 'ram0'\n"
        "   12 |     [0x8000_0000, 0x20_0000, 0x7, 0],\n"
        "      |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "  overlap       GPA [0x80100000, 0x80200000)\n"
        "  on the board  AxVisor maps them one after the other and refuses the second, or\n"
        "                the guest finds another's bytes where its own should be: the VM\n"
        "                does not start.\n"
        "\n"
        "1 error.\n"
    )


def test_a_value_far_along_a_line_is_shown_with_what_is_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parent / "faults" / "S2305-entry-in-a-hole" / "vm.toml").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    Path("vm.toml").write_text(text.replace("entry_point =", f"entry_point = {' ' * 200}\t"))
    assert call(["check", "vm.toml"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (shown,) = [line for line in lines if line.startswith("    9 |")]
    (mark,) = [line for line in lines if line.startswith("      | ")]
    assert shown[mark.index("^") : mark.rindex("^") + 1] == "0x9000_0000"
    assert len(shown) <= 60


def test_what_cannot_be_read_is_an_error_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vm.toml").write_text("[base\n")
    assert call(["check", str(tmp_path / "vm.toml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert call(["check"]) == 2
    assert "no VM file is given" in capsys.readouterr().err


def test_a_rule_is_told_by_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", "--explain", "s2301"]) == 0
    assert capsys.readouterr().out.startswith("error S2301: two stretches of a VM's memory overlap")
    assert call(["check", "--explain", "list"]) == 0
    assert "S2404" in capsys.readouterr().out
    assert call(["check", "--explain", "S9999"]) == 2
    assert "--explain list" in capsys.readouterr().err


def test_fix_its_of_one_file_are_made_together_and_what_is_left_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parent / "faults" / "S2401-one-id-for-two" / "a.toml").read_text()
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        Path(f"{name}.toml").write_bytes(
            b"\xef\xbb\xbf" + text.replace('name = "', f'name = "{name}').replace("\n", "\r\n").encode()
        )
    Path("c.toml").chmod(0o640)
    assert call(["check", "--fix", "a.toml", "b.toml", "c.toml"]) == 0
    assert [line.partition(": write ")[2] for line in capsys.readouterr().err.splitlines()] == ["2", "3"]
    assert b'\xef\xbb\xbf[base]\r\nid = 3\r\nname = "c' in Path("c.toml").read_bytes()
    assert Path("c.toml").stat().st_mode & 0o777 == 0o640


def test_an_allowed_finding_is_not_mended_and_a_comment_in_a_string_allows_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parent / "faults" / "S2305-entry-in-a-hole" / "vm.toml").read_text()
    monkeypatch.chdir(tmp_path)
    Path("vm.toml").write_text(text.replace("entry_point", "# stage2: allow S2305 another loader\nentry_point"))
    before = Path("vm.toml").read_text()
    assert call(["check", "--fix", "vm.toml"]) == 0
    assert Path("vm.toml").read_text() == before
    inside = '''"""\n# stage2: allow S2305 another loader"""'''
    Path("vm.toml").write_text(text.replace("entry_point", f"cmdline = {inside}\nentry_point"))
    capsys.readouterr()
    assert [found["code"] for found in findings(capsys, ["vm.toml"])[1]] == ["S2305"]


@pytest.mark.parametrize(
    ("comment", "told"),
    [
        ("# stage2: allow", "a comment names no rule"),
        ("# stage2: allow S9999 why not", "a comment allows 'S9999', which is no rule"),
        (
            "# stage2: allow S2301: all is well",
            "a comment allows S2301, which finds nothing on this line or the one below",
        ),
        ("# stage2: allow S2501 the board has more", None),
    ],
)
def test_a_comment_that_allows_nothing_is_told_of(
    comment: str, told: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parent / "faults" / "S2922-allow-without-a-reason" / "vm.toml").read_text()
    monkeypatch.chdir(tmp_path)
    Path("vm.toml").write_text(text.replace("# stage2: allow S2301", comment))
    assert [found["message"] for found in findings(capsys, ["vm.toml"])[1]] == ([] if told is None else [told])


def test_a_file_that_cannot_be_written_is_one_error_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(Path(__file__).parent / "faults" / "S2305-entry-in-a-hole", tmp_path / "fault")
    monkeypatch.chdir(folder)
    before = Path("vm.toml").read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    assert call(["check", "--fix", "vm.toml"]) == 2
    assert capsys.readouterr().err == "stage2: error: vm.toml: cannot be written: No space left on device\n"
    assert (Path("vm.toml").read_bytes(), sorted(path.name for path in folder.iterdir())) == (
        before,
        ["expected.toml", "vm.toml"],
    )
