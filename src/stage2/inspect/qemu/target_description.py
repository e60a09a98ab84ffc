"""A gdb stub's description of its target: XML documents that name the registers and their numbers.

They come from another program, so documents, their size and what they include are bounded, and an XML entity of their
own is refused. QEMU's documents use the prefix `xi` without declaring it, so they are read by a parser that takes names
as they stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from xml.parsers import expat

from ...errors import SourceError

_DOCUMENTS = 64
_REGISTERS = 1 << 16
_WIDEST = 4096
"""Bits of a register: Arm's vectors are the widest."""


@dataclass(frozen=True, slots=True)
class Register:
    """A register as the stub numbers it.

    Args:
        number: by which it is asked for.
        bits: its width.
    """

    number: int
    bits: int


@dataclass(slots=True)
class Description:
    """What a target says of itself.

    Args:
        architecture: by gdb's name: `aarch64`, `riscv:rv64`, `i386:x86-64`; "" where it does not tell.
        registers: by the stub's names.
    """

    architecture: str = ""
    registers: dict[str, Register] = field(default_factory=dict)


def read_description(fetch: Callable[[str], str]) -> Description:
    """A target's description.

    Args:
        fetch: gives the document of a name.

    Raises:
        SourceError: a document is no such description, or they are too many.
    """
    found, documents = Description(), 0
    number = 0
    waiting = ["target.xml"]
    seen = set(waiting)
    while waiting:
        documents += 1
        if documents > _DOCUMENTS:
            raise SourceError(f"the target description has more than {_DOCUMENTS} documents")
        name = waiting.pop()
        included: list[str] = []
        for tag, attributes, text in _elements(name, fetch(name)):
            if tag == "architecture":
                found.architecture = found.architecture or text.strip()
            elif tag == "xi:include":
                href = attributes.get("href", "")
                if href and href not in seen:
                    seen.add(href)
                    included.append(href)
            elif tag == "reg":
                number = _number(name, attributes, "regnum", number, _REGISTERS)
                register = Register(number, _number(name, attributes, "bitsize", 64, _WIDEST))
                found.registers.setdefault(attributes.get("name", ""), register)
                number += 1  # one without a number has that after the last one's
        # In the order in which they are named, each before what its includer names after it.
        waiting += reversed(included)
    return found


def _number(document: str, attributes: dict[str, str], key: str, otherwise: int, limit: int) -> int:
    text = attributes.get(key)
    if text is None:
        return otherwise
    value = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if not 0 <= value <= limit:
        raise SourceError(f"the target description {document} has {key}={text[:40]!r}")
    return value


def _elements(name: str, document: str) -> list[tuple[str, dict[str, str], str]]:
    """The elements of a document in order: tag, attributes, the text that follows the tag."""
    elements: list[tuple[str, dict[str, str], list[str]]] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        elements.append((tag, attributes, []))

    def text(part: str) -> None:
        if elements:
            elements[-1][2].append(part)

    def entity(entity_name: str, *_: object) -> None:
        raise SourceError(f"the target description {name} declares the entity {entity_name[:40]!r}, which none does")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.CharacterDataHandler = text
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(document, True)
    except expat.ExpatError as error:
        raise SourceError(f"the target description {name} is no XML: {error}") from None
    return [(tag, attributes, "".join(parts)) for tag, attributes, parts in elements]
