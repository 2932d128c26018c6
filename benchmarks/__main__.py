"""Runs every benchmark, each in a process of its own, so that none warms or burdens another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Exit status 1 when any of them failed."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    failed = [
        name for name in names if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
    ]
    print(f"{len(names)} benchmarks" + (f", failed: {', '.join(failed)}" if failed else ", none failed"))
    return 1 if failed or not names else 0


if __name__ == "__main__":
    sys.exit(main())
