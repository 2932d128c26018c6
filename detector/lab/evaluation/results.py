"""The results of judged logs: one line per attack, one line per kind of honest account."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from detector.core.calibration.calibrate import FlaggedRate
from detector.lab.evaluation.judging import JudgedLog
from detector.lab.query_log import Run


@dataclass(frozen=True, slots=True)
class CloneAgreement:
    """Agreement of the clone with the victim, 0 to 1: on natural inputs and on uniform ones."""

    test: float
    uniform: float


@dataclass(frozen=True, slots=True)
class AttackResult:
    """One ``run`` of an attack. ``accounts``: how many the thief used. ``first_verdict``: how many queries were sent
    when the first of them was flagged or joined a group, that query included; None if all were missed. ``by_group``:
    whether none of them was flagged by then, so that only the group was found."""

    run: Run
    accounts: int
    first_verdict: int | None
    by_group: bool = False

    @property
    def caught(self) -> bool:
        return self.first_verdict is not None

    @property
    def clone_at_verdict(self) -> CloneAgreement | None:
        """Linear between checkpoints; None if the thief was missed, or caught before the first checkpoint."""
        return None if self.first_verdict is None else self._agreement_after(self.first_verdict)

    @property
    def clone_at_end(self) -> CloneAgreement | None:
        return self._agreement_after(self.run.sent)

    @property
    def agreement_unseen(self) -> float:
        """The agreement on natural inputs before any verdict; 0 if it was not measured."""
        agreement = self.clone_at_verdict if self.caught else self.clone_at_end
        return 0.0 if agreement is None else agreement.test

    @property
    def sent_per_useful(self) -> float:
        """The queries sent per useful one."""
        return self.run.sent / self.run.useful if self.run.useful else float("inf")

    def _agreement_after(self, queries: int) -> CloneAgreement | None:
        curve = self.run.curve
        if not curve or queries < curve[0].queries:
            return None
        at = [point.queries for point in curve]
        test, uniform = ([getattr(point, name) for point in curve] for name in ("test", "uniform"))
        return CloneAgreement(float(np.interp(queries, at, test)), float(np.interp(queries, at, uniform)))


@dataclass(frozen=True, slots=True)
class HonestResult:
    """Accounts of one kind, how many of them were ever flagged, and the Clopper-Pearson interval of that share."""

    kind: str
    accounts: int
    flagged: int
    low: float
    high: float

    @classmethod
    def of(cls, kind: str, accounts: int, flagged: int) -> HonestResult:
        """Returns the result with the interval ``low`` to ``high`` of the flagged share, at 95 percent confidence."""
        return cls(kind, accounts, flagged, *FlaggedRate(flagged, accounts).interval)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The content of a report. ``detector``: the judge, in words; ``signals``: their names. ``refused``: rows of the
    logs without a verdict. ``attacks``: missed ones first, then by the clone before the verdict. ``gaps``: sentences on
    what is missing. ``in_groups``: honest accounts that were members of groups."""

    detector: str
    signals: tuple[str, ...]
    attacks: tuple[AttackResult, ...]
    honest: tuple[HonestResult, ...]
    refused: int
    gaps: tuple[str, ...] = ()
    in_groups: int = 0

    @property
    def all_honest(self) -> HonestResult | None:
        """The sum of all kinds; None without an honest account."""
        accounts, flagged = (sum(getattr(habit, name) for habit in self.honest) for name in ("accounts", "flagged"))
        return HonestResult.of("all", accounts, flagged) if accounts else None


def evaluation_of(logs: Iterable[JudgedLog], detector: str, signals: tuple[str, ...]) -> Evaluation:
    """Returns the results of ``logs``, each judged separately."""
    logs = list(logs)
    attacks = [_attack_result(log) for log in logs if not log.honest.all()]
    attacks.sort(
        key=lambda result: (
            result.caught,
            -result.agreement_unseen,
            result.run.attack,
            result.run.victim,
            result.run.wrapper,
        )
    )
    refused, in_groups = sum(log.refused for log in logs), len(set().union(*map(_honest_in_groups, logs)))
    return Evaluation(detector, signals, tuple(attacks), honest_results(logs), refused, in_groups=in_groups)


def _honest_in_groups(log: JudgedLog) -> set[tuple[int, str, str]]:
    accounts = np.setdiff1d(log.account[log.grouped], log.account[~log.honest]).tolist()
    return {(log.run.seed, *log.accounts[account]) for account in accounts}


def honest_results(logs: Iterable[JudgedLog]) -> tuple[HonestResult, ...]:
    """Returns one result per kind of accounts without a query of an attack; the kind most often flagged comes first.

    Logs of the same seed have the same honest users: an account of the same name on the same model is counted once.
    """
    flagged: dict[str, dict[tuple[int, str, str], bool]] = {}
    for log in logs:
        for account in np.setdiff1d(log.account, log.account[~log.honest]):
            rows, key = log.account == account, (log.run.seed, *log.accounts[account])
            of_kind = flagged.setdefault(log.kind[rows][0], {})
            of_kind[key] = of_kind.get(key, False) or bool(log.flagged[rows].any())
    results = [HonestResult.of(kind, len(users), sum(users.values())) for kind, users in flagged.items()]
    return tuple(sorted(results, key=lambda habit: (-habit.flagged / habit.accounts, habit.kind)))


def _attack_result(log: JudgedLog) -> AttackResult:
    accounts = np.unique(log.account[~log.honest])
    sent = np.cumsum(~log.honest)
    attack_rows = np.isin(log.account, accounts) & (sent > 0)  # none before the attack
    verdicts = np.flatnonzero((log.flagged | log.grouped) & attack_rows)
    if not len(verdicts):
        return AttackResult(log.run, len(accounts), None)
    by_group = not log.flagged[attack_rows & (sent <= sent[verdicts[0]])].any()
    return AttackResult(log.run, len(accounts), int(sent[verdicts[0]]), bool(by_group))


def group_by_attack(results: Iterable[AttackResult]) -> dict[str, list[AttackResult]]:
    """Returns the runs by the attack's name, attacks and runs in the order given."""
    by_attack: dict[str, list[AttackResult]] = {}
    for result in results:
        by_attack.setdefault(result.run.attack, []).append(result)
    return by_attack


def percent(share: float) -> str:
    """Returns ``share``, 0 to 1, in percent; only 0 and 1 themselves give 0 and 100."""
    rounded = f"{100 * share:.1f}"
    if rounded == "100.0" and share < 1:
        rounded = "99.9"
    if rounded == "0.0" and share > 0:
        rounded = "0.1"
    return f"{rounded.removesuffix('.0')}%"
