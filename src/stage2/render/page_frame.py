"""The frame of an HTML file that loads nothing from elsewhere, and runs nothing but its own script."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources

from .plain import plain


def framed(title: str, style: str, script: str, body: str) -> str:
    """A whole file.

    Args:
        title: as plain text.
        style: what the page has besides the style that all pages share.
        script: run behind the body.
        body: the elements of the body.
    """
    style = part("page_frame", "css") + style
    # Hashes instead of 'unsafe-inline': what slips in with a name of somebody's VM does not run.
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{page_text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"{body}\n<script>{script}</script>\n</body>\n</html>\n"
    )


def part(name: str, kind: str, package: str = __package__) -> str:
    """A file that lies beside the module that makes a page: its style or its script."""
    return resources.files(package).joinpath(f"{name}.{kind}").read_text(encoding="utf-8")


def page_text(value: str) -> str:
    """Text from outside, for an element or a quoted attribute."""
    return escape(plain(value))


def _hash(inline: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
