"""Starts a worker. The objects that imports create stay, so collecting garbage during the imports only takes time."""

from __future__ import annotations

import gc


def main() -> None:
    """Imports the worker, which enables garbage collection again, and runs it."""
    gc.disable()
    from detector.stream import worker

    worker.main()


if __name__ == "__main__":
    main()
