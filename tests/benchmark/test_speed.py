import os
from pathlib import Path

import numpy as np
import pytest

from calogan.benchmark import contenders, growth, machine_speed, outputs, speed
from calogan.benchmark.contenders import Contender
from calogan.benchmark.geant4_speed import Geant4Speed
from calogan.benchmark.growth import Growth
from calogan.benchmark.roofline import Point, Roofline, moved
from calogan.benchmark.speed import Measured, Row, Settings
from calogan.benchmark.speed_report import SpeedReport
from calogan.benchmark.stream import Start, energies
from calogan.benchmark.streams import StreamRate
from calogan.errors import GateError, ModelError
from calogan.events import Events, packaged_sample, read_events

SHORT = Settings(rounds=1, slot_s=0.001, batches=(1, 16), geant4_showers=1, growth=1_000, checked=16)


@pytest.fixture(scope="module")
def sample() -> Events:
    return read_events(packaged_sample())


def test_precisions_are_timed_in_turn_and_their_showers_are_checked(tiny_model: Path) -> None:
    seen: list[str] = []
    rows = speed.measure(contenders.of_model(tiny_model, ("int8",)), SHORT, check=seen.extend)
    assert seen == ["tiny float32", "tiny int8"]
    float32, int8 = rows
    assert float32.ratio == float32.network_ratio == 1
    assert int8.ratio is not None
    assert int8.ratio > 0
    assert set(int8.core_ms) == {1, 16}
    assert int8.best_ms == int8.core_ms[16].median > 0
    assert int8.network_mb is not None
    assert int8.network_mb < int8.files_mb
    assert int8.network_mb < float32.network_mb  # type: ignore[operator]
    assert int8.node_per_s.median > 0


class FakeStream:
    """Answers with given showers."""

    def __init__(self, contender: Contender, showers: np.ndarray, *, stable: bool = True) -> None:
        self.contender, self.showers, self.stable = contender, showers, stable

    def ask(self, what: str, *, showers: int, batch: int, sparse: bool = False) -> object:
        drawn = self.showers[:showers]
        if what == "sample":
            return Events(drawn, energies(len(drawn)))
        return "same" if self.stable else f"{batch} {sparse}"


def like_geant4(sample: Events, showers: int = 64) -> np.ndarray:
    """Geant4 showers, scaled to the energies of a benchmark."""
    factor = energies(showers) / sample.energy[:showers]
    return np.asarray(sample.showers[:showers] * factor[:, None, None, None], np.float32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda showers: showers * np.float32(np.nan), "cells that are not finite"),
        (lambda showers: -showers, "cells with negative energies"),
        (lambda showers: showers[:, ::-1, :, ::-1].copy(), "of its energy in other cells than float32"),
        (lambda showers: showers * np.float32(1.2), "deposits 1.2. times the energy of Geant4"),
    ],
)
def test_wrong_showers_are_an_error(sample: Events, damage: object, message: str) -> None:
    right = like_geant4(sample)
    streams = {
        name: FakeStream(Contender(f"m {name}", "model", Path(), name), showers)
        for name, showers in (("float32", right), ("int8", damage(right)))  # type: ignore[operator]
    }
    outputs.check({"float32": streams["float32"]}, sample, showers=64)  # type: ignore[dict-item]
    with pytest.raises(GateError, match=f"int8 .*{message}"):
        outputs.check(streams, sample, showers=64)  # type: ignore[arg-type]


def test_showers_that_depend_on_the_call_are_an_error(sample: Events) -> None:
    unstable = FakeStream(Contender("m int8", "model", Path(), "int8"), like_geant4(sample), stable=False)
    with pytest.raises(GateError, match="int8 gives other showers in smaller calls"):
        outputs.check({"int8": unstable}, sample, showers=64)  # type: ignore[dict-item]


def test_growth_is_in_proportion(sample: Events) -> None:
    (one,) = growth.measure(Contender("parametric", "parametric"), 1_000)
    assert one.showers == 1_000
    assert one.ms_per_shower > 0
    grown = [Growth(1_000, 1.04, 500.0), Growth(10_000, 0.99, 505.0), Growth(100_000, 1.0, 510.0)]
    assert growth.nonlinearity(grown) == pytest.approx(0.04)
    assert growth.memory_growth(grown) == pytest.approx(0.02)


def test_the_numbers_a_network_moves_are_counted_by_hand() -> None:
    import keras  # noqa: PLC0415

    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(3, 3, padding="same", use_bias=False)(inputs)
    network = keras.Model(inputs, keras.layers.Dense(5, use_bias=False)(keras.layers.Flatten()(x)))
    weights = 3 * 3 * 2 * 3 + 48 * 5
    assert moved(network, 10) == 32 + 48 + 48 + 5 + weights / 10


def result(**changed: object) -> SpeedReport:
    contender = Contender("lean int8", "model", Path(), "int8")
    row = Row(
        contender=contender,
        core_ms={1: Measured(2.0, 0.1), 256: Measured(0.1, 0.01)},
        sparse_ms=Measured(0.08, 0.01),
        network_ms=Measured(0.05, 0.01),
        ratio=1.5,
        network_ratio=3.0,
        node_per_s=Measured(18_000.0, 100.0),
        start=Start(3.0, 900.0, 100.0),
        files_mb=0.8,
        network_mb=0.4,
    )
    rates = [
        StreamRate("lean int8", 1, 1, 256, Measured(10_000.0, 10.0)),
        StreamRate("lean int8", 1, 2, 256, Measured(15_000.0, 10.0)),
        StreamRate("lean int8", 2, 1, 256, Measured(18_000.0, 10.0)),
    ]
    values: dict[str, object] = {
        "model": "calogan-lean",
        "rows": [row],
        "geant4": Geant4Speed(cpu_s=2.5, node_per_s=0.7, latency_s=1.5, showers=3),
        "rates": rates,
        "best": rates[2],
        "growth": [Growth(1_000, 0.1, 900.0), Growth(10_000, 0.11, 909.0)],
        "roofline": Roofline({"int8": 1e11}, 1e10, {"lean int8": Point(100.0, 5e10, 0.5)}),
        "settings": SHORT,
        "header": {"cpu_model": "EPYC", "cpu_isa": "AVX512_VNNI", "cores": "2"},
    }
    return SpeedReport(**(values | changed))  # type: ignore[arg-type]


def test_speed_over_geant4_is_that_of_one_of_its_cores() -> None:
    lean, geant4 = result().table()
    assert lean["per_s_core"] == pytest.approx(10_000)
    assert lean["over_geant4_core"] == pytest.approx(25_000)
    assert lean["over_geant4_node"] == pytest.approx(45_000)
    assert (lean["peak_share"], lean["ratio"], lean["added_mb"]) == (0.5, 1.5, 100.0)
    assert geant4["core_ms_1"] == 2500
    assert geant4["over_geant4_node"] == pytest.approx(1.75)
    alone = result(geant4=None, roofline=None).table()
    assert [line["name"] for line in alone] == ["lean int8"]
    assert {"over_geant4_core", "peak_share"}.isdisjoint(alone[0])


def test_the_setting_has_the_best_for_all_streams_and_for_one() -> None:
    setting = machine_speed.setting(result())
    assert setting is not None
    assert (setting.streams, setting.threads, setting.batch, setting.threads_alone) == (2, 1, 256, 2)
    assert setting.cores == len(os.sched_getaffinity(0))
    assert machine_speed.setting(result(best=None, rates=[])) is None


def test_a_precision_that_the_model_lacks_is_an_error(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="int4"):
        machine_speed.measure(tiny_model, ("int4",), SHORT, beside=())


@pytest.mark.slow
def test_a_whole_benchmark_has_every_part(tiny_model: Path) -> None:
    lines: list[str] = []
    report = machine_speed.measure(tiny_model, ("int8",), SHORT, beside=("parametric", "conv3d"), progress=lines.append)
    assert [row.contender.name for row in report.rows] == [
        "tiny float32",
        "tiny int8",
        "parametrised",
        "conv3d float32",
    ]
    assert report.best is not None
    assert report.roofline is not None
    assert len(report.growth) == 1
    assert len(lines) <= machine_speed.steps(tiny_model, ("int8",), SHORT, beside=("parametric", "conv3d"))
