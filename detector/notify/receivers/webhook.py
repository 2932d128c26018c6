"""Webhooks: the notification as JSON, an OCSF finding, or the output of a template; signed if there is a key.

The signature is that of Standard Webhooks (https://www.standardwebhooks.com): ``webhook-id``, ``webhook-timestamp``
and ``webhook-signature``, the HMAC-SHA256 of ``id.timestamp.body`` in base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any

import jinja2

from detector.contracts.errors import ConfigurationError, NotificationRefused
from detector.notify.notification import Notification, example_value, of_alert
from detector.notify.receivers.base import Receiver, Surroundings
from detector.notify.receivers.http import HttpEndpoint
from detector.notify.receivers.ocsf import finding
from detector.runtime.receivers import WebhookSettings
from detector.runtime.sections import secret
from detector.runtime.text import read_text

_ENCODED = "whsec_"
"""Before a key of Standard Webhooks, which is base64."""


class Webhook(Receiver):
    """Posts each notification, by itself."""

    def __init__(self, settings: WebhookSettings, around: Surroundings) -> None:
        key = around.key("webhook")
        self._clock = around.clock
        signing_key = secret(settings, key, "signing_key")
        self._token = secret(settings, key, "token")
        url = secret(settings, key, "url") or ""
        self._endpoint = HttpEndpoint(url, f"{key}.url", settings.ssl_cafile, self._token, signing_key)
        self._signing_key = _signing_key(signing_key, f"{key}.signing_key")
        self._as_finding = settings.body == "ocsf"
        self._template = None
        if settings.template is not None:
            name = f"{key}.template"
            self._template = _compiled(read_text(settings.template, name), f"{name} {settings.template}")
            self._try_template(f"{name} {settings.template}")

    def send(self, notification: Notification) -> str:
        body = self._body(notification)
        timestamp = str(int(self._clock()))
        headers = {"webhook-id": notification.key, "webhook-timestamp": timestamp}
        if self._signing_key is not None:
            headers["webhook-signature"] = signature(self._signing_key, notification.key, timestamp, body)
        return self._endpoint.post(body, headers)

    def _body(self, notification: Notification) -> bytes:
        if self._template is None:
            return json.dumps(finding(notification) if self._as_finding else notification.as_data()).encode()
        try:
            text: str = self._template.render(
                **notification.as_data(), finding=finding(notification), token=self._token
            )
            json.loads(text)
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            # The text may hold the token, and so may the message of a JSON error: neither is shown.
            what = "its text is no JSON" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise NotificationRefused(f"the template: {what}") from None
        return text.encode()

    def _try_template(self, name: str) -> None:
        """Raises ConfigurationError if the template makes no JSON of an example."""
        try:
            self._body(of_alert(example_value(self._clock())))
        except NotificationRefused as error:
            raise ConfigurationError(f"{name}: {error}") from None


def signature(key: bytes, identity: str, timestamp: str, body: bytes) -> str:
    """Returns the header ``webhook-signature``, by Standard Webhooks, version 1."""
    signed = b".".join((identity.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def _signing_key(text: str | None, name: str) -> bytes | None:
    if text is None or not text.startswith(_ENCODED):
        return None if text is None else text.encode()
    try:
        return base64.b64decode(text.removeprefix(_ENCODED), validate=True)
    except binascii.Error:
        raise ConfigurationError(f"{name} begins with {_ENCODED} and the rest is not base64") from None


def _compiled(text: str, name: str) -> Any:
    environment = jinja2.Environment(  # noqa: S701 - JSON, which the filter tojson escapes
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigurationError(f"{name}: line {error.lineno}: {error.message}") from None
