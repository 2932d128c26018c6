"""Webhooks: signature, templates, and what each answer means."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from detector.contracts.errors import ConfigurationError, NotificationRefused, ReceiverAway
from detector.notify.letter_rates import LetterRates
from detector.notify.notification import Notification
from detector.notify.receivers import new_receiver
from detector.notify.receivers.base import Receiver, Surroundings
from detector.notify.receivers.webhook import signature
from detector.runtime.receivers import ReceiverSettings
from tests.notify.alerts import NOW, group_notification, notification
from tests.notify.stands import self_signed

DEPLOY = Path(__file__).parents[2] / "deploy" / "notify"
EXAMPLE_KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""That of the specification of Standard Webhooks, with the signature below."""


def letters() -> Notification:
    """The notification of a dead letter without a description."""
    found = LetterRates("x", 60.0, 1).count(0, 0, NOW, {})
    assert found is not None
    return found


class Endpoint(ThreadingHTTPServer):
    """Answers each post with ``status`` and ``headers``, and keeps it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.answer = b"\x1b[2Jsaid\n"
        self.headers: dict[str, str] = {}
        self.posts: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append(({name.lower(): text for name, text in self.headers.items()}, body))
        self.send_response(self.server.status)
        for name, text in self.server.headers.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _webhook(**settings: Any) -> Receiver:
    described = ReceiverSettings.model_validate({"webhook": settings})
    return new_receiver(described, Surroundings("hook", lambda: NOW, "host"))


def _posted(endpoint: Endpoint) -> Any:
    return json.loads(endpoint.posts[-1][1])


def test_the_body_is_the_notification(endpoint: Endpoint) -> None:
    assert _webhook(url=endpoint.url).send(notification("one", revision=2)) == "200 \\x1b[2Jsaid"
    headers, _ = endpoint.posts[0]
    assert headers["webhook-id"] == "one-2"
    assert headers["content-type"] == "application/json"
    assert "webhook-signature" not in headers
    body = _posted(endpoint)
    assert (body["schema"], body["id"], body["revision"]) == ("weirguard.notification/1", "one", 2)
    assert body["record"]["schema"] == "weirguard.alert/1"
    assert body["title"] == "Possible model theft: account-17 of digits, prada score 1"


def test_the_signature_is_that_of_standard_webhooks() -> None:
    key = base64.b64decode(EXAMPLE_KEY.removeprefix("whsec_"))
    signed = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(("text", "key"), [("a plain key", b"a plain key"), ("whsec_YWJj", b"abc")])
def test_posts_are_signed_with_the_time_they_are_sent(
    endpoint: Endpoint, text: str, key: bytes, tmp_path: Path
) -> None:
    held = tmp_path / "key"
    held.write_text(text + "\n", "utf-8")
    _webhook(url=endpoint.url, signing_key_file=held).send(notification("one"))
    headers, body = endpoint.posts[0]
    assert headers["webhook-timestamp"] == str(int(NOW))
    assert headers["webhook-signature"] == signature(key, "one-1", str(int(NOW)), body)


def test_a_password_in_the_url_is_basic_authentication(endpoint: Endpoint) -> None:
    _webhook(url=endpoint.url.replace("://", "://me:a%40b@")).send(notification())
    assert endpoint.posts[0][0]["authorization"] == "Basic bWU6YUBi"
    assert endpoint.posts[0][0]["host"] == f"127.0.0.1:{endpoint.server_port}"


def test_an_answer_that_repeats_a_secret_is_shown_without_it(endpoint: Endpoint, tmp_path: Path) -> None:
    webhook = _webhook(
        url=f"{endpoint.url}/T0-SECRET", token="k-SECRET", template=_template(tmp_path, "[{{ token | tojson }}]")
    )
    endpoint.answer = b"no k-SECRET at /hook/T0-SECRET" + b"." * 9_000
    for endpoint.status in (200, 400, 500):
        try:
            text = webhook.send(notification())
        except (NotificationRefused, ReceiverAway) as error:
            text = str(error)
        assert text.startswith(f"{endpoint.status} no [withheld] at /[withheld]...")
        assert len(text) < 300


def test_https_is_checked_by_the_authorities_that_are_set(tmp_path: Path, endpoint: Endpoint) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    endpoint.socket = context.wrap_socket(endpoint.socket, server_side=True)
    url = endpoint.url.replace("http:", "https:")
    _webhook(url=url, ssl_cafile=certificate).send(notification())
    with pytest.raises(ReceiverAway, match="TLS: CERTIFICATE_VERIFY_FAILED"):
        _webhook(url=url).send(notification())
    assert len(endpoint.posts) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 451])
def test_the_clients_fault_is_for_good(endpoint: Endpoint, status: int) -> None:
    endpoint.status = status
    with pytest.raises(NotificationRefused, match=f"{status} "):
        _webhook(url=endpoint.url).send(notification())


@pytest.mark.parametrize("status", [301, 302, 307, 408, 429, 500, 501, 502, 503, 504])
def test_all_other_answers_may_pass(endpoint: Endpoint, status: int) -> None:
    endpoint.status, endpoint.headers = status, {"Location": "/hook"}
    with pytest.raises(ReceiverAway, match=f"{status} "):
        _webhook(url=endpoint.url).send(notification())
    assert len(endpoint.posts) == 1


@pytest.mark.parametrize(
    ("asked", "seconds"), [("7", 7), ("99999", 300), ("Fri, 31 Dec 1999 23:59:59 GMT", 0), ("-1", 0), ("²", 0)]
)
def test_what_a_receiver_asks_for_is_kept_to_within_reason(endpoint: Endpoint, asked: str, seconds: float) -> None:
    endpoint.status, endpoint.headers = 429, {"Retry-After": asked}
    with pytest.raises(ReceiverAway) as caught:
        _webhook(url=endpoint.url).send(notification())
    assert caught.value.retry_after == seconds


def test_a_server_that_talks_nonsense_is_away() -> None:
    with _talking(b"nonsense\r\n\r\n") as port, pytest.raises(ReceiverAway):
        _webhook(url=f"http://127.0.0.1:{port}").send(notification())


@contextmanager
def _talking(answer: bytes) -> Iterator[int]:
    """A server that reads what comes, says ``answer`` and hangs up."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


# -- templates


def _template(folder: Path, text: str) -> Path:
    path = folder / "body.j2"
    path.write_text(text, "utf-8")
    return path


def test_a_template_makes_the_body(endpoint: Endpoint, tmp_path: Path) -> None:
    text = '{"a": {{ title | tojson }}, "k": {{ token | tojson }}, "o": {{ finding.class_uid }}}'
    _webhook(url=endpoint.url, token="SECRET", template=_template(tmp_path, text)).send(notification(principal='"<'))
    assert _posted(endpoint) == {"a": 'Possible model theft: "< of digits, prada score 1', "k": "SECRET", "o": 2004}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{% if %}", "line 1"),
        ("{}{% if x %}", "line 1"),
        ('{"a": {{ nosuch }} }', "nosuch"),
        ("{{ token }}", "not JSON"),
        ('{"a": {{ record.nosuch.b }} }', "nosuch"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_at_the_start(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        _webhook(url="http://a", token="SECRET", template=_template(tmp_path, text))
    assert "notify.receivers.hook.webhook.template" in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_template_that_fails_for_one_notification_refuses_that_one(endpoint: Endpoint, tmp_path: Path) -> None:
    webhook = _webhook(url=endpoint.url, template=_template(tmp_path, "{{ record.episode + 1 }}"))
    with pytest.raises(NotificationRefused, match="episode"):
        webhook.send(letters())
    webhook.send(notification())


ABOUT = {
    "alert": notification("one", principal="<&>\"'", severity="high"),
    "released": notification("one", revision=2, released_by="alice"),
    "letters": letters(),
    "group": group_notification(size=50),
    "dismissed group": group_notification(dismissed_by="alice", revision=2),
    "group that is over": group_notification(size=0, revision=2),
}


@pytest.mark.parametrize("about", ABOUT)
def test_the_templates_of_slack_and_pagerduty_fit_all_kinds(endpoint: Endpoint, about: str) -> None:
    told = ABOUT[about]
    _webhook(url=endpoint.url, template=DEPLOY / "slack.json.j2").send(told)
    slack = _posted(endpoint)
    assert slack.keys() == {"text", "attachments"}
    assert told.id in slack["attachments"][0]["footer"]
    _webhook(url=endpoint.url, token="r" * 32, template=DEPLOY / "pagerduty.json.j2").send(told)
    event = _posted(endpoint)
    assert event["routing_key"] == "r" * 32
    action = "resolve" if told.resolved else "trigger"
    assert (event["event_action"], event["dedup_key"]) == (action, f"weirguard-{told.id}")
    assert event["payload"].keys() >= {"summary", "source", "severity"}
    assert event["payload"]["severity"] in ("critical", "error", "warning", "info")
    if about == "group":
        assert "accounts: account-0, account-1" in slack["attachments"][0]["text"]
    if about == "alert":
        assert slack["text"] == "Possible model theft: &lt;&amp;&gt;\"' of digits, prada score 1"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"url": "ftp://a/SECRET"}, "hook.webhook.url is not a URL"),
        ({"url": "SECRET"}, "hook.webhook.url is not a URL"),
        ({"url": "http://[SECRET"}, "hook.webhook.url is not a URL"),
        ({"url": "http://a/SECRET\n"}, "hook.webhook.url is not a URL"),
        ({"url": "http://a:SECRET/"}, "hook.webhook.url is not a URL"),
        ({"url": "http://a", "signing_key": "whsec_SECRET!"}, "hook.webhook.signing_key"),
        ({"url": "http://a", "ssl_cafile": "/etc/hostname"}, "ssl_cafile"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_at_the_start(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        _webhook(**settings)
    assert "SECRET" not in str(caught.value)
