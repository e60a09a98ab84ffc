"""What the pages show is what happens."""

from __future__ import annotations

import doctest
import importlib
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT, Block, blocks, commands, name, pages

from stage2.cli.main import call

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITH_EXAMPLES = [page for page in pages() if any(block.language in ("console", "pycon") for block in blocks(page))]
SOURCES = ROOT / "src"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.guest
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name)
def test_the_examples_of_a_page_do_what_it_shows(page: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _save_files(page)
    session: dict[str, object] = {}
    for block in blocks(page):
        where = f"{name(page)}:{block.line}"
        if block.language == "console":
            _run_commands(block, where, capfd)
        elif block.language == "pycon":
            _run_session(block, where, session)


def test_the_pages_with_examples_are_those_that_promise_them() -> None:
    found = {name(page) for page in WITH_EXAMPLES}
    assert "docs/tutorial.md" in found
    assert {name(page) for page in (ROOT / "docs/how-to").glob("*.md")} <= found


def test_a_page_that_shows_something_else_is_noticed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match=r"page\.md:1"):
        _run_commands(Block("console", "$ stage2 explain register satp 0x0\nnothing\n", 1), "page.md:1", capfd)
    with pytest.raises(AssertionError, match=r"page\.md:1"):
        _run_session(Block("pycon", ">>> 1 + 1\n3\n", 1), "page.md:1", {})


def _modules_with_examples() -> Iterator[str]:
    for path in sorted(SOURCES.rglob("*.py")):
        if ">>> " in path.read_text():
            yield ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")


def test_the_examples_of_docstrings_do_what_they_show() -> None:
    for module in _modules_with_examples():
        failed, _ = doctest.testmod(importlib.import_module(module), optionflags=OPTIONS)
        assert not failed, module


def _save_files(page: Path) -> None:
    """The files of a page; a page that begins from another one's says so by a link to it."""
    own = [(block.file, block.text) for block in blocks(page) if block.file is not None]
    if not own and "[Share memory](share-memory.md)" in page.read_text():
        own = [
            (block.file, block.text) for block in blocks(page.with_name("share-memory.md")) if block.file is not None
        ]
    for file, text in own:
        Path(file).write_text(text)


def _run_commands(block: Block, where: str, capfd: pytest.CaptureFixture[str]) -> None:
    for words, shown in commands(block):
        capfd.readouterr()
        if words[0] == "python":
            runpy.run_path(words[1])
            code = 0
        else:
            assert words[0] == "stage2", where
            code = call(words[1:])
        out, err = capfd.readouterr()
        assert code == 0, f"{where}: {' '.join(words)}: {err}"
        if shown.strip():
            assert doctest.OutputChecker().check_output(shown, out, OPTIONS), f"{where}: {' '.join(words)}:\n{out}"


def _run_session(block: Block, where: str, session: dict[str, object]) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, session, where, where, block.line)
    told: list[str] = []
    results = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=told.append, clear_globs=False)
    session.update(test.globs)
    assert not results.failed, f"{where}: {''.join(told)}"
