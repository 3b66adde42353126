"""A small SVG canvas: boxes, lines, arrows and labels with subscripts."""

import re
from html import escape
from pathlib import Path

INK, GREY, HIGH, LOW = "#24292f", "#8c959f", "#2f6fab", "#d9822b"
_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
width="{width}" height="{height}" font-family="Helvetica, Arial, sans-serif" role="img">
<title>{title}</title>
<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>"""


class Drawing:
    """Shapes in the order they are drawn, in pixels from the upper left corner."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._parts = [_HEAD.format(width=width, height=height, title=escape(title))]

    def rect(
        self, x: float, y: float, width: float, height: float, *, stroke: str = INK,
        fill: str = "none", dashed: bool = False, radius: float = 0, opacity: float = 1,
    ) -> None:  # fmt: skip
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
            f'fill="{fill}" fill-opacity="{opacity:g}" stroke="{stroke}" stroke-width="1.5"{dash}/>'
        )

    def circle(self, x: float, y: float, radius: float, *, fill: str, stroke: str = INK) -> None:
        self._parts.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}" stroke="{stroke}" '
            f'stroke-width="1.5"/>'
        )

    def line(self, *points: tuple[float, float], stroke: str = INK, width: float = 1.5) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{width:g}"/>'
        )

    def arrow(self, start: tuple[float, float], end: tuple[float, float], stroke: str) -> None:
        """Draws a line with a head of 8 pixels at its end."""
        (x0, y0), (x1, y1) = start, end
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        u, v = (x1 - x0) / length, (y1 - y0) / length
        x, y = x1 - 8 * u, y1 - 8 * v
        self.line(start, (x, y), stroke=stroke, width=2)
        head = f"{x1:g},{y1:g} {x - 4 * v:g},{y + 4 * u:g} {x + 4 * v:g},{y - 4 * u:g}"
        self._parts.append(f'<polygon points="{head}" fill="{stroke}"/>')

    def text(
        self, x: float, y: float, words: str, *, size: float = 14, anchor: str = "middle",
        fill: str = INK, bold: bool = False,
    ) -> None:  # fmt: skip
        """Writes words with the baseline at y; the letters after "_" are a subscript: W_hl."""
        weight = ' font-weight="bold"' if bold else ""
        shift = size * 0.25
        marked = re.sub(
            r"_(\w+)",
            rf'<tspan font-size="{size * 0.72:g}" dy="{shift:g}">\1</tspan>'
            rf'<tspan dy="-{shift:g}">&#8203;</tspan>',
            escape(words),
        )
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" '
            f'fill="{fill}"{weight}>{marked}</text>'
        )

    def write(self, path: Path) -> None:
        path.write_text("\n".join([*self._parts, "</svg>"]) + "\n", encoding="utf-8")
