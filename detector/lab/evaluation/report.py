"""The report of an evaluation: in sentences, as one self-contained HTML file, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from detector.explain.page import render
from detector.explain.tables import TextTable
from detector.explain.words import count
from detector.lab.evaluation.costs import KNOWLEDGE, LEVELS, Cost, Inputs, ThiefCost, cheapest
from detector.lab.evaluation.picture import picture
from detector.lab.evaluation.results import AttackResult, CloneAgreement, Evaluation, group_by_attack, percent
from detector.lab.wrappers import PLAIN
from detector.runtime.text import printable

HTML, MARKDOWN, PICTURE = "report.html", "report.md", "picture.svg"

_CAPTION = (
    "One line per attack, in the run that got furthest unseen. Red: missed. Green: caught, at the dot; the dotted rest "
    "is what the clone would have become had nobody acted."
)
_NOTE = (
    "First verdict: how many queries of the attack had been sent when one of its accounts was first a suspect, "
    "or a member of a group where it says so. "
    "Fidelity: share of inputs on which clone and model name the same class, natural inputs / uniform inputs, linear "
    "between measurements. Sent per useful: queries sent for each that the clone is made of."
)
_ATTACK_HEAD = (
    "attack", "victim", "wrapper", "accounts", "queries", "first verdict", "fidelity then", "fidelity at the end",
    "sent per useful",
)  # fmt: skip
_COST_HEAD = (
    "victim", "thief", "disguise", "knows", "found after", "fidelity then",
    "cost multiplier, natural", "cost multiplier, uniform",
)  # fmt: skip
_COST_NOTE = (
    "Found after: queries from the end of the thief's natural rows to the first verdict. Fidelity then: on natural "
    "inputs / uniform ones, at the verdict or at the end. Cost multiplier: queries that the thief needs unseen for "
    f"{', '.join(f'{level:.0%}' for level in LEVELS)} of the fidelity of the best clone that any attack here makes "
    "undisguised and unwatched, over what the quickest needs; rows: to ask natural rows alone is as good; never: "
    "found, or at an end, before that."
)
_WORDS: dict[Inputs, str] = {"test": "natural", "uniform": "uniform"}
_SHOWN: tuple[tuple[Inputs, float], ...] = (("test", 0.99), ("uniform", 0.95))
_CHEAPEST_HEAD = ("victim", "knows", *(f"{level:.0%} on {_WORDS[inputs]} inputs" for inputs, level in _SHOWN))
_HONEST_HEAD = ("kind", "accounts", "flagged", "share", "95% interval")
_ONE_SIGNAL = {
    "prada": " prada is the only signal at work. It looks for a thief who takes small steps from earlier queries, and "
    "misses all other attacks; more signals would catch them.",
}


def write_reports(evaluation: Evaluation, out: Path, costs: Sequence[ThiefCost] = ()) -> None:
    """Writes ``report.html``, ``report.md`` and the picture that the latter shows to the folder ``out``. ``costs``: of
    thieves that a suite compares with the same attack unwatched."""
    out.mkdir(parents=True, exist_ok=True)
    svg = picture(evaluation.attacks)
    (out / HTML).write_text(html(evaluation, svg, costs), "utf-8")
    (out / MARKDOWN).write_text(markdown(evaluation, svg != "", costs), "utf-8")
    if svg:
        (out / PICTURE).write_text(svg + "\n", "utf-8")
    else:
        (out / PICTURE).unlink(missing_ok=True)


def html(evaluation: Evaluation, svg: str, costs: Sequence[ThiefCost] = ()) -> str:
    """Returns the whole page; ``svg`` is its picture, or empty."""
    return render(
        "evaluation.html",
        heading=headline(evaluation),
        answer=answer(evaluation),
        picture=svg,
        caption=_CAPTION,
        attacks=_attack_table(evaluation),
        outcomes=["caught" if result.caught else "missed" for result in evaluation.attacks],
        note=_NOTE,
        costs=cost_tables(costs) if costs else (),
        cost_note=_COST_NOTE,
        honest=_honest_table(evaluation),
    )


def markdown(evaluation: Evaluation, with_picture: bool, costs: Sequence[ThiefCost] = ()) -> str:
    """Returns the same in Markdown; ``with_picture`` shows the picture next to the file."""
    figure = [f"![Fidelity over queries]({PICTURE})", _CAPTION] if with_picture else []
    blocks = [
        f"# {headline(evaluation)}",
        *(_without_markup(paragraph) for paragraph in answer(evaluation)),
        *figure,
        "## Attacks",
        _markdown_table(_attack_table(evaluation)),
        _NOTE,
        *(["## Cost of staying unseen", *map(_markdown_table, cost_tables(costs)), _COST_NOTE] if costs else []),
        "## Honest accounts",
        _markdown_table(_honest_table(evaluation)),
    ]
    return "\n\n".join(blocks) + "\n"


def headline(evaluation: Evaluation) -> str:
    """Returns one line: how many attack runs are missed."""
    missed = sum(not result.caught for result in evaluation.attacks)
    runs = len(evaluation.attacks)
    if not runs:
        return "No attack was in the logs"
    if not missed:
        return f"All {runs:,} attack runs are caught" if runs > 1 else "The attack is caught"
    return f"{missed} of {count(runs, 'attack run', 'attack runs')} {'is' if missed == 1 else 'are'} missed"


def answer(evaluation: Evaluation) -> list[str]:
    """Returns paragraphs: what is missed and caught, the cost for honest users, the judge, and what is not in it."""
    by_attack = group_by_attack(evaluation.attacks)
    caught = [_caught(name, runs) for name, runs in by_attack.items()]
    paragraphs = [_missed(by_attack), *caught, _honest(evaluation), _judge(evaluation), " ".join(evaluation.gaps)]
    return [paragraph for paragraph in paragraphs if paragraph]


def _missed(by_attack: dict[str, list[AttackResult]]) -> str:
    """Returns a paragraph on the attacks never or not always caught, with the best result of a thief."""
    parts = []
    for name, runs in by_attack.items():
        if missed := [run for run in runs if not run.caught]:
            best = max(missed, key=lambda run: run.agreement_unseen).clone_at_end
            often = "" if len(missed) == len(runs) else f" in {len(missed)} of {len(runs)} runs"
            parts.append(f"{name} ({'no clone' if best is None else percent(best.test)}{often})")
    lead = "Missed, with the share of natural inputs on which the clone came to agree with the model"
    return f"{lead}: {', '.join(parts)}." if parts else ""


def _caught(name: str, runs: Sequence[AttackResult]) -> str:
    caught = [run for run in runs if run.first_verdict is not None]
    if not caught:
        return ""
    latest = max(caught, key=lambda run: run.first_verdict or 0)
    often = "" if len(runs) == 1 else f" in {len(caught)} of {len(runs)} runs, at the latest"
    then, end = latest.clone_at_verdict, latest.clone_at_end
    if end is None:
        clone = "No clone was measured."
    elif then is None:
        clone = f"There was no clone yet; unhindered, it would have reached {percent(end.test)}."
    else:
        clone = (
            f"By then the clone agreed with the model on {percent(then.test)} of natural inputs; let alone, it would "
            f"have reached {percent(end.test)}."
        )
    group = " as a group" if latest.by_group else ""
    return f"{name} is caught{group}{often} at query {latest.first_verdict:,} of {latest.run.sent:,}. {clone}"


def _honest(evaluation: Evaluation) -> str:
    total = evaluation.all_honest
    if total is None:
        return "No honest account was in the logs, so nothing is said about false alarms."
    kinds = ", ".join(
        f"{habit.kind} ({habit.flagged} of {habit.accounts})" for habit in evaluation.honest if habit.flagged
    )
    return (
        f"Of {count(total.accounts, 'honest account', 'honest accounts')}, {total.flagged:,} "
        f"{'was' if total.flagged == 1 else 'were'} flagged (95% interval {percent(total.low)} to "
        f"{percent(total.high)}){f': {kinds}' if kinds else ''}."
        f"{f' In groups: {evaluation.in_groups:,}.' if evaluation.in_groups else ''}"
    )


def _judge(evaluation: Evaluation) -> str:
    refused = f" {count(evaluation.refused, 'row', 'rows')} could not be judged." if evaluation.refused else ""
    alone = len(evaluation.signals) == 1 and any(not run.caught for run in evaluation.attacks)
    note = _ONE_SIGNAL.get(evaluation.signals[0], "") if alone else ""
    return f"Judged by {evaluation.detector}.{note}{refused}"


def _attack_table(evaluation: Evaluation) -> TextTable:
    rows = [
        (
            result.run.attack,
            result.run.victim,
            result.run.wrapper,
            f"{result.accounts:,}",
            f"{result.run.sent:,}",
            _first_verdict(result),
            _both_agreements(result.clone_at_verdict),
            _both_agreements(result.clone_at_end),
            f"{result.sent_per_useful:.3g}",
        )
        for result in evaluation.attacks
    ]
    return TextTable(_ATTACK_HEAD, rows, 1)


def cost_tables(costs: Sequence[ThiefCost]) -> tuple[TextTable, TextTable]:
    """Returns one row for each thief, and one for the cheapest of each victim."""
    return cost_table(costs), cheapest_table(costs)


def cost_table(costs: Sequence[ThiefCost]) -> TextTable:
    """Returns one row for each thief, by victim."""
    rows = []
    for thief_cost in costs:
        result, after = thief_cost.result, thief_cost.found_after
        agreement = result.clone_at_verdict if result.caught else result.clone_at_end
        names = (result.run.victim, result.run.attack, result.run.wrapper, result.run.knows)
        found = "missed" if after is None else f"{after:,}"
        rows.append(
            (
                *names,
                found,
                _both_agreements(agreement),
                *(" / ".join(map(_cost, cells)) for cells in thief_cost.costs.values()),
            )
        )
    return TextTable(_COST_HEAD, rows, 4)


def cheapest_table(costs: Sequence[ThiefCost]) -> TextTable:
    """Returns the cheapest thief of each victim and knowledge, at the levels of _SHOWN."""
    by_victim: dict[tuple[str, str], list[ThiefCost]] = {}
    for thief_cost in costs:
        by_victim.setdefault((thief_cost.result.run.victim, thief_cost.result.run.knows), []).append(thief_cost)
    rows = []
    for victim, knows in sorted(by_victim, key=lambda key: (key[0], KNOWLEDGE.index(key[1]))):
        cells = (_cheapest(by_victim[victim, knows], inputs, level) for inputs, level in _SHOWN)
        rows.append((victim, knows, *cells))
    return TextTable(_CHEAPEST_HEAD, rows, 2)


def _cheapest(costs: Sequence[ThiefCost], inputs: Inputs, level: float) -> str:
    cheapest_cost = cheapest(costs, inputs, level)
    if cheapest_cost is None:
        return "never"
    run, cost = cheapest_cost.result.run, cheapest_cost.costs[inputs][LEVELS.index(level)]
    assert cost.unseen is not None
    name = run.attack if run.wrapper == PLAIN else f"{run.attack}, {run.wrapper}"
    return f"{cost.unseen / cost.unwatched:.1f} ({name})"


def _cost(cost: Cost) -> str:
    if cost.multiplier is None:
        return "never"
    return f"{cost.multiplier:.1f}{' rows' if cost.by_rows else ''}"


def _first_verdict(result: AttackResult) -> str:
    if result.first_verdict is None:
        return "missed"
    return f"{result.first_verdict:,}{' by a group' if result.by_group else ''}"


def _both_agreements(agreement: CloneAgreement | None) -> str:
    return "-" if agreement is None else f"{percent(agreement.test)} / {percent(agreement.uniform)}"


def _honest_table(evaluation: Evaluation) -> TextTable:
    total = evaluation.all_honest
    rows = [
        (
            habit.kind,
            f"{habit.accounts:,}",
            f"{habit.flagged:,}",
            percent(habit.flagged / habit.accounts),
            f"{percent(habit.low)} to {percent(habit.high)}",
        )
        for habit in (*evaluation.honest, *([] if total is None else [total]))
    ]
    return TextTable(_HONEST_HEAD, rows, 1)


def _markdown_table(table: TextTable) -> str:
    rule = ["---", *("--:" for _ in table.head[1:])]
    return "\n".join(f"| {' | '.join(map(_without_markup, row))} |" for row in (table.head, rule, *table.rows))


def _without_markup(text: str) -> str:
    """Returns ``text`` so that names from a log cannot turn into markup."""
    safe = escape(printable(" ".join(text.split())), quote=False)
    for mark in ("\\", "|", "[", "`", "*", "_"):
        safe = safe.replace(mark, f"\\{mark}")
    return safe
