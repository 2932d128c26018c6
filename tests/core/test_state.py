"""What an engine logs and dumps is all another needs; checkpoints may be mixed with deltas as a rolling log does."""

from __future__ import annotations

import numpy as np
import pytest

from detector.contracts.errors import NewerStateLog, StateLogError
from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig, Limits, PradaConfig, PrincipalKey
from detector.core.state.arrays import Array, pack, unpack
from tests.core.profiles import profile
from tests.core.streams import KINDS, batch, linear_outputs, observe, random, rows_between

PROFILE = profile(random(np.random.default_rng(99), 60, 6), threshold=6.0)
CONFIGURATIONS = [
    EngineConfig(limits=Limits(history_queries=60)),
    EngineConfig(limits=Limits(principals=6)),
    EngineConfig(mode="compatible", prada=PradaConfig(delta=0.95)),
    EngineConfig(profiles=(PROFILE,)),
]


def _stream(seed: int, rows: int = 900) -> list[QueryBatch]:
    generator = np.random.default_rng(seed)
    half = rows // 2
    pieces = []
    for dimension, kind in ((6, "unclipped"), (9, "clustered")):
        features = KINDS[kind](generator, half, dimension)
        who = [f"{kind[0]}{number}" for number in generator.zipf(1.6, half) % 8]
        pieces.append(batch(features, who, outputs=linear_outputs(features, 3), kind="probabilities"))
    return pieces


CUTS = list(range(50, 900, 50))


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_absorbing_every_change_equals_having_seen_every_query(config: EngineConfig) -> None:
    live, recovered = Engine(config), Engine(config)
    for sections in observe(live, _stream(1), CUTS).sections:
        recovered.absorb(sections)
    assert {*live.keys()} == {*recovered.keys()}
    observe(live, _stream(2), CUTS).assert_equals(observe(recovered, _stream(2)))


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_a_recovered_engine_logs_the_same_bytes(config: EngineConfig) -> None:
    """Its own log is as good as the first one's: slots may differ, nothing written does."""
    live, recovered = Engine(config), Engine(config)
    for key in [PrincipalKey("credit", "1", "x")]:
        recovered.load(Engine(config).dump([key]))
    for sections in observe(live, _stream(1), CUTS).sections:
        recovered.absorb(sections)
    assert observe(live, _stream(2), CUTS).sections[0] == observe(recovered, _stream(2), CUTS).sections[0]


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_a_log_cut_before_its_last_round_of_checkpoints_is_enough(config: EngineConfig) -> None:
    """One chunk after each micro-batch; what was dumped before the round is gone."""
    live, recovered = Engine(config), Engine(config)
    observe(live, _stream(1), CUTS)
    waiting = live.keys()
    for start in range(0, 900, 30):
        recovered.absorb(live.observe(rows_between(_stream(3), start, start + 30)).sections)
        due, waiting = waiting[:2], waiting[2:]
        recovered.load(live.dump(due))
    assert not waiting
    assert {*live.keys()} == {*recovered.keys()}
    observe(live, _stream(4), CUTS).assert_equals(observe(recovered, _stream(4)))


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_loading_replaces_a_principal_whole(config: EngineConfig) -> None:
    engine, other = Engine(config), Engine(config)
    observe(engine, _stream(1))
    observe(other, _stream(5))
    other.load(engine.dump(engine.keys()))
    only = [key for key in other.keys() if key not in engine.keys()]
    for key in only:
        other.clear(key.model, key.principal)
    observe(engine, _stream(2)).assert_equals(observe(other, _stream(2)))


def test_clearing_forgets_all_versions_and_the_latch_and_is_in_the_log() -> None:
    engine, follower = Engine(EngineConfig()), Engine(EngineConfig())
    features = KINDS["unclipped"](np.random.default_rng(0), 260, 16)
    pieces = [batch(features, ["thief"] * 260), batch(features[:3], ["thief"] * 3, version="2")]
    seen = observe(engine, pieces)
    assert seen.flagged[-1]
    for sections in (*seen.sections, engine.clear("credit", "thief")):
        follower.absorb(sections)
    for one in (engine, follower):
        assert one.keys() == []
        again = observe(one, pieces)
        assert not again.flagged[0] and again.index[0] == 0
        assert again.findings == seen.findings


def test_clearing_somebody_unknown_changes_nothing() -> None:
    assert Engine(EngineConfig()).clear("credit", "nobody") == {}


def test_a_section_of_a_later_format_is_refused() -> None:
    engine = Engine(EngineConfig())
    sections = observe(engine, _stream(1)).sections[0]
    version, data = sections["prada"]
    with pytest.raises(NewerStateLog, match="prada"):
        Engine(EngineConfig()).absorb({**sections, "prada": (version + 1, data)})


@pytest.mark.parametrize("data", [b"", b"\xc1", pack({"a": 1})[:-1], pack(["\x00array", "<f8", [3], b"12"])])
def test_bytes_that_are_no_section_are_a_state_log_error(data: bytes) -> None:
    with pytest.raises(StateLogError):
        unpack(data)


def test_arrays_of_objects_are_neither_written_nor_read() -> None:
    with pytest.raises(TypeError):
        pack(np.array([object()]))
    with pytest.raises(StateLogError):
        unpack(pack(["\x00array", "|O", [1], b"12345678"]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.uint64, np.bool_])
def test_arrays_come_back_as_they_were(dtype: type) -> None:
    array: Array = np.arange(12).reshape(3, 4).astype(dtype)
    back = unpack(pack({"x": [array, {"y": array[:0]}], "z": [1.5, None, "text", ["a", "b"]]}))
    np.testing.assert_array_equal(back["x"][0], array)
    assert back["x"][0].dtype == dtype and back["x"][1]["y"].shape == (0, 4)
    assert back["z"] == [1.5, None, "text", ["a", "b"]]


def test_the_configuration_hash_changes_with_whatever_changes_a_verdict() -> None:
    configurations = [
        EngineConfig(),
        EngineConfig(mode="compatible"),
        EngineConfig(prada=PradaConfig(delta=0.91)),
        EngineConfig(limits=Limits(history_queries=100)),
        EngineConfig(dimensions={"credit": 3}),
    ]
    hashes = {config.configuration_hash() for config in configurations}
    assert len(hashes) == len(configurations)
    assert EngineConfig().configuration_hash() == EngineConfig().configuration_hash()
