"""An attack on a model server, by its owner."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import numpy as np

from detector.contracts.errors import LabError
from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers
from detector.lab.endpoint import Endpoint, Limits
from detector.lab.experiment import Plan, check_names, course_of, dataset_of, finished
from detector.lab.fidelity import Yardstick
from detector.lab.mappings import Mapping, Request
from detector.lab.query_log import QueryLog
from detector.lab.services import Array, Asked, Rows
from detector.lab.traces import thief_trace

MEASURING_ROWS = 300
"""Natural inputs, and as many uniform ones, that clones are judged by: asked first, by an account of their own."""

_MOST_MEASURING = 4 * MEASURING_ROWS


class CutShort(LabError):
    """The server gave no proper answer, which ended the attack. ``log``: what was answered until then."""

    def __init__(self, why: LabError, log: QueryLog) -> None:
        super().__init__(str(why))
        self.log = log


def conduct_over_http(plan: Plan, mapping: Mapping, progress: Callable[[int], None] | None = None) -> QueryLog:
    """The log of ``plan`` against the URL that is its ``victim``; see ``check_allowed``, which must come before.

    Nothing beyond the budget is sent in the attack, cover and retries included, and nothing sooner than ``pause``
    after the query before. There are no honest accounts, and measuring is not in the log. ``progress`` is told how
    many queries of the attack were answered since. Raises CutShort when the server gives no proper answer, LabError if
    it never gave one.
    """
    check_names(plan)
    dataset = dataset_of(plan.dataset)
    rate = 1 / plan.pause
    with Endpoint(plan.victim, mapping, dataset.classes, Limits(_MOST_MEASURING, rate)) as measured:
        yardstick = Yardstick.of(measured, dataset, plan.seed, MEASURING_ROWS)
    with Endpoint(plan.victim, mapping, dataset.classes, Limits(plan.budget, rate)) as endpoint:
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

    def ask(self, asked: Asked) -> Answers:
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


def _requests(asked: Asked) -> Iterator[Request]:
    rows = np.split(asked.features, len(asked.features))
    wanted = [None] * len(rows) if asked.specifications is None else map(_specification, asked.specifications.tolist())
    return map(Request, rows, asked.accounts, wanted)


def _specification(numbers: list[float]) -> tuple[float, float]:
    accuracy, latency = numbers
    return accuracy, latency
