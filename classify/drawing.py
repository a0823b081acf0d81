"""What every figure is drawn from: texts, lines and markers as plain SVG that follows the page's colours."""

from collections.abc import Iterable
from html import escape

from classify.tables import printable

WIDTH = 400
SERIES = 7

# Width of the mean character of a sans-serif face, as a share of its size.
_CHARACTER = 0.56
_MARKERS = ("circle", "square", "triangle", "diamond", "plus", "down", "cross")


def draw_text(x: float, y: float, content: str, *classes: str, **attributes: object) -> str:
    """Return a text element; classes say how it looks, attributes are its own."""
    rest = "".join(f' {name.replace("_", "-")}="{escape(str(value))}"' for name, value in attributes.items())
    names = f' class="{" ".join(classes)}"' if classes else ""
    return f'<text x="{x:g}" y="{y:g}"{names}{rest}>{escape(printable(content))}</text>'


def draw_line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    """Return a line element."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{classes}"/>'


def text_width(text: str, size: float = 12) -> float:
    """Return about how wide a text will be."""
    return len(text) * size * _CHARACTER


def cut_text(text: str, width: float, size: float = 12) -> str:
    """Return as much of a text as fits into a width, with an ellipsis where it is cut."""
    text, room = printable(text), max(3, int(width / (size * _CHARACTER)))
    return text if len(text) <= room else text[: room - 1] + "\N{HORIZONTAL ELLIPSIS}"


def draw_svg(
    height: float, label: str, body: Iterable[str], *, kind: str, width: float = WIDTH, data: str = ""
) -> str:
    """Return a figure of that height, which says its label to those who can't see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" class="{kind}" role="img" '
        f'aria-label="{escape(printable(label))}"{data}>{"".join(body)}</svg>'
    )


def marker(kind: int, x: float, y: float, classes: str = "", size: float = 3.6) -> str:
    """Return the marker of a series, about ``2 * size`` wide, centred on a point."""
    names = f' class="marker {classes}"'
    s, t = size, size * 1.25
    match _MARKERS[kind % len(_MARKERS)]:
        case "circle":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s:g}"{names}/>'
        case "square":
            points = [(-s, -s), (s, -s), (s, s), (-s, s)]
        case "triangle":
            points = [(0, -t), (t, s), (-t, s)]
        case "diamond":
            points = [(0, -t), (t, 0), (0, t), (-t, 0)]
        case "down":
            points = [(0, t), (t, -s), (-t, -s)]
        case "plus":
            a = s / 2.5
            points = [(-a, -t), (a, -t), (a, -a), (t, -a), (t, a), (a, a), (a, t), (-a, t), (-a, a), (-t, a)]
            points += [(-t, -a), (-a, -a)]
        case _:
            a = s / 2.5
            points = [
                (0, -a),
                (s - a, -t),
                (t, a - s),
                (a, 0),
                (t, s - a),
                (s - a, t),
                (0, a),
                (a - s, t),
                (-t, s - a),
            ]
            points += [(-a, 0), (-t, a - s), (a - s, -t)]
    return f'<polygon points="{" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in points)}"{names}/>'


def series_looks(series: int) -> tuple[str, int]:
    """Return the classes and the marker of a series; beyond ``SERIES`` a colour comes back with another dash."""
    turn = (series + series // SERIES) % SERIES
    return f"s{series % SERIES + 1} d{turn + 1}", turn
