"""Files that are no configuration end in one line that says so."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.config.document import MAX_FILE_SIZE, parse_document, read_document
from stage2.config.wording import shown
from stage2.errors import ConfigError


def error_of(data: bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_document(data, "f.toml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a = 1\nb = ]\n", "f.toml:2: no valid TOML, column 5: Invalid value"),
        (b"a = 1\n[kernel\n", "f.toml:2: no valid TOML, column 8"),
        (b"a = 1\nb = [1,\n2\n", "f.toml:3: no valid TOML, at the end of the file"),
        (b"a = 1\nb = \x00\n", "f.toml:2: no valid TOML"),
        (b"a = 1\n\nb = '\xff'\n", "f.toml:3: byte 0xff at offset 12 is no UTF-8"),
        (b"\xef\xbb\xbfa = '\xff'", "f.toml:1: byte 0xff at offset 8 is no UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00", "f.toml:1: no valid TOML, column 1"),
        (b"a = 1\na = 2\n", "f.toml:2: no valid TOML, column 6: Cannot overwrite a value"),
        (b"a = 1\nb = " + b"9" * 5000, "f.toml:2: a number has too many digits"),
        (b"\nb = " + b"[" * 5000, "f.toml:2: nested deeper than 32 levels"),
        (b"\n" + b"b." * 5000 + b"x=1", "f.toml:2: nested deeper than 32 levels"),
    ],
)
def test_what_is_no_toml_is_refused_with_its_line(data: bytes, text: str) -> None:
    assert error_of(data).startswith(text)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_document_or_a_config_error(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        parse_document(data, "f.toml")


def test_a_byte_order_mark_is_no_error() -> None:
    assert parse_document(b"\xef\xbb\xbfa = 1", "f.toml").root.keys == ["a"]


def test_files_that_cannot_be_read_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read: No such file"):
        read_document(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match=r"(?s)no regular file|Is a directory"):
        read_document(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is no regular file"):
        read_document(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_document("nul\0byte")
    big = tmp_path / "big.toml"
    with big.open("wb") as stream:
        stream.truncate(MAX_FILE_SIZE + 1)
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        read_document(big)


def test_unknown_keys_become_notices_with_a_hint() -> None:
    document = parse_document("[base]\nnmae = 1\nzzz = 2\n", "f.toml")
    base = document.root.table("base")
    base.find("name")
    base.note_unknown()
    assert [str(notice) for notice in document.notices] == [
        "f.toml:2: base.nmae: unknown key, ignored (did you mean name?)",
        "f.toml:3: base.zzz: unknown key, ignored",
    ]


def test_a_flood_of_unknown_keys_is_counted_and_not_listed() -> None:
    document = parse_document("".join(f"k{n} = 1\n" for n in range(1000)), "f.toml")
    document.root.note_unknown()
    assert len(document.notices) == 21
    assert "980 more unknown keys" in str(document.notices[-1])


def test_a_missing_key_names_the_key_that_looks_like_it() -> None:
    document = parse_document("[kernel]\nentry_piont = 1\n", "f.toml")
    with pytest.raises(ConfigError, match=r"^f\.toml:1: kernel: \[kernel\] has no entry_point \('entry_piont' found\)"):
        document.root.table("kernel").need("entry_point")


@pytest.mark.parametrize(
    ("text", "getter", "problem"),
    [
        ("x = true", "integer", "true found, an integer wanted"),
        ("x = 1.5", "integer", "1.5 found, an integer wanted"),
        ("x = -1", "integer", "-1 is out of range: 0 to 0xffffffffffffffff is allowed"),
        ("x = 0x1_0000_0000_0000_0000", "integer", "0x10000000000000000 is out of range"),
        ("x = 1", "text", "1 found, a string wanted"),
        (r'x = "a\u001b[2J"', "text", "characters that cannot be printed"),
        (r'x = "a\u0000b"', "text", "characters that cannot be printed"),
        ('x = "  "', "name", "an empty name"),
        ('x = "0x1g"', "address", "'0x1g' found, an integer or a string such as"),
        ('x = "0x1_0000_0000_0000_0000"', "address", "found, an integer or a string such as"),
        ("x = {}", "elements", "a table found, an array wanted"),
        ("x = [1]", "table", "an array of 1 found, a table wanted"),
        ("x = 1", "boolean", "1 found, true or false wanted"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_what_is_allowed(text: str, getter: str, problem: str) -> None:
    item = parse_document("\n" + text, "f.toml").root.need("x")
    with pytest.raises(ConfigError) as caught:
        getattr(item, getter)()
    assert str(caught.value).startswith("f.toml:2: x: ")
    assert problem in str(caught.value)


def test_numbers_beyond_any_size_are_shown_short() -> None:
    item = parse_document("x = 0x" + "f" * 100_000, "f.toml").root.need("x")
    with pytest.raises(ConfigError) as caught:
        item.integer()
    assert len(str(caught.value)) < 200
    assert len(shown("\x1b" * 5000)) <= 60
    assert parse_document('x = "0xffff_ffc0_0000_0000"', "f").root.need("x").address() == 0xFFFF_FFC0_0000_0000
