"""A victim behind HTTP, attacked by its owner within a budget and a rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self

import httpx
import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.limits import PROBABILITY_SUM_TOLERANCE
from detector.contracts.errors import ConfigurationError, LabError
from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers
from detector.lab.experiment import AttackPlan, check_names, course_of, dataset_of, finished, thief_trace
from detector.lab.fidelity import Yardstick
from detector.lab.mappings import Mapping, PredictionRequest
from detector.lab.query_log import QueryLog
from detector.lab.session import SentQueries
from detector.lab.traffic import TOO_MANY_REQUESTS

Rows = NDArray[np.float32]
Array = NDArray[np.float64]

MEASURER = "weirguard-measure"
"""The account whose queries clones are compared on."""

_LATER = (TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
_RETRIES = 5
_LONGEST_WAIT = 60.0
_DEFAULT_WAIT = 1.0
_TIMEOUT = 30.0


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


class Timing:
    """Real time; tests pass their own."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """At most ``budget`` rows in all, retries included, and ``rate`` rows a second."""

    budget: int
    rate: float


class Endpoint:
    """A victim at ``url``, which gets POST requests as ``mapping`` says; it tells ``classes`` apart.

    Redirects are not followed and proxies not used, so that nothing goes where ``check_allowed`` has not looked. A
    request that is turned away (429) or comes at a bad time (503) is sent again up to five times, when Retry-After
    says, within a minute, and no faster than the rate. ``sent``: rows so far. To be used in a ``with`` block.
    """

    def __init__(
        self, url: str, mapping: Mapping, classes: int, limits: EndpointLimits, timing: Timing | None = None
    ) -> None:
        self._url = url
        self._mapping = mapping
        self.classes = classes
        self._limits = limits
        self._timing = timing or Timing()
        self._started_at = self._free_at = self._timing.now()
        self._http = httpx.Client(timeout=_TIMEOUT, follow_redirects=False, trust_env=False)
        self._kind: OutputKind = "label"
        self.sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def output_kind(self) -> OutputKind:
        """What its answers so far were: labels throughout, rows that add up to 1, or anything else."""
        return self._kind

    def answer(self, features: Rows) -> Answers:
        return Answers(self.probabilities(features))

    def probabilities(self, features: Rows) -> Array:
        """Answers (n, k) to ``features`` (n, d), asked by an account of its own. LabError if it is turned away."""
        step = self._mapping.rows_at_once
        pieces = [
            self.ask(PredictionRequest(features[at : at + step], MEASURER)) for at in range(0, len(features), step)
        ]
        answers = [piece.probabilities for piece in pieces if piece is not None]
        if len(answers) < len(pieces):
            raise LabError(f"{self._url}: turned {MEASURER} away, so that no clone can be compared with it")
        return np.concatenate(answers)

    def ask(self, request: PredictionRequest, at: float = 0.0) -> Answers | None:
        """The answers to the rows of ``request``; None when they were turned away (429) or are too many.

        Sent no sooner than ``at`` seconds after the endpoint was made. Raises LabError when there is no proper answer.
        A model zoo that has no model for the specification says so by a row of zeros or by 422, which becomes one.
        """
        pause = 0.0
        for _ in range(1 + _RETRIES):
            if self.sent + len(request.rows) > self._limits.budget:
                return None
            self._timing.sleep(pause)
            self._wait(len(request.rows), at)
            response = self._post(request)
            if response.status_code not in _LATER:
                break
            pause = _retry_after(response)
        return None if response.status_code == TOO_MANY_REQUESTS else self._read(response, request)

    def _wait(self, rows: int, at: float) -> None:
        start = max(self._free_at, self._started_at + at)
        now = self._timing.now()
        self._timing.sleep(max(0.0, start - now))
        self._free_at = max(start, now) + rows / self._limits.rate

    def _post(self, request: PredictionRequest) -> httpx.Response:
        self.sent += len(request.rows)
        body, headers = self._mapping.body(request), self._mapping.headers(request.account)
        try:
            return self._http.post(self._url, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise LabError(f"{self._url}: {type(error).__name__}: {error}") from error

    def _read(self, response: httpx.Response, request: PredictionRequest) -> Answers:
        if request.specification and response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            return Answers(self._checked(np.zeros((len(request.rows), self.classes))))
        if response.status_code != httpx.codes.OK:
            raise LabError(f"{self._url}: HTTP {response.status_code}: {response.text[:200]}")
        try:
            reply = self._mapping.reply(response.json(), len(request.rows))
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise LabError(f"{self._url}: its answer is not built as the mapping says: {error!r}") from error
        values = self._by_class(reply.values) if reply.values.ndim == 1 else self._checked(reply.values)
        return Answers(values, reply.leaf, reply.asked)

    def _by_class(self, numbers: Array) -> Array:
        """One number a row: a class or, where there are two, the probability of the second."""
        if self._kind == "label" and (np.isin(numbers, np.arange(self.classes))).all():
            return np.eye(self.classes)[numbers.astype(np.int64)]
        return self._checked(np.stack([1 - numbers, numbers], axis=1))

    def _checked(self, answers: Array) -> Array:
        if answers.shape[1] != self.classes:
            raise LabError(f"{self._url}: answers with {answers.shape[1]} numbers a row, not {self.classes}")
        if (answers < 0).any() or (np.abs(answers.sum(axis=1) - 1) > PROBABILITY_SUM_TOLERANCE).any():
            self._kind = "score"
        elif self._kind == "label":
            self._kind = "probabilities"
        return answers


def _retry_after(response: httpx.Response) -> float:
    """Seconds to wait; a date in the header counts as none."""
    try:
        seconds = float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return _DEFAULT_WAIT
    return min(seconds, _LONGEST_WAIT) if seconds >= 0 else _DEFAULT_WAIT


MEASURING_ROWS = 300
"""Natural inputs, and as many uniform ones, that clones are judged by: asked first, by an account of their own."""

_MOST_MEASURING = 4 * MEASURING_ROWS


class CutShort(LabError):
    """The server gave no proper answer, which ended the attack. ``log``: what was answered until then."""

    def __init__(self, why: LabError, log: QueryLog) -> None:
        super().__init__(str(why))
        self.log = log


def conduct_over_http(plan: AttackPlan, mapping: Mapping, progress: Callable[[int], None] | None = None) -> QueryLog:
    """The log of ``plan`` against the URL that is its ``victim``; see ``check_allowed``, which must come before.

    Nothing beyond the budget is sent in the attack, cover and retries included, and nothing sooner than ``pause``
    after the query before. There are no honest accounts, and measuring is not in the log. ``progress`` is told how
    many queries of the attack were answered since. Raises CutShort when the server gives no proper answer, LabError if
    it never gave one.
    """
    check_names(plan)
    dataset = dataset_of(plan.dataset)
    rate = 1 / plan.pause
    with Endpoint(plan.victim, mapping, dataset.classes, EndpointLimits(_MOST_MEASURING, rate)) as measured:
        yardstick = Yardstick.of(measured, dataset, plan.seed, MEASURING_ROWS)
    with Endpoint(plan.victim, mapping, dataset.classes, EndpointLimits(plan.budget, rate)) as endpoint:
        service = OverHttp(endpoint, progress)
        course = course_of(plan, dataset, service, yardstick)
        course.run()
    if service.failure and not course.exchanges:
        raise service.failure
    log = finished(plan, _model(plan.victim), course, [thief_trace(plan.attack, course)])
    if service.failure:
        raise CutShort(service.failure, log)
    return log


def _model(url: str) -> str:
    """``url`` without what may be secret in it."""
    target = httpx.URL(url)
    return f"{target.netloc.decode()}{target.path}"


class OverHttp:
    """One query a request, each at its time; ``progress`` is told of each.

    ``failure``: why it gave no proper answer to the query after the last one that it answered, if that was the reason.
    """

    def __init__(self, endpoint: Endpoint, progress: Callable[[int], None] | None = None) -> None:
        self._endpoint = endpoint
        self._progress = progress
        self.failure: LabError | None = None

    @property
    def output_kind(self) -> OutputKind:
        return self._endpoint.output_kind

    def ask(self, asked: SentQueries) -> Answers:
        answered: list[Answers] = []
        try:
            for request, second in zip(_requests(asked), asked.at.tolist(), strict=True):
                answer = self._endpoint.ask(request, second)
                if answer is None:
                    break
                answered.append(answer)
                if self._progress:
                    self._progress(1)
        except LabError as error:
            self.failure = error
        return Answers.joined(answered) if answered else Answers(np.empty((0, self._endpoint.classes)))

    def said(self, features: Rows, answers: Answers) -> Array:
        return answers.probabilities


def _requests(asked: SentQueries) -> Iterator[PredictionRequest]:
    rows = np.split(asked.features, len(asked.features))
    wanted = [None] * len(rows) if asked.specifications is None else map(_specification, asked.specifications.tolist())
    return map(PredictionRequest, rows, asked.accounts, wanted)


def _specification(numbers: list[float]) -> tuple[float, float]:
    accuracy, latency = numbers
    return accuracy, latency
