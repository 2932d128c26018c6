"""``make test-deploy``: Prometheus's and Docker's own tools look at our files. Says so where one is not installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "deploy" / "prometheus"

CHECKS: tuple[tuple[str, ...], ...] = (
    ("promtool", "check", "config", str(PROMETHEUS / "prometheus.yml")),
    ("promtool", "test", "rules", str(PROMETHEUS / "rules_test.yml")),
    ("docker", "compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"),
)


def main() -> int:
    """Exit status 1 when a check fails."""
    failed = [command for command in CHECKS if not _passes(command)]
    return 1 if failed else 0


def _passes(command: tuple[str, ...]) -> bool:
    if not _available(command):
        print(f"NOT RUN: {' '.join(command[:3])}, for want of {command[0]}{_plugin(command)}", file=sys.stderr)
        return True
    return subprocess.run(command, check=False).returncode == 0


def _available(command: tuple[str, ...]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return (
        not _plugin(command)
        or subprocess.run([*command[:2], "version"], capture_output=True, check=False).returncode == 0
    )


def _plugin(command: tuple[str, ...]) -> str:
    return " compose" if command[0] == "docker" else ""


if __name__ == "__main__":
    sys.exit(main())
