"""Tables written to a folder and read back."""

from __future__ import annotations

import io
import json
import os
import platform
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from stage2.address import Gpa, Hpa, Range
from stage2.config.load import load_vm
from stage2.errors import TableImageError
from stage2.flags import RWX, Access, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, Populate
from stage2.tableimage.contents import MANIFEST, collect, files_of
from stage2.tableimage.folder import read_folder, write_folder
from stage2.tableimage.pieces import symbol_of
from stage2.tables.explain import explain_stage
from stage2.vm.host import Host, Options, build
from stage2.vm.vm import Vm
from waiting import HANG_S

ROOT = Path(__file__).parents[2]
GUESTS = ROOT / "src" / "stage2" / "vm" / "guests"
PAIR = [ROOT / "examples" / f"share-linux-{side}.toml" for side in "ab"]
LINUX = ROOT / "examples" / "linux-riscv64.toml"
X86 = """
[base]
id = 3
name = "an \\"odd\\" name */"
vm_type = 1
cpu_num = 1
arch = "x86_64"
[kernel]
entry_point = 0x8000
image_location = "fs"
kernel_path = "none.bin"
kernel_load_addr = 0x8000
memory_regions = [ [0x0, 0x30_1000, 0x7, 0], [0x4000_0000, 0x20_0000, 0x3, 0] ]
[devices]
emu_devices = []
passthrough_devices = [ ["lapic", 0xfee0_0000, 0xfee0_0000, 0x1000, 1] ]
"""


def hosted(*paths: Path) -> Host:
    return build([load_vm(path) for path in paths], options=Options(Populate.EAGER))


@pytest.fixture
def x86(tmp_path: Path) -> Path:
    path = tmp_path / "x86.toml"
    path.write_text(X86)
    return path


def test_every_walk_on_the_folder_is_the_walk_on_the_live_tables(tmp_path: Path, x86: Path) -> None:
    for paths in (PAIR, [x86], [GUESTS / "demo-riscv64.toml", GUESTS / "hostile-riscv64.toml"]):
        with hosted(*paths) as host:
            folder = tmp_path / "out"
            write_folder(folder, files_of(collect(host.vms)))
            loaded = read_folder(folder)
            assert [tables.name for tables in loaded] == [vm.name for vm in host.vms]
            rng = random.Random(1)
            for vm, tables in zip(host.vms, loaded, strict=True):
                assert tables.regime == vm.space.regime
                edges = [edge for region in vm.space.memory_regions for edge in (region.start, region.end)]
                addresses = [edge + step for edge in edges for step in (-1, 0, 0x1FF8)]
                addresses += [rng.randrange(1 << 41) for _ in range(50)]
                for address in addresses:
                    for access in (None, *Access):
                        assert explain_stage(tables, tables.regime, max(address, 0), access) == (
                            vm.space.page_table.explain(max(address, 0), access)
                        )


def test_the_files_hold_the_bytes_of_memory_and_nothing_of_the_host(tmp_path: Path) -> None:
    with hosted(*PAIR) as host:
        files = files_of(collect(host.vms))
        for vm in host.vms:
            for span in vm.space.page_table.table_ranges:
                name = f"{vm.name}/tables-{span.start:#x}.bin"
                assert files[name] == host.memory.read(Hpa(span.start), span.size)
    assert files.keys() == {name for name in files if name == MANIFEST or name.split("/")[0] in ("writer", "reader")}
    assert str(ROOT).encode() not in b"".join(files.values())


def test_the_same_files_come_out_each_time(x86: Path) -> None:
    def made() -> dict[str, bytes]:
        with hosted(*PAIR, x86) as host:
            return files_of(collect(host.vms))

    assert made() == made()


def test_the_manifest_names_the_registers_and_the_memory(x86: Path) -> None:
    with hosted(x86) as host:
        files = files_of(collect(host.vms))
        (vm,) = json.loads(files[MANIFEST])["vms"]
        root = host.vms[0].space.root_page_table
    assert vm["registers"] == {"EPTP": root | 3 << 3 | 6, "VPID": 3}
    assert vm["format"] == "ept4"
    assert vm["mapped_bytes"] == 0x301000 + 0x200000 + 0x1000
    assert [region["start"] for region in vm["regions"]] == [0, 0x4000_0000, 0xFEE0_0000]


def test_the_elf_object_holds_each_piece_at_its_hpa_with_its_symbols(x86: Path) -> None:
    with hosted(*PAIR, x86) as host:
        contents = collect(host.vms)
    files = files_of(contents)
    machines = {"riscv64": "EM_RISCV", "x86_64": "EM_X86_64"}
    for vm in contents:
        elf: Any = ELFFile(io.BytesIO(files[f"{vm.files.folder}/tables.o"]))
        assert elf["e_type"] == "ET_REL"
        assert elf["e_machine"] == machines[vm.files.arch]
        assert elf["e_flags"] == (4 if vm.files.arch == "riscv64" else 0)
        assert elf.get_section_by_name(".note.GNU-stack")["sh_flags"] == 0
        symbols = {symbol.name: symbol for symbol in elf.get_section_by_name(".symtab").iter_symbols()}
        for number, segment in enumerate(vm.files.segments):
            section = elf.get_section_by_name(f".stage2.tables.{segment.hpa:#x}")
            assert section.data() == segment.data
            assert section["sh_addr"] == segment.hpa
            symbol = next(found for name, found in symbols.items() if name.endswith(f"_tables_{number}"))
            assert elf.get_section(symbol["st_shndx"]).name == section.name
        root = next(symbol for name, symbol in symbols.items() if name.endswith("_root"))
        section = elf.get_section(root["st_shndx"])
        assert section["sh_addr"] + root["st_value"] == vm.files.root
        assert section["sh_addr"] % section["sh_addralign"] == 0


def test_the_header_says_what_the_manifest_says_and_a_name_cannot_end_its_comment(x86: Path) -> None:
    with hosted(x86) as host:
        (vm,) = collect(host.vms)
    text = files_of([vm])[f"{vm.files.folder}/tables.h"].decode()
    assert f"#define STAGE2_AN_ODD_NAME_EPTP {vm.registers['EPTP']:#x}ULL" in text
    assert text.splitlines()[0].count("*/") == 1
    assert text.count("*/") == text.count("/*") == 1 + len(vm.registers)
    for number, segment in enumerate(vm.files.segments):
        assert f"_HPA_{number} {segment.hpa:#x}ULL" in text
        assert f"_tables_{number}[{len(segment.data):#x}];" in text


@pytest.mark.parametrize(
    "names",
    [("a_b-3", "a_b", "a b"), ("a-b", "a.b"), ("Linux", "linux"), ("manifest.json",), ("manifest_json", "x")],
)
def test_no_two_vms_share_a_file_a_symbol_or_a_header_guard(tmp_path: Path, names: tuple[str, ...]) -> None:
    paths = []
    for number, name in enumerate(names, 1):
        paths.append(tmp_path / f"{number}.toml")
        text = X86.replace("id = 3", f"id = {number}").replace('"an \\"odd\\" name */"', json.dumps(name))
        # The device can be in the hands of one VM only.
        paths[-1].write_text(re.sub(r"(?m)^passthrough_devices.*$", "", text))
    with hosted(*paths) as host:
        contents = collect(host.vms)
    files = files_of(contents)
    guards = {files[f"{vm.files.folder}/tables.h"].decode().split("#define ")[1].split()[0] for vm in contents}
    assert len(guards) == len(names)
    assert len({vm.files.folder.lower() for vm in contents}) == len(names)
    write_folder(tmp_path / "out", files)
    assert [tables.name for tables in read_folder(tmp_path / "out")] == list(names)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_compiler_takes_header_and_object_without_a_warning(tmp_path: Path, x86: Path) -> None:
    x86.write_text(X86.replace("name */", "/* name"))
    with hosted(x86) as host:
        (vm,) = collect(host.vms)
    write_folder(tmp_path / "out", files_of([vm]))
    header = tmp_path / "out" / vm.files.folder / "tables.h"
    source = tmp_path / "use.c"
    prefix = symbol_of(vm.files.folder)
    used = f"stage2_{prefix}_root[0] + (STAGE2_{prefix.upper()}_ROOT == 0)"
    source.write_text(f'#include "{header}"\nint main(void) {{ return {used}; }}\n')
    command: list[str | Path] = [
        "gcc",
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-c",
        source,
        "-o",
        tmp_path / "use.o",
    ]
    subprocess.run(command, check=True, timeout=HANG_S)
    if vm.files.arch == platform.machine():
        tables = header.with_name("tables.o")
        link: list[str | Path] = [
            "gcc",
            "-no-pie",
            "-Wl,--fatal-warnings",
            tmp_path / "use.o",
            tables,
            "-o",
            tmp_path / "use",
        ]
        subprocess.run(link, check=True, timeout=HANG_S)


@pytest.mark.skipif(
    shutil.which("riscv64-linux-gnu-ld") is None and not os.environ.get("CI"), reason="needs binutils-riscv64-linux-gnu"
)
def test_a_linker_places_the_pieces_where_the_entries_expect_them(tmp_path: Path) -> None:
    with hosted(LINUX) as host:
        (vm,) = collect(host.vms)
    write_folder(tmp_path / "out", files_of([vm]))
    places = [f"--section-start=.stage2.tables.{piece.hpa:#x}={piece.hpa:#x}" for piece in vm.files.segments]
    linked = tmp_path / "linked.elf"
    subprocess.run(
        ["riscv64-linux-gnu-ld", "-e", "0", *places, "-o", linked, tmp_path / "out" / "linux" / "tables.o"],
        check=True,
        timeout=HANG_S,
    )
    elf: Any = ELFFile(io.BytesIO(linked.read_bytes()))
    symbols = elf.get_section_by_name(".symtab")
    assert symbols.get_symbol_by_name("stage2_linux_root")[0]["st_value"] == vm.files.root
    for piece in vm.files.segments:
        assert elf.get_section_by_name(f".stage2.tables.{piece.hpa:#x}")["sh_addr"] == piece.hpa


# --- writing ---------------------------------------------------------------------------------------------


def test_a_folder_of_ours_is_replaced_and_anything_else_is_left_alone(tmp_path: Path) -> None:
    with hosted(LINUX) as host:
        files = files_of(collect(host.vms))
    with hosted(GUESTS / "demo-riscv64.toml") as host:
        others = files_of(collect(host.vms))
    folder = tmp_path / "out"
    folder.mkdir()
    write_folder(folder, files)
    write_folder(folder, others)
    assert [tables.name for tables in read_folder(folder)] == ["demo"]
    assert not (folder / "linux").exists()
    (folder / "demo" / "notes.txt").write_text("mine")
    with pytest.raises(TableImageError, match=r"not ours \(demo/notes.txt\)"):
        write_folder(folder, files)
    assert (folder / "demo" / "notes.txt").read_text() == "mine"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "a").write_text("b")
    for place in (foreign, foreign / "a"):
        with pytest.raises(TableImageError, match=r"give (a folder|one) that does not exist yet"):
            write_folder(place, files)
    with pytest.raises(TableImageError, match="No such file or directory"):
        write_folder(tmp_path / "no" / "such", files)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "foreign"}


def test_a_write_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    with hosted(LINUX) as host:
        files = files_of(collect(host.vms))
    folder = tmp_path / "out"
    write_folder(folder, files)
    with pytest.raises(TableImageError, match="cannot be written"):
        write_folder(folder, {**files, "linux/tables.h/x": b""})
    assert [tables.name for tables in read_folder(folder)] == ["linux"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupt_at_any_step_leaves_a_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hosted(LINUX) as host:
        files = files_of(collect(host.vms))
    folder = tmp_path / "out"
    write_folder(folder, files)
    rename = Path.rename
    for fatal in (1, 2):
        calls = iter(range(1, 10))

        def interrupted(self: Path, target: Path, calls: Iterator[int] = calls, fatal: int = fatal) -> Path:
            if next(calls) == fatal:
                raise KeyboardInterrupt
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_folder(folder, files)
        assert [tables.name for tables in read_folder(folder)] == ["linux"]
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_empty_folders_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "out" / "a" / "b").mkdir(parents=True)
    with pytest.raises(TableImageError, match=r"not ours \(a\)"):
        write_folder(tmp_path / "out", {})
    assert (tmp_path / "out" / "a" / "b").is_dir()


# --- reading what nobody should trust --------------------------------------------------------------------

Change = Callable[[dict[str, Any]], None]


def piece(manifest: dict[str, Any], **values: object) -> None:
    manifest["vms"][0]["segments"][0].update(values)


def region(manifest: dict[str, Any], **values: object) -> None:
    manifest["vms"][0]["regions"][0].update(values)


def vm_with(**values: object) -> Change:
    return lambda manifest: manifest["vms"][0].update(values)


HOSTILE: list[tuple[str, Change, str]] = [
    ("another version", lambda m: m.update(stage2_tables=99), "has version 99"),
    ("no manifest of ours", lambda m: m.pop("stage2_tables"), "not a manifest"),
    ("no VM", lambda m: m.update(vms=[]), "lists no VM"),
    ("a VM that is no object", lambda m: m.update(vms=[5]), "is damaged"),
    ("no format", lambda m: m["vms"][0].pop("format"), "'format' is missing"),
    ("an unknown format", vm_with(format="sv40x4"), "no format is called 'sv40x4'"),
    ("a root that is no number", vm_with(root="0x1000"), "no 64-bit number"),
    ("a root elsewhere", vm_with(root=0x4000), "the root table 0x4000 of VM linux is in no file"),
    ("a misaligned root", vm_with(root=0x13FE00008), "root table"),
    ("a file outside", lambda m: piece(m, file="../../../etc/passwd"), "leads out of the folder"),
    ("an absolute file", lambda m: piece(m, file="/etc/passwd"), "leads out of the folder"),
    ("a missing file", lambda m: piece(m, file="linux/none.bin"), "No such file"),
    ("another size", lambda m: piece(m, size=0x3000), "the manifest says 0x3000"),
    ("a huge size", lambda m: piece(m, size=1 << 60), "would be too large"),
    ("a negative size", lambda m: piece(m, size=-1), "no 64-bit number"),
    ("another hash", lambda m: piece(m, sha256="00"), "is not what was written"),
    ("overlapping pieces", lambda m: m["vms"][0]["segments"].append(m["vms"][0]["segments"][0]), "overlaps"),
    ("an odd region", vm_with(regions=[{"type": "NONE"}]), "is damaged"),
    ("a region behind nothing", lambda m: region(m, type="MMIO", hpa=[[]]), "is damaged"),
    ("a region with a line feed", lambda m: region(m, name="a\nb"), "no text that can be printed"),
    ("a name that moves the cursor", vm_with(name="a\x1b[31m"), "no text that can be printed"),
    ("a format of stage 1", vm_with(format="sv39"), "sv39 is a format of stage 1"),
    ("a version that is true", lambda m: m.update(stage2_tables=True), "has version True"),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables") / "sound"
    with hosted(LINUX) as host:
        write_folder(folder, files_of(collect(host.vms)))
    return folder


@pytest.mark.parametrize(("change", "says"), [pytest.param(c, s, id=name) for name, c, s in HOSTILE])
def test_a_folder_that_was_tampered_with_is_refused_in_one_sentence(
    sound: Path, tmp_path: Path, change: Change, says: str
) -> None:
    folder = tmp_path / "tampered"
    shutil.copytree(sound, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(TableImageError) as caught:
        read_folder(folder)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b'{"stage2_tables": NaN}'])
def test_a_manifest_that_is_no_manifest_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(text)
    with pytest.raises(TableImageError):
        read_folder(tmp_path)


@pytest.mark.parametrize("target", ["/dev/zero", "fifo", "linux"])
def test_a_manifest_without_an_end_is_refused_and_not_waited_for(sound: Path, tmp_path: Path, target: str) -> None:
    folder = tmp_path / "endless"
    shutil.copytree(sound, folder)
    (folder / MANIFEST).unlink()
    if target == "fifo":
        os.mkfifo(folder / MANIFEST)
    else:
        (folder / MANIFEST).symlink_to(target)
    with pytest.raises(TableImageError, match=r"is no regular file|Is a directory"):
        read_folder(folder)


def test_a_file_that_links_to_itself_is_refused(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "loop"
    shutil.copytree(sound, folder)
    (file,) = folder.glob("linux/*.bin")
    file.unlink()
    file.symlink_to(file.name)
    with pytest.raises(TableImageError, match="leads to itself"):
        read_folder(folder)


def test_pieces_are_limited_together_and_not_one_by_one(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "many"
    shutil.copytree(sound, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    segments = manifest["vms"][0]["segments"]
    size = segments[0]["size"]
    segments += [{**segments[0], "hpa": 1 << 40 | number << 24} for number in range(3)]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert len(read_folder(folder)) == 1
    monkeypatch.setattr("stage2.tableimage.folder._BYTES_LIMIT", 4 * size - 1)
    with pytest.raises(TableImageError, match="too large"):
        read_folder(folder)


def test_a_word_beyond_a_piece_does_not_exist(sound: Path) -> None:
    (tables,) = read_folder(sound)
    end = max(span.end for span, _ in tables.pieces)
    assert tables.contains(end - 8, 8)
    assert not tables.contains(end - 4, 8)
    assert not tables.contains(end)
    assert Range(0, 1).size == 1


REGISTERS = {
    "ept5": {"EPTP", "VPID"},
    "npt4": {"N_CR3", "ASID", "NP_ENABLE"},
    "npt5": {"N_CR3", "ASID", "NP_ENABLE"},
    "arm-s2-4k-40": {"VTCR_EL2", "VTTBR_EL2", "HCR_EL2"},
    "arm-s2-16k-48": {"VTCR_EL2", "VTTBR_EL2", "HCR_EL2"},
    "arm-s2-64k-52": {"VTCR_EL2", "VTTBR_EL2", "HCR_EL2"},
    "sv57x4": {"hgatp"},
}


@pytest.mark.parametrize("name", REGISTERS)
def test_tables_of_every_architecture_are_written_and_read_back(tmp_path: Path, name: str) -> None:
    arch = {"a": "aarch64", "s": "riscv64"}.get(name[0], "x86_64")
    with PhysicalMemory([Range(0x8000_0000, 0x8800_0000)]) as memory:
        space = AddressSpace(name, FrameAllocator(memory), identifier=5, populate=Populate.EAGER)
        space.map(MemoryRegion(Gpa(0x4000_0000), 0x20_0000, RWX, MapType.MAP_ALLOC))
        vm = Vm("guest", 1, arch, space)
        (contents,) = collect([vm])
        write_folder(tmp_path / "out", files_of([contents]))
        (tables,) = read_folder(tmp_path / "out")
        assert tables.regime == space.regime
        assert contents.registers.keys() == REGISTERS[name]
        assert all(
            f"_{register.upper()} " in (tmp_path / "out/guest/tables.h").read_text() for register in REGISTERS[name]
        )
        for gpa in (0x4000_0000, 0x401F_FFF8, 0x4020_0000, 0):
            assert explain_stage(tables, tables.regime, gpa) == space.page_table.explain(gpa)
        vm.close()
