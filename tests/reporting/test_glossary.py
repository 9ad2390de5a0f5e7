import dataclasses
import re

import pytest

from calogan.reporting import glossary
from calogan.validation.standard import METRICS


@pytest.mark.parametrize("name", [*METRICS, "physics/spread_x_mean_2_10gev", "physics/shift_core_share_3x3_2_500gev"])
def test_every_metric_of_a_report_is_defined_in_words(name: str) -> None:
    metric = glossary.metric(name)
    assert metric.formula
    assert metric.source
    assert metric.name == name.removeprefix("physics/")
    assert "{" not in metric.title


def test_titles_tell_all_metrics_apart() -> None:
    titles = [glossary.metric(name).title for name in METRICS]
    assert len(set(titles)) == len(titles)


def test_templates_are_filled_in() -> None:
    assert glossary.metric("physics/y_tail_first").title == "first five cells along y, shift"
    assert glossary.metric("resolution_shift_2_50gev").title == "energy resolution, shift, 2-50 GeV"
    assert glossary.metric("spread_x_mean_2_10gev").title == "spread of the centre along x, 2-10 GeV"
    assert glossary.curve("y").title == "Transverse profile along y"
    assert glossary.curve("y").x == "y (cell)"
    assert glossary.curve("z").title == "Longitudinal profile"  # not the template of the other axes


def test_the_title_of_an_unknown_entry_is_its_name() -> None:
    metric, curve = glossary.metric("physics/new_thing"), glossary.curve("new_curve")
    assert (metric.title, metric.formula, metric.scale) == ("new thing", "", 1.0)
    assert (curve.title, curve.views, curve.log_x) == ("New curve", (), None)


def test_fractions_are_shown_times_100() -> None:
    assert glossary.metric("hits_shift").scale == 100
    assert glossary.metric("z_mean_shift").scale == 1
    assert glossary.curve("resolution").scale == 100


def test_the_first_table_names_known_metrics() -> None:
    names = {name.removeprefix("physics/") for name in METRICS}
    assert set(glossary.summary()) <= names


def test_texts_hold_no_address_and_no_unknown_field() -> None:
    entries = [dataclasses.asdict(entry) for entry in glossary.metrics()]
    entries += [dataclasses.asdict(entry) for entry in glossary.curves()]
    for entry in entries:
        text = " ".join(str(value) for value in entry.values())
        assert "http" not in text
        assert set(re.findall(r"\{(\w+)\}", text)) <= {"axis", "end", "low", "high", "quantity"}


def test_a_template_has_a_title_for_all_it_stands_for() -> None:
    by_name = {entry.name: glossary.general_title(entry) for entry in glossary.metrics()}
    assert by_name["sampling_fraction_shift_{low}_{high}gev"] == "sampling fraction, shift, in a bin of Ep"
    assert by_name["{axis}_tail_{end}"] == "first or last five cells along x, y or z, shift"
