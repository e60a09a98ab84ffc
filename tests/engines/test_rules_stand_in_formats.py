"""Engines carry out what `formats` says: no register bit, cause or error code is written down in them a second time."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import stage2.engines

ENGINES = Path(next(iter(stage2.engines.__path__)))
FAMILIES = {"riscv": "riscv", "arm": "arm", "x86": "x86"}
"""Folder of an engine -> folder of the family whose encoders it uses."""
REGISTERS = (
    r"ESR|FAR|HPFAR|PAR|TCR|VTCR|TTBR|VTTBR|SCTLR|HCR|MAIR|SPSR|EC|ISS|FSC|DFSC|IFSC",
    r"[SM]?CAUSE|[SH]TVAL|[SMH]STATUS|SATP|HGATP|SUM|MXR|MPRV",
    r"CR[034]|EFER|EPTP|PF|ERROR|RSVD|EFLAGS|EXITINFO|QUALIFICATION",
)
"""What names of register fields begin with, by family."""
_NAME = re.compile(rf"_?(?:{'|'.join(REGISTERS)})(?:_[A-Z0-9_]+)?")
_OFFSETS = re.compile(r"ENV_\w+|\w*_(?:AT|OFFSET|REGISTER|WORD|INDEX)")
"""Where an engine's library keeps a register is its own matter (`abi`)."""


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(ENGINES.rglob("*.py")):
        if path.name != "abi.py":
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def is_number(node: ast.expr) -> bool:
    """Whether an expression is made of literals alone: `1 << 26`, `0x92 | 4`."""
    return all(
        isinstance(part, ast.Constant | ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop) for part in ast.walk(node)
    )


def named_numbers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names that a module binds to numbers, also in tuples, with their lines."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value] * len(names)
            for name, value in zip(names, values, strict=False):
                if isinstance(name, ast.Name) and is_number(value):
                    yield name.id, node.lineno


def test_no_engine_gives_a_register_field_a_number_of_its_own() -> None:
    found = [
        f"{path.relative_to(ENGINES)}:{line}: {name}"
        for path, tree in modules()
        for name, line in named_numbers(tree)
        if _NAME.fullmatch(name) and not _OFFSETS.fullmatch(name)
    ]
    assert found == []


def test_no_engine_encodes_a_fault_itself() -> None:
    """Shifts to where ESR has its class (26), and functions that make error codes, belong to `formats`."""
    found = []
    for path, tree in modules():
        for node in ast.walk(tree):
            match node:
                case ast.BinOp(op=ast.LShift(), right=ast.Constant(value=25 | 26)):
                    found.append(f"{path.name}:{node.lineno}: a shift to ESR's class")
                case ast.FunctionDef(name=name) if re.match(r"_?(?:encode|esr|error_code|scause)", name):
                    found.append(f"{path.name}:{node.lineno}: {name}")
    assert found == []


@pytest.mark.parametrize("folder", list(FAMILIES))
def test_each_engine_takes_its_encoders_from_its_family(folder: str) -> None:
    wanted = f"formats.{FAMILIES[folder]}.syndromes"
    imported = {
        node.module
        for path, tree in modules()
        if path.parent.name == folder
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None
    }
    assert wanted in imported


def test_the_check_sees_a_number_that_is_written_down_again() -> None:
    tree = ast.parse("ESR_EC_SHIFT = 26\n_SUM, _MXR = 1 << 18, 1 << 19\nENV_CR3 = 0x90\n_SLICE = 1 << 18\n")
    names = [name for name, _ in named_numbers(tree) if _NAME.fullmatch(name) and not _OFFSETS.fullmatch(name)]
    assert names == ["ESR_EC_SHIFT", "_SUM", "_MXR"]
