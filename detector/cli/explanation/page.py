"""The explanation as one HTML page, without scripts or external resources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from detector.cli.explanation import plots
from detector.cli.explanation.account import Account
from detector.cli.explanation.plots import Plot
from detector.cli.explanation.tables import Table, events, facts, silent, weights
from detector.cli.explanation.weighing import names_in
from detector.cli.explanation.words import UNIT, basis, headline, verdict
from detector.core.profile.standards import MAX_CONTRIBUTION
from detector.runtime.text import html_text

_STYLE = (
    ":root{color-scheme:light dark;--page:#fff;--ink:#1f2328;--soft:#59636e;--line:#dfe4ea;--panel:#f6f8fa;"
    "--blue:#0b63ce;--violet:#8250df;--red:#c4242b;--orange:#a15c07;--bar:#b6d3f2}"
    "@media(prefers-color-scheme:dark){:root{--page:#0d1117;--ink:#e6edf3;--soft:#9aa4af;--line:#2b323b;"
    "--panel:#161b22;--blue:#58a6ff;--violet:#bc8cff;--red:#ff7b72;--orange:#e3a04a;--bar:#24507f}}"
    "body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:56rem;"
    "margin:2rem auto;padding:0 1rem;overflow-wrap:break-word}"
    "h1{font-size:1.6rem;line-height:1.25;margin-bottom:.5rem}h2{font-size:1.15rem;margin:2.5rem 0 .5rem}"
    ".lead{font-size:1.1rem;border-left:4px solid var(--soft);padding-left:.9rem}.lead.suspect{border-color:var(--red)}"
    ".soft,figcaption{color:var(--soft);font-size:.875rem}figure{margin:1rem 0 0}"
    "figure h3{font-size:.95rem;margin:0 0 .25rem}.pair{display:grid;gap:1rem 2rem;"
    "grid-template-columns:repeat(auto-fill,minmax(min(25rem,100%),1fr))}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:.875rem;width:100%}"
    "th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}"
    "th{font-weight:600;background:var(--panel)}.text{text-align:left}"
    "svg{display:block;width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--ink);"
    "paint-order:stroke;stroke:var(--page);stroke-width:3px}"
    "svg text.soft{fill:var(--soft);font-size:12px}.grid{stroke:var(--line)}"
    ".curve,.second,.fitted{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke:var(--blue)}"
    ".second{stroke:var(--violet)}.fitted{stroke:var(--violet)}.bar{fill:var(--bar)}"
    "line.limit{stroke:var(--red);stroke-dasharray:6 4}svg text.limit{fill:var(--red)}"
    "line.likest,line.most{stroke:var(--orange);stroke-dasharray:6 4}line.most{stroke:var(--soft);stroke-dasharray:2 4}"
    "svg text.likest{fill:var(--orange)}svg text.most{fill:var(--soft)}"
    "line.verdict{stroke:var(--red);stroke-width:1.6}svg text.verdict{fill:var(--red);font-weight:600}"
    "line.accused{stroke:var(--red);stroke-dasharray:3 3}svg text.accused{fill:var(--red)}"
    "line.moment{stroke:var(--soft);stroke-dasharray:3 3}svg text.moment{fill:var(--soft)}"
)

_SCALE = (
    f"All values in {UNIT}; 0 is the average account. Closest honest: the calibration account that leaves the "
    f"smallest D. The contribution of a measure is its deviation beyond that account, at most {MAX_CONTRIBUTION:g}."
)


def page(account: Account) -> str:
    """Returns the whole page."""
    return document(headline(account), _sections(account))


def document(heading: str, sections: Iterable[str]) -> str:
    """Returns a page of ``sections`` in HTML. It is well-formed XML after its first line and loads nothing else."""
    title = html_text(heading)
    return (
        '<!doctype html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width"/>\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
        f"<title>Weirguard: {title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _sections(account: Account) -> Iterator[str]:
    kind = "lead" if account.course.verdict is None else "lead suspect"
    yield f'<p class="{kind}">{html_text(verdict(account))}</p>'
    yield "".join(f"<p>{html_text(sentence)}</p>" for sentence in basis(account))
    yield f'<p class="soft">{html_text(facts(account))}</p>'
    if account.then is not None:
        still = silent(account)
        rest = f" Within the normal range: {', '.join(still)}." if still else ""
        yield f"<h2>Contributions</h2>{table(weights(account))}"
        yield f'<p class="soft">{html_text(_SCALE + rest)}</p>'
    yield from _suspicion(account)
    yield from _others(account)
    yield "<h2>Alerts, decisions and commands</h2>" + table(events(account))


def _suspicion(account: Account) -> Iterator[str]:
    over = plots.suspicion(account)
    if over is None:
        return
    yield f"<h2>{html_text(over.title)}</h2>{figure(over, titled=False)}"
    reading = (
        "Red line: the verdict. Dashed: the closest honest account. Dotted: the largest value of any honest account."
    )
    small = plots.measures(account)
    rest = [name for name in names_in(account.course) if name not in account.telling]
    yield f'<h2>Measures</h2><p class="soft">{reading}</p>{pair(small)}'
    if rest:
        yield f'<p class="soft">Not drawn, because their contribution stays small: {html_text(", ".join(rest))}.</p>'


def _others(account: Account) -> Iterator[str]:
    over, distances = plots.prada_over_time(account), plots.prada_distances(account)
    yield "<h2>PRADA</h2>" + (pair([over, *distances]) if account.has_profile else figure(over) + pair(distances))
    meters = [plot for plot in (plots.margin(account), plots.exposure(account)) if plot is not None]
    if meters:
        yield "<h2>Margin and exposure</h2>" + pair(meters)


def pair(shown: Iterable[Plot | None]) -> str:
    """Returns plots side by side."""
    return f'<div class="pair">{"".join(figure(plot) for plot in shown if plot is not None)}</div>'


def figure(plot: Plot, *, titled: bool = True) -> str:
    """Returns a plot with its caption."""
    title = f"<h3>{html_text(plot.title)}</h3>" if titled else ""
    return f"<figure>{title}{plot.svg}<figcaption>{html_text(plot.caption)}</figcaption></figure>"


def table(own: Table) -> str:
    """Returns a table as HTML."""
    rows = [_row("th", own.head, own.texts), *(_row("td", row, own.texts) for row in own.rows)]
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _row(tag: str, cells: Sequence[str], texts: int) -> str:
    kinds = [' class="text"' if at < texts else "" for at in range(len(cells))]
    shown = (f"<{tag}{kind}>{html_text(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
    return f"<tr>{''.join(shown)}</tr>"
