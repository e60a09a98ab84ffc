"""The way down a table is written once: the sources of whoever walks are read for second copies of it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import stage2

PACKAGE = Path(stage2.__file__).parent
COPY = """
def walk(host, table, address, level, bits):
    while level:
        level -= u64(1)
        shift = u64(12) + bits * level
        slot = table + (((address >> shift) & ((u64(1) << bits) - u64(1))) << u64(3))
        status, entry = load(host, slot)
        kind, table, attributes = decode(entry, level, 0)
"""
"""What a second copy would look like."""


def number(node: ast.expr) -> object:
    """The value of `3` or `u64(3)`, None for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "u64" and node.args:
        return number(node.args[0])
    return node.value if isinstance(node, ast.Constant) else None


def operation(node: ast.AST, kind: type[ast.operator]) -> ast.BinOp | None:
    return node if isinstance(node, ast.BinOp) and isinstance(node.op, kind) else None


def is_scaled(node: ast.expr) -> bool:
    """An index times the 8 bytes of an entry; kernels write `u64(8)`, what has a plain 8 addresses registers."""
    shifted, times = operation(node, ast.LShift), operation(node, ast.Mult)
    if times is not None:
        return any(isinstance(factor, ast.Call) and number(factor) == 8 for factor in (times.left, times.right))
    return shifted is not None and number(shifted.right) == 3


def is_slot(node: ast.AST) -> bool:
    """A table's or an entry's address plus a scaled index."""
    sum_of = operation(node, ast.Add)
    return sum_of is not None and (is_scaled(sum_of.left) or is_scaled(sum_of.right))


def is_index(node: ast.AST) -> bool:
    """An address shifted right, and cut down to the index bits of a table."""
    cut = operation(node, ast.BitAnd)
    if cut is None or operation(cut.left, ast.RShift) is None:
        return False
    mask = operation(cut.right, ast.Sub)
    return mask is not None and number(mask.right) == 1 and operation(mask.left, ast.LShift) is not None


def reads_entries(node: ast.AST) -> bool:
    """A function that loads an entry and decodes it."""
    if not isinstance(node, ast.FunctionDef):
        return False
    called = {call.func.id for call in ast.walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}
    return {"load", "decode"} <= called


def innermost(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Every node with the name of the function it stands in."""
    pending: list[tuple[str, ast.AST]] = [("", tree)]
    while pending:
        name, node = pending.pop()
        yield (node.name if isinstance(node, ast.FunctionDef) else name), node
        inside = node.name if isinstance(node, ast.FunctionDef) else name
        pending += [(inside, child) for child in ast.iter_child_nodes(node)]


def found(source: str) -> set[tuple[str, str]]:
    """(what, function) of each part of a descent in a source."""
    nodes = list(innermost(ast.parse(source)))
    parts = {("slot", is_slot), ("index", is_index)}
    result = {(what, name) for name, node in nodes for what, test in parts if test(node)}
    # The innermost function that does it: makers contain what they make.
    readers = [node for _, node in nodes if reads_entries(node)]
    for node in readers:
        if not any(other is not node and other in ast.walk(node) for other in readers):
            assert isinstance(node, ast.FunctionDef)
            result.add(("read", node.name))
    return result


def test_only_one_function_finds_a_slot_and_only_one_goes_from_table_to_table() -> None:
    everything = {
        (path.relative_to(PACKAGE).as_posix(), *part)
        for room in ("tables", "engines", "tlb", "space", "guest")
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for part in found(path.read_text())
    }
    assert everything == {
        ("tables/descent.py", "slot", "entry_at"),
        ("tables/descent.py", "index", "locate"),
        ("tables/descent.py", "read", "descend"),
    }


def test_a_second_copy_of_the_descent_would_be_found() -> None:
    assert found(COPY) == {("slot", "walk"), ("index", "walk"), ("read", "walk")}


@pytest.mark.parametrize(("old", "new"), [("<< u64(3)", "<< 3"), ("<< u64(3)", "* u64(8)"), ("u64(1))) <<", "1)) <<")])
def test_a_copy_in_other_words_would_be_found_too(old: str, new: str) -> None:
    assert old in COPY
    assert found(COPY.replace(old, new)) == found(COPY)


def imported(source: str) -> set[str]:
    """Names of the modules that a source imports, at its top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            names |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    return {name.partition(".")[0] for name in names}


def test_two_modules_and_no_others_import_numba() -> None:
    using = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if imported(path.read_text()) & {"numba", "llvmlite"}
    }
    assert using == {"tables/compiled.py", "tables/raw.py"}
