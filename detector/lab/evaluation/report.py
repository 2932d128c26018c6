"""The report, as one self-contained HTML file and as Markdown with the picture beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

from detector.lab.evaluation.picture import picture
from detector.lab.evaluation.results import AttackResult, Evaluation, Got, HonestResult
from detector.lab.evaluation.words import answer, headline, percent
from detector.runtime.text import html_text, printable

HTML, MARKDOWN, PICTURE = "report.html", "report.md", "picture.svg"

_CAPTION = (
    "One line an attack, in the run that got furthest unseen. Red: missed. Green: caught, at the dot; the dotted rest "
    "is what the clone would have become had nobody acted."
)

_NOTE = (
    "First verdict: how many queries of the attack had been sent when one of its accounts was first a suspect. "
    "Fidelity: share of inputs on which clone and model name the same class, natural inputs / uniform inputs, linear "
    "between measurements. Cost: queries sent for each that the clone is made of."
)

_ATTACK_HEAD = (
    "attack", "victim", "wrapper", "accounts", "queries", "first verdict", "fidelity then", "fidelity at the end",
    "cost",
)  # fmt: skip
_HONEST_HEAD = ("kind", "accounts", "flagged", "share", "95% interval")

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#24292f;background:#fff;max-width:60rem;margin:2rem auto;"
    "padding:0 1rem}h1{font-size:1.7rem;line-height:1.2}h2{margin-top:2.5rem;font-size:1.2rem}"
    "svg{width:100%;height:auto}"
    "figure{margin:1.5rem 0}figcaption,.note{color:#57606a;font-size:.9rem}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}"
    "th,td{padding:.25rem .7rem;border-bottom:1px solid #d8dee4;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}tr.missed td{background:#fdf0ef}"
)

Table = list[Sequence[str]]


def write_reports(evaluation: Evaluation, out: Path) -> None:
    """``report.html``, ``report.md`` and the picture that the latter shows, in the folder ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    svg = picture(evaluation.attacks)
    (out / HTML).write_text(html(evaluation, svg), "utf-8")
    (out / MARKDOWN).write_text(markdown(evaluation, svg != ""), "utf-8")
    if svg:
        (out / PICTURE).write_text(svg + "\n", "utf-8")
    else:
        (out / PICTURE).unlink(missing_ok=True)


def html(evaluation: Evaluation, svg: str) -> str:
    """The whole page; ``svg`` is its picture, or empty."""
    figure = f"<figure>\n{svg}\n<figcaption>{_CAPTION}</figcaption>\n</figure>\n" if svg else ""
    paragraphs = "\n".join(f"<p>{html_text(paragraph)}</p>" for paragraph in answer(evaluation))
    classes = ["caught" if result.caught else "missed" for result in evaluation.attacks]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>Weirguard: {html_text(headline(evaluation))}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html_text(headline(evaluation))}</h1>\n{paragraphs}\n{figure}"
        f"<h2>Attacks</h2>\n{_html_table(_ATTACK_HEAD, _attack_rows(evaluation.attacks), classes)}"
        f'<p class="note">{_NOTE}</p>\n'
        f"<h2>Honest accounts</h2>\n{_html_table(_HONEST_HEAD, _honest_rows(evaluation), None)}</body>\n</html>\n"
    )


def markdown(evaluation: Evaluation, with_picture: bool) -> str:
    """The same in Markdown; ``with_picture`` shows the picture beside the file."""
    figure = [f"![Fidelity over queries]({PICTURE})", _CAPTION] if with_picture else []
    blocks = [
        f"# {headline(evaluation)}",
        *(_plain(paragraph) for paragraph in answer(evaluation)),
        *figure,
        "## Attacks",
        _markdown_table(_ATTACK_HEAD, _attack_rows(evaluation.attacks)),
        _NOTE,
        "## Honest accounts",
        _markdown_table(_HONEST_HEAD, _honest_rows(evaluation)),
    ]
    return "\n\n".join(blocks) + "\n"


def _attack_rows(results: Iterable[AttackResult]) -> Table:
    return [
        (
            result.attack,
            result.victim,
            result.wrapper,
            f"{result.accounts:,}",
            f"{result.sent:,}",
            "missed" if result.first_verdict is None else f"{result.first_verdict:,}",
            _both(result.got_at_verdict),
            _both(result.got_at_end),
            f"{result.cost_multiplier:.3g}",
        )
        for result in results
    ]


def _both(got: Got | None) -> str:
    return "-" if got is None else f"{percent(got.test)} / {percent(got.uniform)}"


def _honest_rows(evaluation: Evaluation) -> Table:
    everybody = evaluation.all_honest
    return [_honest_row(each) for each in (*evaluation.honest, *([everybody] if everybody else []))]


def _honest_row(each: HonestResult) -> Sequence[str]:
    share, interval = percent(each.flagged / each.accounts), f"{percent(each.low)} to {percent(each.high)}"
    return each.kind, f"{each.accounts:,}", f"{each.flagged:,}", share, interval


def _html_table(head: Sequence[str], rows: Table, classes: Sequence[str] | None) -> str:
    marks = [""] * len(rows) if classes is None else [f' class="{name}"' for name in classes]
    lines = [_cells("th", head, html_text), *(_cells("td", row, html_text) for row in rows)]
    body = "\n".join(f"<tr{mark}>{line}</tr>" for mark, line in zip(["", *marks], lines, strict=True))
    return f'<div class="wide"><table>\n{body}\n</table></div>\n'


def _cells(tag: str, cells: Iterable[str], escaped: Callable[[str], str]) -> str:
    return "".join(f"<{tag}>{escaped(cell)}</{tag}>" for cell in cells)


def _markdown_table(head: Sequence[str], rows: Table) -> str:
    rule = ["---", *("--:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(map(_plain, row))} |" for row in (head, rule, *rows))


def _plain(text: str) -> str:
    """``text`` that names from a log cannot turn into markup."""
    safe = escape(printable(" ".join(text.split())), quote=False)
    for mark in ("\\", "|", "[", "`", "*", "_"):
        safe = safe.replace(mark, f"\\{mark}")
    return safe
