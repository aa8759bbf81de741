"""One self-contained HTML page out of parts: no network, no script. What comes from files is text
and is escaped here, in the one place that writes tags.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from blendsim.report.tables import Column

_STYLE = """
:root { color: #22303c; background: #fff; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 76rem; margin: 0 auto; padding: 1rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #d5dce3; }
h3 { font-size: 1rem; margin: 0; }
p { max-width: 52rem; margin: .5rem 0; overflow-wrap: anywhere; }
.note { border-left: 3px solid #e69f00; padding-left: .7rem; }
.tiles { display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(max(9.5rem, 23%), 1fr)); }
.tiles div { background: #f3f6f8; border-radius: 6px; padding: .5rem .7rem; }
.tiles dt, .quiet { color: #566573; font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.tiles dd small { display: block; font-size: .8rem; color: #566573; line-height: 1.3; }
.panels { display: grid; gap: 1.4rem 1.6rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
figure { margin: 0; max-width: 34rem; }
figcaption p { margin: 0 0 .3rem; }
svg { width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e6eaee; }
th { color: #566573; font-weight: 600; vertical-align: bottom; }
td { white-space: nowrap; }
th.text, td.text { text-align: left; white-space: normal; min-width: 6.5rem; max-width: 34rem; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
.facts dt { color: #566573; }
.facts dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
@media print { figure, table { break-inside: avoid; } }
"""


class Tile(NamedTuple):
    """A figure large enough to be read first."""

    what: str
    value: str
    more: str = ""


class Picture(NamedTuple):
    """An SVG element with its title and what a reader must know."""

    title: str
    note: str
    svg: str  # markup of our own making, not escaped


def page(title: str, parts: Iterable[str]) -> str:
    """The whole file. `parts` are what the other functions return."""
    name = escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what stands below; nothing if nothing does."""
    shown = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{shown}\n</section>" if shown else ""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of text; `kind` is "", "note" or "quiet"."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def tiles(each: Sequence[Tile]) -> str:
    """Key figures side by side."""
    shown = (
        f"<div><dt>{escape(tile.what)}</dt><dd>{escape(tile.value)}"
        f"{f'<small>{escape(tile.more)}</small>' if tile.more else ''}</dd></div>"
        for tile in each
    )
    return f'<dl class="tiles">{"".join(shown)}</dl>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of what and its value."""
    shown = (f"<dt>{escape(what)}</dt><dd>{escape(value)}</dd>" for what, value in pairs)
    return f'<dl class="facts">{"".join(shown)}</dl>'


def table(columns: Sequence[Column]) -> str:
    """A table, which scrolls by itself where it is wider than the screen."""

    def row(tag: str, cells: Iterable[str]) -> str:
        shown = (
            f'<{tag} class="text">{escape(cell)}</{tag}>'
            if column.is_text
            else f"<{tag}>{escape(cell)}</{tag}>"
            for column, cell in zip(columns, cells, strict=True)
        )
        return f"<tr>{''.join(shown)}</tr>"

    head = row("th", [column.title for column in columns])
    rows = zip(*(column.cells for column in columns), strict=True)
    body = "\n".join(row("td", cells) for cells in rows)
    return f'<div class="wide"><table><thead>{head}</thead><tbody>\n{body}\n</tbody></table></div>'


def beside(parts: Iterable[str]) -> str:
    """Parts side by side, as many as the screen holds."""
    return f'<div class="panels">{"".join(parts)}</div>'


def picture(one: Picture) -> str:
    """A picture with its title."""
    return (
        f"<figure><figcaption><h3>{escape(one.title)}</h3>"
        f"{paragraph(one.note, 'quiet')}</figcaption>{one.svg}</figure>"
    )
