"""A broker that moves to another port behind an address that stays, as one behind a name or a load balancer does."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.brokers.node import HOST, STEADY, KafkaNode


class Relay:
    """The address that stays."""

    def __init__(self, port: int) -> None:
        self.to = port
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._join, args=(self._listener.accept()[0],), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection((HOST, self.to), 2) as broker:
            other = threading.Thread(target=self._copy, args=(broker, client), daemon=True)
            other.start()
            self._copy(client, broker)
            other.join()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


class MovingNode:
    """Apache Kafka whose clients know only the relay's address; ``node`` is its current node. ``steady`` is a listener
    that never moves, for observers.
    """

    def __init__(self, directory: Path, extra: str = "") -> None:
        self.node = KafkaNode(directory, extra=extra, secured=(STEADY,))
        self._relay = Relay(self.node.port)
        self.bootstrap = f"{HOST}:{self._relay.port}"
        self.steady = f"{HOST}:{self.node.ports[STEADY]}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._relay.close()

    def start(self) -> None:
        self.node.start()

    def stop(self) -> None:
        self.node.stop()

    def kill(self) -> None:
        self.node.kill()

    def move(self) -> None:
        """A clean stop; then it is back with all its data on another port."""
        self.node.stop()
        self.node.move()
        self.node.start()
        self._relay.to = self.node.port
