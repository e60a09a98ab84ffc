"""Draws mutants of rules with Cosmic Ray's operators; `run` tries them. See docs/testing.md.

Runs in a virtual environment of its own that holds Cosmic Ray (`make mutants`).
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from rules import RULES

LEFT_OUT = ("Div", "Pow", "Mod", "Is", "IsNot")
"""What to replace an operator by says nothing: floats, huge numbers, and `is` between integers."""
SAME = ("BitOr_Add", "BitOr_BitXor")
"""Bits that are put together are disjoint, so `|`, `+` and `^` give the same."""
SAME_BESIDE_ZERO = ("Eq_LtE", "NotEq_Gt", "LtE_Eq", "Gt_NotEq")
"""Nothing is below an unsigned 0."""
NEVER = ("name", "string", "newline", "fstring_string", "fstring_start", "fstring_end", "endmarker")
PUNCTUATION = ("(", ")", "[", "]", "{", "}", ",", ":", ".", "=", "->")
"""Nodes that no operator changes, left out for speed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=RULES, default="formats", help="the rules that are mutated")
    parser.add_argument("--files", default="*.py", help="only in files of this name, with * and ?")
    parser.add_argument("--count", type=int, required=True, help="mutants to draw")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a line of JSON for each mutant")
    arguments = parser.parse_args()
    folders = map(Path, RULES[arguments.what].folders)
    sites = sorted(site for folder in folders for path in folder.glob(arguments.files) for site in _sites(path))
    rng = random.Random(arguments.seed)
    found = 0
    with arguments.output.open("w") as output:
        for index in rng.sample(range(len(sites)), len(sites)):
            if found == arguments.count:
                break
            path, line, column, _, choices = sites[index]
            mutant = _mutant(Path(path), line, column, *rng.choice(choices))
            if mutant is not None:
                output.write(json.dumps(mutant) + "\n")
                found += 1
    print(f"{found} mutants drawn of {len(sites)} sites with seed {arguments.seed}")
    if found < arguments.count:
        sys.exit(f"there are {found} mutants only; ask for no more")


def _sites(path: Path) -> Iterator[tuple[str, int, int, str, list[tuple[str, int]]]]:
    """(path, line, column, kind of operator, [(operator, its occurrence)]) for each place that can be mutated."""
    source = path.read_text()
    rules = _Rules(source)
    lines = source.splitlines()
    nodes = [node for node in ast_nodes(get_ast(source)) if node.type not in NEVER and _text(node) not in PUNCTUATION]
    found = defaultdict(list)
    for name in operator_names():
        kind, _, change = name.removeprefix("core/").partition("_")
        made, _, into = change.partition("_")
        if into in LEFT_OUT or made in LEFT_OUT or change in SAME or kind in ("RemoveDecorator", "ExceptionReplacer"):
            continue
        operator_class = get_operator(name)
        if operator_class.arguments():
            continue
        operator = operator_class()
        places = (place for node in nodes for place in operator.mutation_positions(node))
        for occurrence, ((line, column), (_, end)) in enumerate(places):
            beside_zero = lines[line - 1][end:].lstrip().startswith(("u64(0)", "0 ", "0:", "0\n", "0)"))
            if (line, column) in rules and not (beside_zero and change in SAME_BESIDE_ZERO):
                found[line, column, kind].append((name, occurrence))
    for (line, column, kind), choices in found.items():
        yield str(path), line, column, kind, choices


def _text(node: Any) -> str:
    return getattr(node, "value", "")


class _Rules:
    """The places of a module that hold rules: bodies of functions without annotations and sentences of fields, and
    constants of the module in which no text stands."""

    def __init__(self, source: str) -> None:
        self.within: list[tuple[tuple[int, int], tuple[int, int]]] = []
        self.without: list[tuple[tuple[int, int], tuple[int, int]]] = []
        module = ast.parse(source)
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef):
                self.within += [self._span(statement) for statement in node.body]
                described = [a.annotation for a in [*node.args.args, *node.args.kwonlyargs] if a.annotation]
                self.without += [self._span(item) for item in [*described, *([node.returns] if node.returns else [])]]
            elif isinstance(node, ast.AnnAssign):
                self.without.append(self._span(node.annotation))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Field":
                self.without.append(self._span(node))
        for statement in module.body:
            if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
                parts = list(ast.walk(statement.value))
                if not any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts):
                    self.within.append(self._span(statement.value))

    @staticmethod
    def _span(node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
        return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)

    def __contains__(self, place: tuple[int, int]) -> bool:
        return any(low <= place < high for low, high in self.within) and not any(
            low <= place < high for low, high in self.without
        )


def _mutant(path: Path, line: int, column: int, operator: str, occurrence: int) -> dict[str, Any] | None:
    """The mutated module; None if it is no Python or means the same."""
    source = path.read_text()
    mutated = mutate_code(source, get_operator(operator)(), occurrence)
    try:
        if mutated is None or ast.dump(ast.parse(mutated)) == ast.dump(ast.parse(source)):
            return None
    except SyntaxError:
        return None
    before, after = source.splitlines(), mutated.splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=False) if old != new]
    return {
        "path": str(path),
        "line": line,
        "column": column,
        "function": _function(source, line),
        "operator": operator.removeprefix("core/"),
        "before": changed[0][0].strip() if changed else before[line - 1].strip(),
        "after": changed[0][1].strip() if changed else "",
        "source": mutated,
    }


def _function(source: str, line: int) -> int:
    """First line of the innermost function around a place, decorators included, as in its code object; 0 for none, and
    for one that keeps its answers, which not every test that uses them calls."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    around = [node for node in functions if node.lineno <= line <= (node.end_lineno or 0)]
    inner = max(around, key=lambda node: node.lineno, default=None)
    if inner is None or any("cache" in ast.dump(item) for item in inner.decorator_list):
        return 0
    return min([inner.lineno, *(item.lineno for item in inner.decorator_list)])


if __name__ == "__main__":
    main()
