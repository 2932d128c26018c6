"""The package that a prediction service imports.

``QueryLogger`` sends scored queries to the detector, ``Gate`` returns the detector's decisions, the ASGI middleware in
:mod:`detector.serving.asgi` does both. Importing this package loads the standard library alone: Kafka's client, numpy
and msgspec are imported when a logger or a gate starts.
"""

from __future__ import annotations

from detector.serving.connection import Connection
from detector.serving.gate import Gate, Verdict
from detector.serving.identity import ApiKey, Authenticated, Bearer, Header, Identity
from detector.serving.logger import QueryLogger
from detector.serving.metrics import export_metrics
from detector.serving.responder import Responder

__all__ = [
    "ApiKey",
    "Authenticated",
    "Bearer",
    "Connection",
    "Gate",
    "Header",
    "Identity",
    "QueryLogger",
    "Responder",
    "Verdict",
    "export_metrics",
]
