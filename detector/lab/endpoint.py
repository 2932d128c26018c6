"""A victim behind HTTP, attacked by its owner within a budget and a rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Self

import httpx
import numpy as np

from detector.contracts.codecs.limits import PROBABILITY_SUM_TOLERANCE
from detector.contracts.errors import ConfigurationError, LabError
from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers
from detector.lab.experiment import AttackPlan, check_names, dataset_of, finished, session_of, thief_trace
from detector.lab.fidelity import Yardstick
from detector.lab.mappings import Mapping, Specification
from detector.lab.query_log import QueryLog
from detector.lab.session import Array, Rows

MEASURER = "weirguard-measure"
"""The account whose queries clones are compared on."""
MEASURING_ROWS = 300
"""Natural inputs, and as many uniform ones, that clones are judged by: queried first, by an account of their own."""

_MOST_MEASURING = 4 * MEASURING_ROWS
_RETRIED = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
_RETRIES = 5
_LONGEST_WAIT = 60.0
_DEFAULT_WAIT = 1.0
_TIMEOUT = 30.0


class CutShort(LabError):
    """The server gave no proper answer, which ended the attack. ``log``: what was answered until then."""

    def __init__(self, why: LabError, log: QueryLog) -> None:
        super().__init__(str(why))
        self.log = log


def check_allowed(url: str, owned: str | None) -> None:
    """Raises ConfigurationError unless ``url`` is on this machine, or its host is ``owned``, which the user
    confirms."""
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigurationError(f"{url}: is no URL: {error}") from error
    if target.scheme not in ("http", "https") or not target.host:
        raise ConfigurationError(f"{url}: the target must be http://HOST... or https://HOST...")
    if not _is_loopback(target.host) and target.host.lower() != (owned or "").lower():
        raise ConfigurationError(
            f"{url}: {target.host} is not this machine; attack only what is yours, and say so: "
            f"--i-own-this-endpoint {target.host}"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def conduct_over_http(plan: AttackPlan, mapping: Mapping, progress: Callable[[int], None] | None = None) -> QueryLog:
    """Returns the log of ``plan`` against the URL that is its ``victim``. Call ``check_allowed`` first.

    The attack sends at most the budget, cover and retries included, and no query sooner than ``pause`` after the
    previous one. There are no honest accounts, and measuring is not in the log. ``progress`` is called with the number
    of queries of the attack answered since. Raises CutShort when the server gives no proper answer, LabError if it
    never gave one.
    """
    check_names(plan)
    dataset = dataset_of(plan.dataset)
    rate = 1 / plan.pause
    with Endpoint(plan.victim, mapping, dataset.classes, budget=_MOST_MEASURING, rate=rate) as measured:
        yardstick = Yardstick.of(measured, dataset, plan.seed, MEASURING_ROWS)
    with Endpoint(plan.victim, mapping, dataset.classes, budget=plan.budget, rate=rate, progress=progress) as endpoint:
        session = session_of(plan, dataset, endpoint, yardstick)
        session.run()
    if endpoint.failure and not session.rounds:
        raise endpoint.failure
    target = httpx.URL(plan.victim)
    model = f"{target.netloc.decode()}{target.path}"  # without what may be secret in the URL
    log = finished(plan, model, session, [thief_trace(plan.attack, session)], dataset.thief.features)
    if endpoint.failure:
        raise CutShort(endpoint.failure, log)
    return log


class Endpoint:
    """A victim at ``url``, which gets POST requests as ``mapping`` forms them; it tells ``classes`` apart. It is sent
    at most ``budget`` rows in all, retries included, and ``rate`` rows per second. A context manager.

    Redirects are not followed and proxies not used, so nothing is sent to a host that ``check_allowed`` has not
    checked. A request that is refused (429, 503) is sent again up to five times, when Retry-After says, within a
    minute, and no faster than the rate. ``sent``: rows so far. ``progress`` is called with the number of queries
    answered since. ``failure``: why the server gave no proper answer to the query after the last answered one, if that
    was the reason. ``output_kind``: of its answers so far: labels only, rows that add up to 1, or anything else.
    """

    def __init__(
        self,
        url: str,
        mapping: Mapping,
        classes: int,
        *,
        budget: int,
        rate: float,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._url = url
        self._mapping = mapping
        self._classes = classes
        self._budget = budget
        self._rate = rate
        self._progress = progress or (lambda _: None)
        self._started_at = self._free_at = time.monotonic()
        self._http = httpx.Client(timeout=_TIMEOUT, follow_redirects=False, trust_env=False)
        self.output_kind: OutputKind = "label"
        self.sent = 0
        self.failure: LabError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def answer(self, features: Rows, accounts: Sequence[str], at: Array, specifications: Rows | None = None) -> Answers:
        """Sends one request per query, each at its time, and returns the answers; see ``Service``."""
        answers: list[Answers] = []
        wanted = [None] * len(features) if specifications is None else specifications.tolist()
        try:
            for row, account, second, specification in zip(features, accounts, at.tolist(), wanted, strict=True):
                answer = self.send(row[None], account, specification, at=second)
                if answer is None:
                    break
                answers.append(answer)
                self._progress(1)
        except LabError as error:
            self.failure = error
        return Answers.joined(answers) if answers else Answers(np.empty((0, self._classes)))

    def logged(self, features: Rows, answers: Answers) -> Array:
        return answers.probabilities

    def probabilities(self, features: Rows) -> Array:
        """Returns the answers (n, k) to ``features`` (n, d), sent by a separate account. Raises LabError if it is
        refused."""
        step = self._mapping.rows_at_once
        answers = [self.send(features[at : at + step], MEASURER) for at in range(0, len(features), step)]
        answered = [answer.probabilities for answer in answers if answer is not None]
        if len(answered) < len(answers):
            raise LabError(f"{self._url}: turned {MEASURER} away, so that no clone can be compared with it")
        return np.concatenate(answered)

    def send(
        self, rows: Rows, account: str, specification: Specification | None = None, *, at: float = 0.0
    ) -> Answers | None:
        """Returns the answers to ``rows`` (n, d); None when they were refused (429) or exceed the budget.

        They are sent no sooner than ``at`` seconds after the endpoint was made. Raises LabError without a proper
        answer. A model zoo that has no model for the specification answers with a row of zeros, or with 422, which
        becomes one.
        """
        pause = 0.0
        for _ in range(1 + _RETRIES):
            if self.sent + len(rows) > self._budget:
                return None
            time.sleep(pause)
            self._wait(len(rows), at)
            self.sent += len(rows)
            response = self._post(self._mapping.body(rows, account, specification), self._mapping.headers(account))
            if response.status_code not in _RETRIED:
                break
            pause = _retry_after(response)
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            return None
        if specification and response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            return Answers(self._checked(np.zeros((len(rows), self._classes))))
        return self._read(response, len(rows))

    def _wait(self, rows: int, at: float) -> None:
        start = max(self._free_at, self._started_at + at)
        now = time.monotonic()
        time.sleep(max(0.0, start - now))
        self._free_at = max(start, now) + rows / self._rate

    def _post(self, body: object, headers: dict[str, str]) -> httpx.Response:
        try:
            return self._http.post(self._url, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise LabError(f"{self._url}: {type(error).__name__}: {error}") from error

    def _read(self, response: httpx.Response, count: int) -> Answers:
        if response.status_code != httpx.codes.OK:
            raise LabError(f"{self._url}: HTTP {response.status_code}: {response.text[:200]}")
        try:
            reply = self._mapping.reply(response.json(), count)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise LabError(f"{self._url}: its answer is not built as the mapping says: {error!r}") from error
        values = reply.probabilities
        if values.shape[1] == 1:  # a class or, where there are two, the probability of the second
            numbers = values[:, 0]
            if self.output_kind == "label" and np.isin(numbers, np.arange(self._classes)).all():
                return Answers(np.eye(self._classes)[numbers.astype(np.int64)], reply.leaf, reply.missing_feature)
            values = np.stack([1 - numbers, numbers], axis=1)
        return Answers(self._checked(values), reply.leaf, reply.missing_feature)

    def _checked(self, answers: Array) -> Array:
        if answers.shape[1] != self._classes:
            raise LabError(f"{self._url}: answers with {answers.shape[1]} numbers a row, not {self._classes}")
        if (answers < 0).any() or (np.abs(answers.sum(axis=1) - 1) > PROBABILITY_SUM_TOLERANCE).any():
            self.output_kind = "score"
        elif self.output_kind == "label":
            self.output_kind = "probabilities"
        return answers


def _retry_after(response: httpx.Response) -> float:
    """Returns the seconds to wait; a date in the header counts as none."""
    try:
        seconds = float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return _DEFAULT_WAIT
    return min(seconds, _LONGEST_WAIT) if seconds >= 0 else _DEFAULT_WAIT
