"""What a thief does so that queries are answered and not seen: one function an evasion, tried over HTTP."""

from __future__ import annotations

import gzip
import json
import random
import socket
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from tests.e2e.lenient_server import MOST_BYTES


@dataclass(slots=True)
class Asked:
    """One request of the thief, before it is sent. ``leave``: hang up once the answer begins."""

    instances: list[list[float | None]]
    path: str = "/predict"
    headers: dict[str, str] = field(default_factory=dict)
    extra: dict[str, object] = field(default_factory=dict)
    encode: Callable[[bytes], bytes] = bytes
    leave: bool = False

    def body(self) -> bytes:
        document = {"instances": self.instances, **self.extra}
        return self.encode(json.dumps(document).encode())


Evasion = Callable[[Asked, random.Random, int], None]
"""Changes the request; gets the thief's dice and how many requests were made before."""


def plain(asked: Asked, dice: random.Random, number: int) -> None:
    """Nothing."""


def not_a_number(asked: Asked, dice: random.Random, number: int) -> None:
    """A NaN in the last feature, which the model hardly uses."""
    asked.instances[0][-1] = float("nan")


def null(asked: Asked, dice: random.Random, number: int) -> None:
    asked.instances[0][-1] = None


def infinity(asked: Asked, dice: random.Random, number: int) -> None:
    asked.instances[0][-1] = dice.choice([float("inf"), float("-inf")])


def out_of_range(asked: Asked, dice: random.Random, number: int) -> None:
    asked.instances[0][-1] = dice.choice([1e39, -1e300])


def wide_first(asked: Asked, dice: random.Random, number: int) -> None:
    """One query of another width, then ordinary ones."""
    if number == 0:
        asked.instances[0].append(0.0)


def wide(asked: Asked, dice: random.Random, number: int) -> None:
    """An extra column, which the server ignores, in each query."""
    asked.instances[0].append(dice.random())


def widths(asked: Asked, dice: random.Random, number: int) -> None:
    """Another number of extra columns each time."""
    asked.instances[0] += [0.0] * dice.randrange(40)


def ragged(asked: Asked, dice: random.Random, number: int) -> None:
    """A short row beside the real one."""
    asked.instances.append([0.5])


def random_key(asked: Asked, dice: random.Random, number: int) -> None:
    """A random API key beside the token that authenticates."""
    asked.headers["X-Api-Key"] = f"{dice.getrandbits(64):x}"


def token_spelling(asked: Asked, dice: random.Random, number: int) -> None:
    """The same token, spelt as the server still accepts it."""
    token = asked.headers["Authorization"].partition(" ")[2]
    asked.headers["Authorization"] = f"{dice.choice(['bearer', 'BEARER', 'Bearer'])}{' ' * dice.randint(1, 4)}{token}"


def versions(asked: Asked, dice: random.Random, number: int) -> None:
    """Another model version in the path each time."""
    asked.path = f"/v1/models/credit/versions/{number}:predict"


def own_version(asked: Asked, dice: random.Random, number: int) -> None:
    """A version that no other account names."""
    asked.path = "/v1/models/credit/versions/mine:predict"


def mounted(asked: Asked, dice: random.Random, number: int) -> None:
    """The same application under a prefix."""
    asked.path = "/mounted/predict"


def spelt(asked: Asked, dice: random.Random, number: int) -> None:
    """The path percent-encoded."""
    asked.path = "/%70redict"


def gzip_body(asked: Asked, dice: random.Random, number: int) -> None:
    asked.headers["Content-Encoding"], asked.encode = "gzip", gzip.compress


def deflate_body(asked: Asked, dice: random.Random, number: int) -> None:
    asked.headers["Content-Encoding"], asked.encode = "deflate", zlib.compress


def gzip_answer(asked: Asked, dice: random.Random, number: int) -> None:
    """The compressing middleware within ours compresses the answer."""
    asked.headers["Accept-Encoding"] = "gzip"


def byte_order_mark(asked: Asked, dice: random.Random, number: int) -> None:
    asked.encode = b"\xef\xbb\xbf".__add__


def padded(asked: Asked, dice: random.Random, number: int) -> None:
    """A body larger than the middleware reads."""
    asked.extra["padding"] = "x" * MOST_BYTES


def streamed(asked: Asked, dice: random.Random, number: int) -> None:
    """The answer in pieces."""
    asked.extra["stream"] = True


def audited(asked: Asked, dice: random.Random, number: int) -> None:
    """A background task that fails follows the answer."""
    asked.extra["audit"] = True


def leaving(asked: Asked, dice: random.Random, number: int) -> None:
    """Hangs up when the answer begins."""
    asked.extra["stream"] = True
    asked.leave = True


EVASIONS: tuple[Evasion, ...] = (
    plain,
    not_a_number,
    null,
    infinity,
    out_of_range,
    wide_first,
    wide,
    widths,
    ragged,
    random_key,
    token_spelling,
    versions,
    own_version,
    mounted,
    spelt,
    gzip_body,
    deflate_body,
    gzip_answer,
    byte_order_mark,
    padded,
    streamed,
    audited,
    leaving,
)


def combined(asked: Asked, dice: random.Random, number: int) -> None:
    """One or two of the evasions, drawn anew for each request."""
    for evasion in dice.sample(EVASIONS, dice.randint(1, 2)):
        evasion(asked, dice, number)


def half_hidden(asked: Asked, dice: random.Random, number: int) -> None:
    """Every other query as it is, the rest so that it cannot be judged."""
    if number % 2:
        dice.choice([wide, padded])(asked, dice, number)


def ask(client: httpx.Client, port: int, asked: Asked) -> int:
    """How many rows were answered; the answer is read, or only its first bytes."""
    body = asked.body()
    if asked.leave:
        return _ask_and_leave(port, asked, body)
    response = client.post(f"http://127.0.0.1:{port}{asked.path}", content=body, headers=asked.headers)
    return len(response.json()["predictions"]) if response.status_code == 200 else 0


def _ask_and_leave(port: int, asked: Asked, body: bytes) -> int:
    head = [f"POST {asked.path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in asked.headers.items()]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        status = int(connection.recv(64).split(b" ")[1])
    return len(asked.instances) if status == 200 else 0
