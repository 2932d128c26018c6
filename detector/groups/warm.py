"""Calls every compiled loop of groups once, so that later calls find it compiled."""

from __future__ import annotations

from detector.core.engine import Engine, EngineConfig
from detector.core.warm import made_up_profiles, made_up_queries
from detector.groups.links import sampled_cells
from detector.groups.queries import selected_queries
from detector.groups.watch import GroupWatch


def warm_groups() -> None:
    """Watches made-up queries, with the types of real traffic."""
    queries = made_up_queries()
    profile, *_ = made_up_profiles(queries)
    watch, sampled = GroupWatch(profile), sampled_cells(profile.reference)
    observation = Engine(EngineConfig(profiles=(profile,))).observe([queries])
    for profiled in observation.profiled:
        watch.observe(selected_queries([profiled], observation, sampled))
