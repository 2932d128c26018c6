"""What test_forks runs as servers: a logger and a gate that are made, and perhaps used, before a process forks.

Run: python -m tests.serving.forked HOW, or as an application of uvicorn or gunicorn. The environment names the broker,
the prefix and, with WARM set, asks for a call at import.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from detector.contracts.topics import Topics
from detector.serving import Connection, Gate, QueryLogger
from detector.serving import asgi as weirguard

ROWS = 20

connection = Connection(os.environ["BOOTSTRAP"], Topics(os.environ["PREFIX"]))
logger, gate = QueryLogger(connection), Gate(connection)


def ask(principal: str, rows: int = 1, own: tuple[QueryLogger, Gate] = (logger, gate)) -> None:
    for row in range(rows):
        own[1].check("digits", principal)
        own[0].log(principal, "digits", "1", [float(row), 1.0], [0.5, 0.5])


def work(principal: str, own: tuple[QueryLogger, Gate] = (logger, gate)) -> None:
    """What one process does: its queries, and a word about what it knows in the end."""
    ask(principal, ROWS, own)
    ready = own[1].wait_until_ready(30)
    own[0].close(30)
    logger.close(30)
    counted = own[0].snapshot()
    refused = not own[1].check("digits", "thief").allowed
    words = principal, int(ready), int(refused), int(counted["logged"]), int(counted["sent"])
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def fork() -> None:
    children = []
    for number in range(2):
        child = os.fork()
        if not child:
            work(f"child-{number}")
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def by_multiprocessing(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    given: list[tuple[Any, ...]] = [("child-0",), ("child-1", (logger, gate))]
    children = [context.Process(target=work, args=arguments) for arguments in given]
    for child in children:
        child.start()
    for child in children:
        child.join()


async def predict(request: Request) -> Response:
    weirguard.log(request.scope, [[1.0, 2.0]], [[0.5, 0.5]])
    return PlainTextResponse(str(os.getpid()))


app = weirguard.WeirguardMiddleware(
    Starlette(routes=[Route("/predict", predict, methods=["POST"])]),
    logger=logger,
    gate=gate,
    target=weirguard.route("/predict", "digits", "1"),
)


def wsgi(environment: dict[str, Any], start: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
    if environment["PATH_INFO"] == "/predict":
        ask("anonymous")
    start("200 OK", [("content-type", "text/plain")])
    return [str(os.getpid()).encode()]


if os.environ.get("WARM"):
    ask("warm")


def main() -> None:
    if sys.argv[1] == "os.fork":
        fork()
    else:
        by_multiprocessing(sys.argv[1])
    work("parent")


if __name__ == "__main__":
    main()
