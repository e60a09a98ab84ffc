"""A page as tests look at it: its elements, in order, each closed where it has to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_EMPTY = {"meta", "link", "input", "br", "img", "hr"}


@dataclass(slots=True)
class Element:
    """One element with its attributes and the text in it, that of its children too."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    within: tuple[str, ...] = ()


@dataclass(slots=True)
class Page(HTMLParser):
    """A parsed page.

    Raises:
        AssertionError: an element ends that did not begin, or does not end.
    """

    source: str
    elements: list[Element] = field(default_factory=list)
    _open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        HTMLParser.__init__(self)
        self.feed(self.source)
        self.close()
        assert not self._open, f"not closed: {[element.tag for element in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice"
        found = Element(tag, {name: value or "" for name, value in attrs}, within=tuple(e.tag for e in self._open))
        self.elements.append(found)
        if tag not in _EMPTY:
            self._open.append(found)

    def handle_endtag(self, tag: str) -> None:
        assert [element.tag for element in self._open[-1:]] == [tag], f"</{tag}> ends {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, *tags: str) -> list[Element]:
        """Elements of these names, in the page's order."""
        return [element for element in self.elements if element.tag in tags]
