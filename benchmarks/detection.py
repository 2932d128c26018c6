"""Which attacks of the quick suite are caught, when, and what the thief had by then; in about two minutes of two cores.

Run: python -m benchmarks.detection
"""

from __future__ import annotations

import time
from pathlib import Path

from detector.cli.evaluate import evaluate

OUT = Path("build/evaluation")


def main() -> None:
    started = time.monotonic()
    evaluate(OUT, suite="quick")
    print((OUT / "report.md").read_text())
    print(f"{time.monotonic() - started:.0f} s, logs in {OUT}")


if __name__ == "__main__":
    main()
