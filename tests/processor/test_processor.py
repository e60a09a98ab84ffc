"""Processors as people name them: `cortex-a72,pa=40`."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage2.errors import ConfigError
from stage2.processor import architectures, named, parse
from stage2.processor.host import host_processor

INTEL = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: A processor for a test
flags\t\t: fpu nx pdpe1gb vmx
vmx flags\t: ept_ad ept_1gb ept_x_only
address sizes\t: 46 bits physical, 48 bits virtual

processor\t: 1
vendor_id\t: AnotherOne
"""


@pytest.mark.parametrize("arch", architectures())
def test_max_has_every_feature_of_its_architecture(arch: str) -> None:
    best = parse("max", arch)
    assert best.features == set(best.parts.features)
    assert all(best.numbers[name] == part.most for name, part in best.parts.numbers.items() if name != "c-bit")


@pytest.mark.parametrize("arch", architectures())
def test_every_named_processor_says_every_number_and_where_it_is_from(arch: str) -> None:
    for name, processor in named(arch).items():
        assert processor.name == name
        assert set(processor.numbers) == set(processor.parts.numbers)
        assert processor.source


def test_parts_are_changed_in_every_way_that_people_write() -> None:
    found = parse("max,pa=40,-lpa2,+lpa,fwb=off,xnx=on,pan", "aarch64")
    assert found.pa_bits == 40
    assert [found.has(name) for name in ("lpa2", "lpa", "fwb", "xnx", "pan")] == [False, True, False, True, True]
    assert found.name == "max,pa=40,-lpa2,+lpa,fwb=off,xnx=on,pan"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cortex-a27", r"no such processor \(did you mean cortex-a72\?\)|no such processor"),
        ("max,pa", "'pa' needs a number: pa=52"),
        ("max,pa=forty", "'pa=forty' needs a number: pa=52"),
        ("max,pa=20", "pa=20 is out of range: bits of a physical address, 32 to 52"),
        ("max,lpa3", r"lpa3 is no part of a processor of aarch64 \(did you mean lpa\w*\?\)"),
        ("max,lpa2=yes", "'lpa2=yes': write lpa2=on or lpa2=off"),
        ("max,", "is no part of a processor"),
    ],
)
def test_a_wrong_processor_is_told_in_one_sentence(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse(text, "aarch64")


def test_a_processor_of_another_architecture_is_named_as_such() -> None:
    other = next(name for name in named("aarch64") if name not in named("riscv64")) if len(named("aarch64")) > 1 else ""
    if other:
        with pytest.raises(ConfigError, match=f"{other} is a processor of aarch64, and one of riscv64 is wanted"):
            parse(other, "riscv64")


def test_the_host_is_read_from_what_linux_says_of_its_first_cpu(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(INTEL)
    found = host_processor("x86_64", tmp_path / "cpuinfo")
    assert (found.vendor, found.pa_bits, found.source) == ("intel", 46, "A processor for a test")
    assert found.features == {"nx", "gib-pages", "ept-ad", "ept-gib-pages", "ept-execute-only"}


def test_the_host_is_refused_where_its_width_is_not_said(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t: nx\n")
    with pytest.raises(ConfigError, match="has no line `address sizes`"):
        host_processor("x86_64", tmp_path / "cpuinfo")


def test_the_host_of_another_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="only x86_64 tells its features to programs"):
        parse("host", "aarch64")
