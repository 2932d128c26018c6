"""The answer in sentences: which attacks are caught, when, and what the thief had by then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from detector.lab.evaluation.results import AttackResult, Evaluation, HonestResult

if TYPE_CHECKING:
    from detector.lab.evaluation.suite import SuiteProgress

_ONE_SIGNAL = {
    "prada": "prada is the only signal at work. It looks for a thief who takes small steps from earlier queries, and "
    "sees no other way of asking; more signals are what would catch the rest.",
}


def headline(evaluation: Evaluation) -> str:
    """One line: how many are missed."""
    missed = sum(not result.caught for result in evaluation.attacks)
    runs = len(evaluation.attacks)
    if not runs:
        return "No attack was in the logs"
    if not missed:
        return f"All {runs:,} attack runs are caught" if runs > 1 else "The attack is caught"
    return f"{missed} of {_count(runs, 'attack run')} {'is' if missed == 1 else 'are'} missed"


def answer(evaluation: Evaluation) -> list[str]:
    """Paragraphs of text: what is missed, what is caught, what it costs honest users, who judged, what is not in it."""
    by_attack = group_by_attack(evaluation.attacks)
    paragraphs = [_missed(by_attack), *(_caught(name, runs) for name, runs in by_attack.items()), _honest(evaluation)]
    paragraphs += [_judge(evaluation), " ".join(evaluation.gaps)]
    return [paragraph for paragraph in paragraphs if paragraph]


def gaps(suite: SuiteProgress) -> tuple[str, ...]:
    """Sentences on the plans of ``suite`` of which there is no log."""
    of = f"of {suite.plans:,} plans"
    sentences = {
        f"{suite.left:,} {of} are not carried out yet; without --so-far, the same command goes on.": suite.left,
        f"{suite.failed:,} {of} failed and are tried again the next time; see logs/*.failed.txt.": suite.failed,
        f"{suite.unfit:,} {of} have an attack that cannot handle the victim; see logs/*.unfit.txt.": suite.unfit,
    }
    return tuple(sentence for sentence, number in sentences.items() if number)


def group_by_attack(results: Iterable[AttackResult]) -> dict[str, list[AttackResult]]:
    """Runs by the attack's name, attacks and runs in the order given."""
    by_attack: dict[str, list[AttackResult]] = {}
    for result in results:
        by_attack.setdefault(result.attack, []).append(result)
    return by_attack


def percent(share: float) -> str:
    """``share``, 0 to 1, in percent; never rounded to 0 or 100 from beside them."""
    rounded = f"{100 * share:.1f}"
    if rounded == "100.0" and share < 1:
        rounded = "99.9"
    if rounded == "0.0" and share > 0:
        rounded = "0.1"
    return f"{rounded.removesuffix('.0')}%"


def _missed(by_attack: dict[str, list[AttackResult]]) -> str:
    """Returns a paragraph on the attacks never or not always caught, with the best result of a thief."""
    missed = {name: [run for run in runs if not run.caught] for name, runs in by_attack.items()}
    parts = [_missed_attack(name, runs, len(by_attack[name])) for name, runs in missed.items() if runs]
    lead = "Missed, with the share of natural inputs on which the clone came to agree with the model"
    return f"{lead}: {', '.join(parts)}." if parts else ""


def _missed_attack(name: str, missed: Sequence[AttackResult], runs: int) -> str:
    got = max(missed, key=lambda run: run.got_unseen).got_at_end
    often = "" if len(missed) == runs else f" in {len(missed)} of {runs} runs"
    return f"{name} ({'no clone' if got is None else percent(got.test)}{often})"


def _caught(name: str, runs: Sequence[AttackResult]) -> str:
    caught = [run for run in runs if run.first_verdict is not None]
    if not caught:
        return ""
    latest = max(caught, key=lambda run: run.first_verdict or 0)
    often = "" if len(runs) == 1 else f" in {len(caught)} of {len(runs)} runs, at the latest"
    return f"{name} is caught{often} at query {latest.first_verdict:,} of {latest.sent:,}. {_by_then(latest)}"


def _by_then(run: AttackResult) -> str:
    then, end = run.got_at_verdict, run.got_at_end
    if end is None:
        return "No clone was measured."
    if then is None:
        return f"There was no clone yet; unhindered, it would have reached {percent(end.test)}."
    return (
        f"By then the clone agreed with the model on {percent(then.test)} of natural inputs; let alone, it would have "
        f"reached {percent(end.test)}."
    )


def _honest(evaluation: Evaluation) -> str:
    everybody = evaluation.all_honest
    if everybody is None:
        return "No honest account was in the logs, so nothing is said about false alarms."
    flagged = [each for each in evaluation.honest if each.flagged]
    kinds = ", ".join(f"{each.kind} ({each.flagged} of {each.accounts})" for each in flagged)
    return f"Of {_count(everybody.accounts, 'honest account')}, {_share(everybody)}{f': {kinds}' if kinds else ''}."


def _share(honest: HonestResult) -> str:
    verb = "was" if honest.flagged == 1 else "were"
    return f"{honest.flagged:,} {verb} flagged (95% interval {percent(honest.low)} to {percent(honest.high)})"


def _judge(evaluation: Evaluation) -> str:
    refused = f" {_count(evaluation.refused, 'row')} could not be judged." if evaluation.refused else ""
    alone = ""
    if len(evaluation.signals) == 1 and any(not run.caught for run in evaluation.attacks):
        alone = f" {_ONE_SIGNAL.get(evaluation.signals[0], '')}".rstrip()
    return f"Judged by {evaluation.detector}.{alone}{refused}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
