"""What an audit found as one HTML file: what was looked at and inferred, then the findings."""

from __future__ import annotations

from collections.abc import Iterable

from ..inspect.audit.every import Audit
from .audit import NUMBERS, looked_rows, sentence
from .findings_page import findings_page
from .page_frame import page_text


def audit_page(audit: Audit) -> str:
    """The whole file, as text without surrogates."""
    heads, rows = looked_rows(audit.looked)
    classes = [' class="number"' if head in NUMBERS else ' class="address"' if head == "root" else "" for head in heads]
    top = "".join(f'<th scope="col"{kind}>{page_text(head)}</th>' for head, kind in zip(heads, classes, strict=True))
    body = "\n".join(_row(row, classes) for row in rows)
    overview = [
        f'<h2>What was looked at</h2>\n<p>{page_text(sentence(audit))}.</p>\n<div class="scroll" tabindex="0" '
        'role="group" aria-label="Roots"><table>\n<caption>Roots of tables</caption>\n'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>",
        *_sentences("What was inferred", audit.assumed),
        *_sentences("Notices", audit.notices),
    ]
    return findings_page(audit.findings, [audit.source.name], command="audit", overview="\n".join(overview))


def _row(row: Iterable[str], classes: Iterable[str]) -> str:
    first, *rest = zip(row, classes, strict=True)
    cells = "".join(f"<td{kind}>{page_text(value)}</td>" for value, kind in rest)
    return f'<tr><th scope="row">{page_text(first[0])}</th>{cells}</tr>'


def _sentences(title: str, sentences: Iterable[str]) -> list[str]:
    items = "".join(f"<li>{page_text(one)}</li>" for one in sentences)
    return [f"<h2>{title}</h2>\n<ul>{items}</ul>"] if items else []
