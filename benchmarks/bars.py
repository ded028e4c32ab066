"""The bars of README, as SVG: what the tables of docs/benchmarks.rst say of the mixed view.

``python -m benchmarks.bars`` draws them again. It needs no library. The colours can be seen on a white page
and on a black one, and nothing is painted behind them.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.sax.saxutils import escape

DOCS = Path(__file__).parents[1] / "docs"
PICTURE = DOCS / "_static" / "throughput.svg"
TITLE = "mixed, 400 clients, without keep-alive"
SERVERS = {"mysql": "MySQL", "postgresql": "PostgreSQL"}
VARIANTS = {
    "Django, CONN_MAX_AGE 0": "no pool",
    "django_db_pooling": "pool, request scope",
    "django_db_pooling, transactions": "pool, transaction scope",
}
COLOURS = {"mysql": "#1a80c4", "postgresql": "#a87900"}
INK = "#7a7a7a"
LEFT, WIDTH, RIGHT, BAR = 170, 420, 110, 20


def figures(page: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Requests per second and connections, by server and variant, of the tables with other packages."""
    _, found, tables = page.partition("With other packages: the mixed view\n")
    assert found
    told = {}
    for server in SERVERS:
        table = tables.partition(f"{server}, {TITLE}\n")[2]
        for variant in VARIANTS:
            row = re.search(rf"^{re.escape(variant)} {{2,}}(\d.*)$", table, re.MULTILINE)
            assert row is not None, variant
            cells = row[1].split()
            told[server, variant] = (int(cells[0]), int(cells[7]))
    return told


def draw(told: dict[tuple[str, str], tuple[int, int]]) -> str:
    most = max(rate for rate, _ in told.values())
    lines = []
    top = 34
    for variant, name in VARIANTS.items():
        lines.append(f'<text x="{LEFT - 10}" y="{top + BAR + 5}" text-anchor="end">{escape(name)}</text>')
        for server in SERVERS:
            rate, connections = told[server, variant]
            length = round(WIDTH * rate / most)
            lines.append(
                f'<rect x="{LEFT}" y="{top}" width="{length}" height="{BAR - 2}" fill="{COLOURS[server]}"/>'
            )
            lines.append(
                f'<text x="{LEFT + length + 6}" y="{top + 14}">{rate} <tspan font-size="11">'
                f"({connections} conn.)</tspan></text>"
            )
            top += BAR
        top += 14
    legend = []
    x = LEFT
    for server, name in SERVERS.items():
        legend.append(f'<rect x="{x}" y="8" width="12" height="12" fill="{COLOURS[server]}"/>')
        legend.append(f'<text x="{x + 18}" y="19">{name}</text>')
        x += 110
    legend.append(f'<text x="{x}" y="19">requests per second, 400 clients</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{top}" '
            f'font-family="sans-serif" font-size="13" fill="{INK}">',
            *legend,
            *lines,
            "</svg>\n",
        ]
    )


def main() -> None:
    PICTURE.write_text(draw(figures((DOCS / "benchmarks.rst").read_text())))


if __name__ == "__main__":
    main()
