"""The locator against tomllib: the same paths, the right lines, and no document that hangs it."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.config.locator import MAX_DEPTH, MAX_VALUES, KeyPath, format_path, locate
from stage2.errors import ConfigError

Value = dict[str, "Value"] | list["Value"] | int
"""What the generated documents hold; every integer occurs once, so that its line can be looked up."""


def paths_of(value: object, prefix: KeyPath = ()) -> set[KeyPath]:
    found: set[KeyPath] = {prefix} if prefix else set()
    if isinstance(value, dict):
        for key, inner in value.items():
            found |= paths_of(inner, (*prefix, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found |= paths_of(inner, (*prefix, index))
    return found


def leaves_of(value: object, prefix: KeyPath = ()) -> dict[KeyPath, int]:
    if isinstance(value, dict):
        return {path: leaf for key, v in value.items() for path, leaf in leaves_of(v, (*prefix, key)).items()}
    if isinstance(value, list):
        return {path: leaf for i, v in enumerate(value) for path, leaf in leaves_of(v, (*prefix, i)).items()}
    return {prefix: value} if isinstance(value, int) else {}


KEYS = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,5}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5),
    st.sampled_from(["a.b", "[x]", "#", '"', "'", "\\", "= 1", "\n", "\x1b", "é", "\U0001f600"]),
)
SPACE = st.sampled_from(["", " ", "\t", "  "])
GAP = st.sampled_from(["", " ", "\n", "\r\n", "\n\n  ", " # ]},\"'''\n", "\n# [c]\n\t"])
STRINGS = st.sampled_from(
    [
        '"#[]{}=,"',
        r'"\"\\\u00e9"',
        "'\"\\'",
        '"""\n\n"q" ""two"" \\\n  # no comment\n"""',
        '"""x"""""',
        "'''\n'a' ''b''\n]'''",
        "'''y''''",
        '""',
        '""""""',
        "''''''",
        "1979-05-27 07:32:00Z",
        "-1_0.5e3",
        "inf",
        "true",
        "07:32:00",
    ]
)


class Writer:
    """Writes a random document in random style."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.serial = draw, 100_000

    def key(self, name: str) -> str:
        bare = name.isascii() and name.replace("_", "a").replace("-", "a").isalnum()
        if bare and self.draw(st.booleans()):
            return name
        if "'" not in name and name.isprintable() and self.draw(st.booleans()):
            return f"'{name}'"
        quoted = "".join(
            c
            if c.isalnum() and self.draw(st.booleans())
            else f"\\U{ord(c):08x}"
            if ord(c) > 0xFFFF
            else f"\\u{ord(c):04X}"
            for c in name
        )
        return f'"{quoted}"'

    def dotted(self, names: list[str]) -> str:
        return f"{self.draw(SPACE)}.{self.draw(SPACE)}".join(self.key(name) for name in names)

    def value(self, depth: int) -> str:
        kind = self.draw(st.sampled_from(["int", "int", "string", "array", "inline"] if depth else ["int", "string"]))
        if kind == "int":
            self.serial += 1
            return str(self.serial)
        if kind == "string":
            return self.draw(STRINGS)
        if kind == "array":
            items = [self.value(depth - 1) for _ in range(self.draw(st.integers(0, 3)))]
            gap = self.draw(GAP)
            text = ",".join(f"{gap}{item}{self.draw(GAP)}" for item in items)
            trailing: bool = self.draw(st.booleans())
            comma = "," if items and trailing else ""
            return f"[{text}{comma}{self.draw(GAP)}]"
        names = self.draw(st.lists(KEYS, max_size=2, unique=True))
        pairs = ", ".join(
            f"{self.key(name)}{self.draw(SPACE)}={self.draw(SPACE)}{self.value(depth - 1)}" for name in names
        )
        return f"{{ {pairs} }}"

    def pairs(self) -> str:
        lines = []
        for name in self.draw(st.lists(KEYS, max_size=3, unique=True)):
            # The tails differ from each other, so that dotted keys never clash.
            tail = [self.draw(KEYS)] if self.draw(st.booleans()) else []
            lines.append(f"{self.dotted([name, *tail])} ={self.draw(SPACE)}{self.value(3)}{self.end()}")
        return "".join(lines)

    def end(self) -> str:
        return self.draw(st.sampled_from(["\n", "\r\n", " # note\n", "\n\n", "\n  "]))

    def document(self) -> str:
        text = self.pairs()
        for number in range(self.draw(st.integers(0, 3))):
            inner = self.draw(st.lists(KEYS, max_size=2))
            name = self.dotted([f"table {number}", *inner])
            if self.draw(st.booleans()):
                text += f"[{self.draw(SPACE)}{name}{self.draw(SPACE)}]{self.end()}{self.pairs()}"
                continue
            for _ in range(self.draw(st.integers(1, 3))):
                text += f"[[{name}]]{self.end()}{self.pairs()}"
                if self.draw(st.booleans()):
                    text += f"[{name}.'a new one'.sub]{self.end()}{self.pairs()}"
        return text


@st.composite
def documents(draw: st.DrawFn) -> str:
    return Writer(draw).document()


@given(documents())
def test_it_finds_the_paths_that_tomllib_finds_and_the_lines_of_all_numbers(text: str) -> None:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # a random key clashed
    positions = locate(text)
    assert set(positions) == paths_of(values)
    for path, leaf in leaves_of(values).items():
        if leaf > 100_000:
            assert positions.line(path) == text[: text.index(str(leaf))].count("\n") + 1


def test_most_generated_documents_are_valid() -> None:
    valid = []

    @given(documents())
    def run(text: str) -> None:
        try:
            valid.append(bool(tomllib.loads(text)))
        except tomllib.TOMLDecodeError:
            valid.append(False)

    run()
    assert sum(valid) > len(valid) // 3


@given(st.text("ab1=.,[]{}\"'\\# \n\r\x00é_-", max_size=60))
def test_it_walks_through_whatever_tomllib_accepts(text: str) -> None:
    try:
        values = tomllib.loads(text)
    except ValueError:
        locate(text)  # must end, whatever it finds
        return
    assert set(locate(text)) == paths_of(values)


DIRECTED = """\
# comment
title = "a # b"   # one

[kernel]
"entry point" = 0x1_000
memory_regions = [
    [1, 2, 3, 4], # ]
    [
        5, 6,

        7, 8 ],
]
text = '''
]
''' # after
next = 1
[a.b.'c.d']
x.y = {p = [
  1], "q" = 2}
[[share]]
gpa = 1
[[share]]
size = \"\"\"
a\\
  \"\"\"
gpa = 2
[share.sub]
z = 3
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("kernel",), 4),
        (("kernel", "entry point"), 5),
        (("kernel", "memory_regions"), 6),
        (("kernel", "memory_regions", 0, 3), 7),
        (("kernel", "memory_regions", 1), 8),
        (("kernel", "memory_regions", 1, 0), 9),
        (("kernel", "memory_regions", 1, 3), 11),
        (("kernel", "text"), 13),
        (("kernel", "next"), 16),
        (("a", "b", "c.d"), 17),
        (("a", "b", "c.d", "x", "y", "p", 0), 19),
        (("a", "b", "c.d", "x", "y", "q"), 19),
        (("share",), 20),
        (("share", 0, "gpa"), 21),
        (("share", 1), 22),
        (("share", 1, "size"), 23),
        (("share", 1, "gpa"), 26),
        (("share", 1, "sub", "z"), 28),
        (("share", 1, "nothing", "here"), 22),
        ((), 1),
    ],
)
def test_every_value_has_the_line_it_is_written_on(path: KeyPath, line: int) -> None:
    assert locate(DIRECTED).line(path) == line
    assert set(locate(DIRECTED)) == paths_of(tomllib.loads(DIRECTED))


def test_a_table_that_is_declared_after_its_parts_has_the_line_of_its_header() -> None:
    assert locate("[a.b]\nx = 1\n[a]\ny = 2\n").line(("a",)) == 3


@pytest.mark.parametrize(
    "text",
    ["x = " + "[" * 100_000, "x = " + "{a=" * 100_000, ".".join("a" * 100_000) + " = 1", "[" + "a." * 100_000 + "a]"],
    ids=["arrays", "inline tables", "dotted key", "header"],
)
def test_deep_nesting_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^f\.toml:2: nested deeper than {MAX_DEPTH}"):
        locate("\n" + text, "f.toml")


def test_too_many_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="more than 20,000 values"):
        locate("x = [" + "1," * MAX_VALUES + "]")


@pytest.mark.parametrize(
    "text",
    [
        '"' * 300_001,
        "'" * 300_001,
        'x = """' + '""\\"' * 100_000,
        "x = '''" + "'' " * 100_000,
        'x = "' + "\\" * 300_001,
        "# \t" * 100_000,
        " \n" * 200_000 + "=",
        "x = " + "1 " * 200_000,
        "a = 1 # \n" + "[[" * 100_000,
    ],
    ids=range(9),
)
def test_text_without_an_end_is_scanned_once(text: str) -> None:
    assert len(locate(text)) < 3


def test_paths_are_written_as_people_write_them() -> None:
    assert format_path(("kernel", "memory_regions", 1, 3)) == "kernel.memory_regions[1][3]"
    assert format_path(("share", 0, "gpa")) == "share[0].gpa"
    assert format_path(("a b", 'q"\x1b')) == '"a b"."q\\"\\x1b"'
    assert len(format_path(("x" * 1000,))) == 80
