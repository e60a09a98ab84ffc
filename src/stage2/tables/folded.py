"""Functions of the compilable subset with their constants worked out, for walks that run as plain Python.

What takes longest in a plain walk is calling `u64` on constants: some 850 times for one translation by both stages.
`folded` makes the same function anew from its source, with those calls replaced by what they answer, as a compiler
would do. That takes a millisecond or less a function, so only who walks often asks for it (`explain`).
"""

from __future__ import annotations

import ast
import linecache
import operator
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from types import CodeType, FunctionType
from typing import Any

from ..formats.record import Format
from ..formats.u64 import u64
from .descent import Function

_PACKAGE = f"{__package__.rpartition('.')[0]}."
_WALKED = ("decode", "permissions", "mark", "mark_table", "walk_write", "root_too_wide")
"""The rules that a walk is made of."""
FEW = 100
"""Walks that are made by the functions as they are written, before folded ones are worth making."""
_REMEMBERED = 1024
"""Entries of each format of which it is remembered what they are."""
_OPERATIONS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
}


@cache
def folded_format(fmt: Format) -> Format:
    """The same format with the rules of walks folded, and what they said of recent entries remembered.

    The walks of stage 2 within one translation go through the same upper entries again and again.
    """
    rules: dict[str, Any] = {name: folded(rule) for name in _WALKED if (rule := getattr(fmt.rules, name)) is not None}
    for name in ("decode", "permissions"):
        rules[name] = lru_cache(_REMEMBERED)(rules[name])
    return replace(fmt, rules=replace(fmt.rules, **rules))


@cache
def folded(function: Function) -> Function:
    """The function with each `u64(constant)` in it worked out, and the helpers that it calls by name folded too.

    It is returned as it is where there is nothing to work out, or no source to read.
    """
    if not isinstance(function, FunctionType):
        return function
    code, names = function.__code__, function.__globals__
    helpers = {name: folded(found) for name in code.co_names if _is_helper(found := names.get(name), function)}
    if "u64" in code.co_names:
        code = _folded_code(function) or code
    if code is function.__code__ and all(helper is names[name] for name, helper in helpers.items()):
        return function
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in code.co_freevars)
    return FunctionType(code, {**names, **helpers}, function.__name__, function.__defaults__, closure)


def _is_helper(found: object, function: FunctionType) -> bool:
    """Whether what a name in a function stands for is one of our functions."""
    if not isinstance(found, FunctionType) or found is u64 or found is function:
        return False
    return found.__module__.startswith(_PACKAGE)


def _folded_code(function: FunctionType) -> CodeType | None:
    """The code of the folded function; None where its source cannot be read."""
    code = function.__code__
    first = code.co_firstlineno
    last = max(end for _, end, _, _ in code.co_positions() if end is not None)
    try:
        # Inside another function, so that what it takes from its maker stays a free variable.
        # The empty lines keep its line numbers.
        maker = "\n" * (first - 2) + f"def maker({', '.join(code.co_freevars)}):\n"
        lines = linecache.getlines(code.co_filename)[first - 1 : last]
        module = ast.parse(maker + textwrap.indent(textwrap.dedent("".join(lines)), " "))
    except SyntaxError:
        return None
    outer = module.body[0]
    found = outer.body[0] if isinstance(outer, ast.FunctionDef) else None
    if not isinstance(found, ast.FunctionDef) or found.name != function.__name__:
        return None
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    known = {**function.__globals__, **{name: cell.cell_contents for name, cell in cells}}
    for name in code.co_varnames:
        known.pop(name, None)
    _Folding(known).visit(found)
    made = compile(module, code.co_filename, "exec")
    for _ in range(2):
        made = next(part for part in made.co_consts if isinstance(part, CodeType))
    return made


class _Folding(ast.NodeTransformer):
    """Replaces calls of `u64` whose argument is known.

    Args:
        known: what names stand for that the function does not set itself.
    """

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._known = known

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and self._known.get(node.func.id) is u64:
            value = self._value(node.args[0])
            if value is not None:
                return ast.copy_location(ast.Constant(u64(value)), node)
        return self.generic_visit(node)

    def _value(self, node: ast.expr) -> int | None:
        """What an expression of known numbers amounts to, None for any other."""
        found: object = None
        if isinstance(node, ast.Constant):
            found = node.value
        elif isinstance(node, ast.Name):
            found = self._known.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = getattr(self._known.get(node.value.id), node.attr, None)
        elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            left, right = self._value(node.left), self._value(node.right)
            if left is not None and right is not None:
                found = _OPERATIONS[type(node.op)](left, right)
        return found if isinstance(found, int) else None
