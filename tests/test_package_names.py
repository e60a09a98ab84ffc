"""The names of the package root."""

from __future__ import annotations

import importlib

import pytest

import stage2


def test_every_public_name_is_there_and_listed() -> None:
    for name in stage2.__all__:
        assert getattr(stage2, name) is not None
        assert name in dir(stage2)


def test_the_names_are_the_things_themselves() -> None:
    space = importlib.import_module("stage2.space.address_space")
    tables = importlib.import_module("stage2.tables.pagetable")
    assert stage2.AddressSpace is space.AddressSpace
    assert stage2.PageTable is tables.PageTable
    assert issubclass(importlib.import_module("stage2.errors").ConfigError, stage2.Stage2Error)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchName"):
        _ = stage2.NoSuchName  # type: ignore[attr-defined]
