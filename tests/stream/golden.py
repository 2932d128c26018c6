"""Writes the golden state log: ``python -m tests.stream.golden``, once for each new format and never for an old one."""

from __future__ import annotations

from pathlib import Path

import msgspec

from detector.contracts.codecs.records import encode
from detector.contracts.findings import Action, Command
from detector.core.pipeline.store import VERSION
from detector.stream.state_log import FORMAT
from tests.stream.world import World, command, queries, source

GOLDEN = Path(__file__).parent.parent / "golden" / f"state-log-v{FORMAT}-engine-{VERSION}.msgpack"
RECORDS = source(queries(1200, seed=1), [20] * 60)
RECORD_BYTES = 6_000
WRITTEN = 45
"""The number of source records in the golden log; the others come after recovery."""

BAN = Command("ban", "add", 1045.0, "eve", "m", "bo", "golden", Action("refuse"), None, 3600.0)


def golden_world() -> World:
    """Two owners, a checkpoint round, a command and a found thief, and records in parts, some not whole."""
    world = World(RECORDS, round_bytes=5_000, record_bytes=RECORD_BYTES)
    world.run(world.take_over(), 30, 3, dies_after="part")
    world.run(world.take_over(), 40, 3, dies_after="record")
    owner = world.take_over()
    world.run(owner, WRITTEN, 3)
    step = owner.command(command(0, encode(BAN), 1045.0))
    world.append_step(step)
    return world


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_bytes(msgspec.msgpack.encode(golden_world().log))
