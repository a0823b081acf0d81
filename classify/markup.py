"""Small pieces of HTML, in which no text of a stranger can become an element."""

import json
from collections.abc import Iterable, Mapping
from html import escape

from classify.tables import printable


def safe(text: object) -> str:
    """Return text that stands as it is in HTML, attributes too."""
    return escape(printable(str(text)))


def safe_json(value: object) -> str:
    """Return JSON that can stand inside a script element: no ``<`` to end it, no ``&`` to be read as an entity."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def mark_html(text: str, kind: str = "") -> str:
    """Return a word that must stand beside a row."""
    return f' <span class="mark {kind}">{text}</span>'


def figure_html(name: str, heading: str, svg: str, caption: str, *, tall: bool = False) -> str:
    """Return a figure with its heading and caption; a tall one scrolls in a box of its own."""
    above = f"<h3>{heading}</h3>" if heading else ""
    box = (
        f'<div class="tallbox" tabindex="0" role="region" aria-label="{heading}">{svg}</div>' if tall else svg
    )
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure data-name="{safe(name)}">{above}{box}{below}</figure>'


def list_html(items: Iterable[str], kind: str = "") -> str:
    """Return a list."""
    names = f' class="{kind}"' if kind else ""
    return f"<ul{names}>{''.join(f'<li>{safe(item)}</li>' for item in items)}</ul>"


def facts_html(facts: Mapping[str, object]) -> str:
    """Return names and facts side by side."""
    return (
        '<dl class="facts">'
        + "".join(f"<dt>{safe(name)}</dt><dd>{safe(fact)}</dd>" for name, fact in facts.items())
        + "</dl>"
    )
