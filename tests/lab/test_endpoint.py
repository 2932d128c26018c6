"""A victim behind HTTP: what is sent where, how fast, how often, and how answers are read."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from detector.contracts.errors import ConfigurationError, LabError
from detector.lab.answers import Answers
from detector.lab.endpoint import MEASURER, Endpoint, check_allowed
from detector.lab.mappings import ACCOUNT_HEADER, KServeV1, Mapping, mapping_of

ROWS = np.array([[0.5, 0.25], [1.0, np.nan], [0.0, 2.0]], np.float32)
AS_JSON = [[0.5, 0.25], [1.0, None], [0.0, 2.0]]
ANSWERS = [[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]

Reply = Callable[[Any], tuple[int, dict[str, str], Any]]


class Clock:
    """Stands in for the module ``time``; time passes only in sleep."""

    def __init__(self) -> None:
        self.time = 1_000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


class Served:
    """A server that answers as ``reply`` says and keeps the requests and their senders."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""


@contextmanager
def served(reply: Reply) -> Iterator[Served]:
    stand = Served(reply)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            stand.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            stand.headers.append(dict(self.headers.items()))
            status, headers, document = stand.reply(stand.bodies[-1])
            body = json.dumps(document).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stand.url = f"http://127.0.0.1:{server.server_port}/predict"
        try:
            yield stand
        finally:
            server.shutdown()
            thread.join()


def said(answers: Answers | None) -> Any:
    """The probabilities; there must have been an answer."""
    assert answers is not None
    return answers.probabilities


def predictions(*answers: Any) -> Reply:
    return lambda _: (200, {}, {"predictions": list(answers)})


@contextmanager
def endpoint(
    reply: Reply, *, mapping: Mapping | None = None, classes: int = 2, budget: int = 1_000, rate: float = 1e9
) -> Iterator[tuple[Endpoint, Served, Clock]]:
    clock = Clock()
    with (
        patch("detector.lab.endpoint.time", clock),
        served(reply) as stand,
        Endpoint(stand.url, mapping or KServeV1(), classes, budget=budget, rate=rate) as made,
    ):
        yield made, stand, clock


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:80/x", "http://127.8.9.1/", "http://[::1]:8000/", "https://LOCALHOST/v1", "http://localhost"],
)
def test_this_machine_may_be_attacked(url: str) -> None:
    check_allowed(url, None)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "http://127.0.0.1.example.org/",
        "http://127.0.0.1@example.org/",
        "http://localhost.example.org/",
        "http://0.0.0.0/",
        "http://10.0.0.1/",
        "http://[fe80::1]/",
    ],
)
def test_no_other_host_may_be_unless_its_owner_names_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="--i-own-this-endpoint"):
        check_allowed(url, None)
    with pytest.raises(ConfigurationError, match="--i-own-this-endpoint"):
        check_allowed(url, "api.example.org")


def test_a_host_that_is_named_may_be_attacked() -> None:
    check_allowed("https://API.example.org:8443/predict", "api.Example.org")


@pytest.mark.parametrize("url", ["ftp://localhost/", "http://", "http://[::1/", "127.0.0.1:80"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        check_allowed(url, None)


def test_kserve_v1() -> None:
    with endpoint(predictions(*ANSWERS)) as (made, stand, _):
        np.testing.assert_array_equal(said(made.send(ROWS, "ann")), ANSWERS)
        assert stand.bodies == [{"instances": AS_JSON}]
        assert stand.headers[0][ACCOUNT_HEADER] == "ann"
        assert (made.output_kind, made.sent) == ("probabilities", 3)


def test_kserve_v2() -> None:
    tensor = {"name": "out", "shape": [3, 2], "datatype": "FP32", "data": [0.75, 0.25, 0.5, 0.5, 0.25, 0.75]}
    with endpoint(lambda _: (200, {}, {"outputs": [tensor]}), mapping=mapping_of("kserve-v2")) as (made, stand, _):
        np.testing.assert_array_equal(said(made.send(ROWS, "ann")), ANSWERS)
        (asked,) = stand.bodies[0]["inputs"]
        assert (asked["shape"], asked["datatype"]) == ([3, 2], "FP32")
        assert asked["data"] == [0.5, 0.25, 1.0, None, 0.0, 2.0]


def test_kserve_v1_requests_a_specification_and_reads_tree_nodes() -> None:
    reply = {"predictions": ANSWERS, "leaf": [3, 0, 4], "asked": [-1, 1, -1]}
    with endpoint(lambda _: (200, {}, reply)) as (made, stand, _):
        answers = made.send(ROWS, "ann", (0.75, 20.0))
        assert stand.bodies == [{"instances": AS_JSON, "parameters": {"accuracy": 0.75, "latency": 20.0}}]
    assert answers is not None and answers.leaf is not None and answers.missing_feature is not None
    assert (answers.leaf.tolist(), answers.missing_feature.tolist()) == ([3, 0, 4], [-1, 1, -1])


def test_kserve_v2_requests_a_specification_and_reads_tree_nodes() -> None:
    tensors = [
        {"name": "out", "shape": [3, 2], "datatype": "FP32", "data": [0.75, 0.25, 0.5, 0.5, 0.25, 0.75]},
        {"name": "asked", "shape": [3], "datatype": "INT64", "data": [-1, 1, -1]},
        {"name": "leaf", "shape": [3], "datatype": "INT64", "data": [3, 0, 4]},
    ]
    with endpoint(lambda _: (200, {}, {"outputs": tensors}), mapping=mapping_of("kserve-v2")) as (made, stand, _):
        answers = made.send(ROWS, "ann", (0.75, 20.0))
        assert stand.bodies[0]["parameters"] == {"accuracy": 0.75, "latency": 20.0}
    assert answers is not None and answers.leaf is not None and answers.missing_feature is not None
    assert (answers.leaf.tolist(), answers.missing_feature.tolist()) == ([3, 0, 4], [-1, 1, -1])


def test_a_template_says_how_features_are_left_out_and_where_specification_and_nodes_stand(tmp_path: Path) -> None:
    written = tmp_path / "mapping.yaml"
    written.write_text(
        "request: {row: $row, want: {accuracy: $accuracy, milliseconds: $latency}}\nleft_out: '?'\n"
        "answer: scores\nleaf: node.id\nasked: node.missing.0"
    )
    reply = {"scores": [0.75, 0.25], "node": {"id": 7, "missing": [1]}}
    with endpoint(lambda _: (200, {}, reply), mapping=mapping_of(str(written))) as (made, stand, _):
        answers = made.send(ROWS[1:2], "ann", (0.75, 20.0))
        made.send(ROWS[:1], "ann")
        assert stand.bodies == [
            {"row": [1.0, "?"], "want": {"accuracy": 0.75, "milliseconds": 20.0}},
            {"row": [0.5, 0.25], "want": {"accuracy": None, "milliseconds": None}},
        ]
    assert answers is not None and answers.leaf is not None and answers.missing_feature is not None
    assert (answers.leaf.tolist(), answers.missing_feature.tolist()) == ([7], [1])


def test_a_specification_that_no_model_meets_is_a_row_of_zeros() -> None:
    with endpoint(lambda _: (422, {}, {"error": "no model"})) as (made, _, _):
        np.testing.assert_array_equal(said(made.send(ROWS, "ann", (0.99, 1.0))), np.zeros((3, 2)))
        assert made.output_kind == "score"
        with pytest.raises(LabError, match="HTTP 422"):
            made.send(ROWS, "ann")


def test_a_template_for_many_rows_and_one_for_a_single_row(tmp_path: Path) -> None:
    many, single = tmp_path / "many.yaml", tmp_path / "single.yaml"
    many.write_text('request: {data: {rows: $rows}, for: $account}\nanswer: "result.0.scores"')
    single.write_text("request: {row: $row}\nanswer: scores\nheaders: {Authorization: Bearer $account}")
    with endpoint(lambda _: (200, {}, {"result": [{"scores": ANSWERS}]}), mapping=mapping_of(str(many))) as parts:
        np.testing.assert_array_equal(said(parts[0].send(ROWS, "ann")), ANSWERS)
        assert parts[1].bodies == [{"data": {"rows": AS_JSON}, "for": "ann"}]
    with endpoint(lambda _: (200, {}, {"scores": ANSWERS[0]}), mapping=mapping_of(str(single))) as parts:
        np.testing.assert_array_equal(parts[0].probabilities(ROWS), [ANSWERS[0]] * 3)
        assert parts[1].bodies == [{"row": row} for row in AS_JSON]
        assert parts[1].headers[0]["Authorization"] == f"Bearer {MEASURER}"


@pytest.mark.parametrize(
    "text", ["request: {rows: 1}\nanswer: a", "answer: a", "[1]", "request: [$rows, $row]\nanswer: a", "request: {"]
)
def test_a_template_that_cannot_work_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"mapping\.yaml"):
        mapping_of(str(tmp_path / "mapping.yaml"))


def test_a_mapping_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match="kserve-v1 or kserve-v2"):
        mapping_of("kserve-v3")


def test_labels_and_the_probability_of_one_class_become_rows() -> None:
    with endpoint(predictions(2, 0, 1), classes=3) as (made, _, _):
        np.testing.assert_array_equal(said(made.send(ROWS, "ann")), np.eye(3)[[2, 0, 1]])
        assert made.output_kind == "label"
    with endpoint(predictions([0.25], [0.5], [1.0])) as (made, stand, _):
        np.testing.assert_array_equal(said(made.send(ROWS, "ann")), [[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]])
        stand.reply = predictions(1.0)
        np.testing.assert_array_equal(said(made.send(ROWS[:1], "ann")), [[0.0, 1.0]])
        assert made.output_kind == "probabilities"


def test_answers_that_are_no_probabilities_are_scores() -> None:
    with endpoint(predictions([-1.0, 3.0])) as (made, stand, _):
        made.send(ROWS[:1], "ann")
        stand.reply = predictions([0.5, 0.5])
        made.send(ROWS[:1], "ann")
        assert made.output_kind == "score"


def test_rows_are_sent_at_the_rate_and_not_before_their_time() -> None:
    with endpoint(predictions([1.0, 0.0]), rate=2.0) as (made, _, clock):
        times = []
        for at in (0.0, 0.1, 5.0, 5.1):
            made.send(ROWS[:1], "ann", at=at)
            times.append(clock.time - 1_000)
    assert times == pytest.approx([0.0, 0.5, 5.0, 5.5])


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_is_tried_again_when_it_says_so_and_counts_in_the_budget(status: int) -> None:
    refusals = [{"Retry-After": "3"}, {}, {"Retry-After": "86400"}, {"Retry-After": "nan"}]

    def reply(_: Any) -> tuple[int, dict[str, str], Any]:
        return (status, refusals.pop(0), {}) if refusals else (200, {}, {"predictions": [[1.0, 0.0]]})

    with endpoint(reply) as (made, _, clock):
        np.testing.assert_array_equal(said(made.send(ROWS[:1], "ann")), [[1.0, 0.0]])
        assert [seconds for seconds in clock.slept if seconds > 0.5] == [3.0, 1.0, 60.0, 1.0]
        assert made.sent == 5


def test_tries_again_keep_to_the_rate() -> None:
    refusals = [{"Retry-After": "0"}, {"Retry-After": "5"}]

    def reply(_: Any) -> tuple[int, dict[str, str], Any]:
        return (503, refusals.pop(0), {}) if refusals else (200, {}, {"predictions": [[1.0, 0.0]]})

    with endpoint(reply, rate=0.5) as (made, stand, clock):
        assert made.send(ROWS[:1], "ann") is not None
        assert (len(stand.bodies), clock.time) == (3, 1_007.0)
        assert made.send(ROWS[:1], "ann") is not None
        assert clock.time == 1_009.0


def test_patience_and_budget_end() -> None:
    with endpoint(lambda _: (429, {}, {})) as (made, stand, _):
        assert made.send(ROWS[:1], "ann") is None
        assert len(stand.bodies) == 6
        with pytest.raises(LabError, match=f"turned {MEASURER} away"):
            made.probabilities(ROWS)
    with endpoint(lambda _: (503, {}, {})) as (made, stand, _):
        with pytest.raises(LabError, match="HTTP 503"):
            made.send(ROWS[:1], "ann")
        assert len(stand.bodies) == 6
    with endpoint(predictions([1.0, 0.0], [1.0, 0.0]), budget=3) as (made, stand, _):
        assert made.send(ROWS[:2], "ann") is not None
        assert made.send(ROWS[:2], "ann") is None
        assert len(stand.bodies) == 1


@pytest.mark.parametrize(
    ("status", "document", "complaint"),
    [
        (500, {}, "HTTP 500"),
        (302, {}, "HTTP 302"),
        (200, {"outputs": []}, "not built as the mapping says"),
        (200, {"predictions": [[0.5, 0.5]] * 2}, "not built as the mapping says"),
        (200, {"predictions": [None]}, "not built as the mapping says"),
        (200, [[0.5, 0.5]], "not built as the mapping says"),
        (200, {"predictions": [[0.5, 0.5]], "leaf": [0.5]}, "not built as the mapping says"),
        (200, {"predictions": [[0.5, 0.5]], "leaf": [1, 2]}, "not built as the mapping says"),
        (200, {"predictions": [[0.2, 0.3, 0.5]]}, "3 numbers a row, not 2"),
    ],
)
def test_what_is_no_answer_is_an_error(status: int, document: Any, complaint: str) -> None:
    elsewhere = {"Location": "http://example.org/"} if status == 302 else {}
    with (
        endpoint(lambda _: (status, elsewhere, document)) as (made, _, _),
        pytest.raises(LabError, match=complaint),
    ):
        made.send(ROWS[:1], "ann")


def test_nobody_there_is_an_error() -> None:
    with (
        Endpoint("http://127.0.0.1:9/", KServeV1(), 2, budget=10, rate=1e9) as made,
        pytest.raises(LabError, match="ConnectError"),
    ):
        made.send(ROWS[:1], "ann")
