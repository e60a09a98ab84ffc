"""Findings as one HTML file: nothing is loaded from elsewhere, and all of it can be read without scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from .. import __version__
from ..check.file_lines import lines_of
from ..check.finding import Finding, Location, Severity
from .excerpt import facts_of, summary
from .identity import fingerprints
from .page_frame import framed, part
from .page_frame import page_text as _text
from .plain import about, counted

_BESIDE = 2
"""Lines of a file that are shown before and after the one that is meant."""
_LONGEST = 400
"""Limit: characters of a line that are shown."""
_BEFORE = 120
"""Characters before the value of a line that is longer."""
_TAB = "    "
_NOWHERE = "no file"


def findings_page(
    findings: Sequence[Finding], checked: Iterable[str], *, command: str = "check", overview: str = ""
) -> str:
    """The whole file, as text without surrogates.

    Args:
        findings: what was found.
        checked: the files that were looked at, as the user named them.
        command: which one found it.
        overview: elements in place of the table of files.
    """
    lines = cache(lines_of)
    files = {file: number for number, file in enumerate(_files(findings, checked))}
    anchors = [f"{f.code}-{mark[:12]}" for f, mark in zip(findings, fingerprints(findings, lines), strict=True)]
    told = summary(findings) if findings else "Nothing is wrong."
    parts = [
        '<a class="skip" href="#findings">Skip to the findings</a>',
        f"<header>\n<h1>Findings of stage2 {command}</h1>\n<p><strong>{_text(told)}</strong></p>\n</header>\n<main>",
        overview or _overview(findings, files, anchors),
        '<h2 id="findings" tabindex="-1">Findings</h2>',
    ]
    if findings:
        parts.append(_filter(findings, files))
        parts += [_article(finding, anchor, files, lines) for finding, anchor in zip(findings, anchors, strict=True)]
    else:
        parts.append("<p>Nothing is wrong.</p>")
    parts.append(
        f'</main>\n<footer class="quiet"><p>Made by stage2 {_text(__version__)}. '
        f"<code>stage2 {command} --explain CODE</code> tells of a rule.</p></footer>"
    )
    style, script = part("findings_page", "css"), part("findings_page", "js")
    return framed(f"{told} stage2 {command}", style, script, "\n".join(parts))


def _files(findings: Iterable[Finding], checked: Iterable[str]) -> list[str]:
    """Every file, those that were asked for first."""
    met = (place.file for finding in findings for place in finding.locations)
    return list(dict.fromkeys([*checked, *met]))


def _first_file(finding: Finding) -> str:
    return finding.locations[0].file if finding.locations else _NOWHERE


def _overview(findings: Sequence[Finding], files: Iterable[str], anchors: Sequence[str]) -> str:
    """How many of each kind begin in which file, with a link to the first."""
    counts = Counter((_first_file(finding), finding.level) for finding in findings)
    first: dict[str, str] = {}
    for finding, anchor in zip(findings, anchors, strict=True):
        first.setdefault(_first_file(finding), anchor)
    head = "".join(f'<th scope="col" class="number">{level}s</th>' for level in Severity)
    rows = []
    for file in [*files, *([_NOWHERE] if _NOWHERE in first else [])]:
        name = f'<a href="#{first[file]}">{_text(file)}</a>' if file in first else _text(file)
        cells = "".join(f'<td class="number">{counts[file, level]}</td>' for level in Severity)
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    body = "\n".join(rows)
    return (
        "<h2>Files</h2>\n<table>\n<caption>Findings by the file that they begin in</caption>\n"
        f'<thead><tr><th scope="col">file</th>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'
    )


def _filter(findings: Sequence[Finding], files: dict[str, int]) -> str:
    """Hidden until the script makes it work."""
    counts = Counter(finding.level for finding in findings)
    boxes = "".join(
        f'<label><input type="checkbox" name="severity" value="{level}" checked> '
        f'<span class="{level}">{counted(counts[level], level)}</span></label>'
        for level in Severity
        if counts[level]
    )
    met = {place.file for finding in findings for place in finding.locations}
    named = "".join(f'<option value="{number}">{_text(file)}</option>' for file, number in files.items() if file in met)
    titles = {finding.code: finding.rule.title for finding in findings}
    codes = "".join(f'<option value="{code}">{code}: {_text(title)}</option>' for code, title in sorted(titles.items()))
    return (
        '<form id="filter" hidden role="search" aria-label="Filter findings">\n'
        f"<fieldset><legend>Severity</legend>{boxes}</fieldset>\n"
        '<div class="field"><label for="file">File</label><select id="file" name="file">'
        f'<option value="">all</option>{named}</select></div>\n'
        '<div class="field"><label for="code">Rule</label><select id="code" name="code">'
        f'<option value="">all</option>{codes}</select></div>\n'
        '<div class="field"><label for="text">Text</label><input type="search" id="text" name="text"></div>\n'
        '<button type="reset">Show all findings</button>\n</form>\n'
        '<p id="shown" role="status" aria-live="polite" class="quiet"></p>'
    )


def _article(finding: Finding, anchor: str, files: dict[str, int], lines: Callable[[str], Sequence[str]]) -> str:
    numbers = " ".join(str(number) for number in dict.fromkeys(files[place.file] for place in finding.locations))
    level = finding.level.value
    facts = "\n".join(f"<dt>{_text(word)}</dt><dd>{_text(says)}</dd>" for word, says in facts_of(finding))
    places = "\n".join(_figure(place, lines(place.file)) for place in finding.locations)
    return (
        f'<article id="{anchor}" class="{level}" data-severity="{level}" data-code="{finding.code}" '
        f'data-files="{numbers}" aria-labelledby="{anchor}-title">\n'
        f'<h3 id="{anchor}-title"><span class="{level}">{level} {finding.code}</span>: '
        f"{_text(finding.rule.title)}</h3>\n"
        f"<p>{_text(finding.message)}</p>\n{places}\n{_ranges(finding)}\n<dl>\n{facts}\n</dl>\n"
        f'<p class="quiet"><a href="#{anchor}">Link to {anchor}</a></p>\n</article>'
    )


def _ranges(finding: Finding) -> str:
    """The addresses of all who have to do with it, and what they share."""
    spans = [(_text(party.name), party.space, party.span) for party in finding.parties if party.span is not None]
    if not spans:
        return ""
    if finding.overlap is not None:
        spans.append(("overlap", spans[0][1], finding.overlap))
    rows = "\n".join(
        f'<tr><th scope="row">{name}</th><td>{_text(space)}</td><td class="address">{span.start:#x}</td>'
        f'<td class="address">{span.end:#x}</td><td>{about(span.size)}</td></tr>'
        for name, space, span in spans
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("what", "space", "start", "end (first behind)", "size"))
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="Ranges">\n<table>\n<caption>Ranges</caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _figure(place: Location, lines: Sequence[str]) -> str:
    """Where it is, and the lines there, if they can be read."""
    says = f": {_text(place.says)}" if place.says else ""
    caption = f"<figcaption><code>{_text(str(place))}</code>{says}</figcaption>"
    if place.line is None or place.line > len(lines):
        return f"<figure>{caption}</figure>"
    first, last = max(1, place.line - _BESIDE), min(len(lines), place.line + _BESIDE)
    shown = []
    for number in range(first, last + 1):
        meant = number == place.line
        start, width = (place.column - 1, place.width) if meant and place.column is not None else (0, 0)
        shown.append(f"{'>' if meant else ' '}{number:>5} | {_line(lines[number - 1], start, width)}".rstrip())
    body = "\n".join(shown)
    return (
        f'<figure>{caption}\n<pre tabindex="0" role="group" aria-label="{_text(place.file)}, line {place.line}"><code>'
        f"{body}</code></pre></figure>"
    )


def _line(line: str, start: int, width: int) -> str:
    """A line with its value marked; of a very long one what is around the value."""
    line = line.rstrip("\r")
    low = max(0, start - _BEFORE) if len(line) > _LONGEST else 0
    high = low + _LONGEST
    before, value, after = line[low:start], line[start : min(start + width, high)], line[start + width : high]
    parts = [_text(part.replace("\t", _TAB)) for part in (before, value, after)]
    marked = f"<mark>{parts[1]}</mark>" if parts[1] else ""
    return f"{'... ' if low else ''}{parts[0]}{marked}{parts[2]}{' ...' if high < len(line) else ''}"
