"""`stage2 audit` on tables that others wrote, and what it prints."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from made_dumps import core, segment
from planted import BASE, CODE, DATA, KIB_4, MIB_2, SIZE, WRITE, Planted

from chromium import rendered
from html_page import Page
from stage2.address import Hpa
from stage2.cli.main import call
from stage2.inspect.audit.every import RULES

KVM = Path(__file__).parents[3] / "shared" / "data" / "kvm-tables"
NAMES = ("amd64", "arm64", "arm64-max", "arm64-nvhe", "arm64-pkvm", "riscv64", "riscv64-sv39")


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """An ELF core of a machine with two VMs that share a page, and its roots."""
    made = Planted.of("riscv")
    made.kernel((made.base, BASE, KIB_4, CODE | WRITE))
    made.vm((0x1000_0000, BASE + MIB_2, 2 * KIB_4, DATA))
    made.vm((0x2000_0000, BASE + MIB_2 + KIB_4, KIB_4, DATA))
    file = tmp_path_factory.mktemp("audit") / "machine.elf"
    body = made.memory.read(Hpa(BASE), SIZE)
    file.write_bytes(core([segment(BASE, SIZE, 0x1000)], bytes(0x1000 - 64 - 56) + body))
    return file, [f"--root={root.name}" for root in made.roots]


def test_two_vms_that_share_are_told_with_exit_code_1(
    dump: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    file, roots = dump
    assert call(["audit", str(file), *roots]) == 1
    text = capsys.readouterr().out
    assert "error S3011: VM 1 and VM 2 both reach 1 range (4 KiB)" in text
    assert "VM 1 GPA [0x10001000, 0x10002000)" in text
    assert "VM 2 GPA [0x20000000, 0x20001000)" in text
    assert call(["audit", str(file), roots[1]]) == 0
    assert "inferred" in capsys.readouterr().out


def test_json_and_sarif_have_the_same_findings(
    dump: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    file, roots = dump
    assert call(["audit", str(file), *roots, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [root["party"] for root in found["roots"]] == ["VM 1", "VM 2", "the host"]
    assert found["memory"] == [
        {"space": "HPA", "start": BASE, "start_hex": hex(BASE), "end": BASE + SIZE, "end_hex": hex(BASE + SIZE)}
    ]
    assert call(["audit", str(file), *roots, "--sarif"]) == 1
    results = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    assert [one["ruleId"] for one in results] == [one["code"] for one in found["findings"]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no memory is given"),
        (["FILE"], "no root of tables is known"),
        (["FILE", "--root", "sv39"], "write FORMAT@ADDRESS"),
        (["FILE", "--root", "sv39@0x1000", "--json", "--sarif"], "exclude one another"),
        (["FILE", "--root", "sv39@0x1000", "--html", "page.toml"], "NAME.html"),
        (["--explain", "S2101"], "no rule of an audit"),
        (["nowhere.elf"], "nowhere.elf"),
    ],
)
def test_bad_input_is_told_in_one_line_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    empty = tmp_path / "empty.elf"
    empty.write_bytes(core([segment(0x8000_0000, 0x1000, 0x1000)], bytes(0x1000 - 64 - 56 + 0x1000)))
    assert call(["audit", *(str(empty) if word == "FILE" else word for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_every_rule_is_explained_on_the_command_line_and_in_the_page_about_audits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    assert len({rule.code for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert call(["audit", "--explain", rule.code]) == 0
        assert rule.title in capsys.readouterr().out
        assert f"### {rule.code}: {rule.title}" in page
        assert f"*{rule.severity}.*" in page
    assert call(["audit", "--explain", "list"]) == 0


def test_the_page_has_all_findings_and_loads_nothing(
    dump: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, roots = dump
    out = tmp_path / "audit.html"
    assert call(["audit", str(file), *roots, "--html", str(out), "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    source = out.read_text(encoding="utf-8")
    page = Page(source)
    assert len(page.all("article")) == len(findings)
    assert "default-src 'none'" in source
    assert not [one for one in page.elements if "src" in one.attributes]
    assert {one.attributes["href"][0] for one in page.all("a")} == {"#"}
    shown = rendered(out, "", tmp_path / "profile")
    assert f"{len(findings)} of {len(findings)} findings shown" in shown


@pytest.mark.parametrize("name", NAMES)
def test_tables_that_kvm_wrote_have_no_errors(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not KVM.is_dir():
        pytest.skip("tables that KVM wrote are not beside the repository")
    file = tmp_path / f"{name}.elf"
    file.write_bytes(gzip.decompress((KVM / f"{name}.elf.gz").read_bytes()))
    registers = json.loads((KVM / f"{name}.json").read_text())["registers"]
    if name == "amd64":
        given = [f"--root=npt4@{registers['root']}"]
    else:
        second = ("VTTBR_EL2", "VTCR_EL2", "HCR_EL2", "hgatp")
        given = [f"--register={key}={value}" for key, value in registers.items() if key in second]
    assert call(["audit", str(file), *given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (root, *_) = found["roots"]
    assert root["party"] == "VM 1"
    assert root["whole"]
    assert root["leaves"] >= 50
