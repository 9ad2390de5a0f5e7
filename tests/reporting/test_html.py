import base64
import dataclasses
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from calogan.errors import ConfigError, OutputError
from calogan.reporting import html
from calogan.validation.gates import Gate, judge
from calogan.validation.metrics import Estimate
from calogan.validation.observables import Floats
from calogan.validation.report import ValidationReport
from calogan.validation.standard import Curve

HOSTILE = '<script>alert("1")</script>" onload="alert(2)'
VOID = {"meta", "img", "br"}
CELLS: Floats = np.arange(26, dtype=np.float64) - 0.5


class Page(HTMLParser):
    """The elements of a page with their attributes, the text of table rows, and whether all tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "tr" in self._open:
            self.rows[-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report_of(factor: float = 1.0, *, floor: bool = True) -> ValidationReport:
    metrics = {
        "physics/hits_shift": Estimate(0.5, 0.01),
        "physics/worst_layer": Estimate(0.01, 0.1),
        "physics/z_mean_shift": Estimate(0.01, 0.01),
        "physics/auc_high_level": Estimate(math.nan, 0.01),
        "physics/brand_new": Estimate(1.0, 0.1),
    }
    limits = {name: Gate(0.1) for name in ("hits_shift", "worst_layer", "z_mean_shift", "resolution_shift_2_50gev")}
    bump = np.exp(-(((CELLS[:-1] - 12) / 4) ** 2))
    wave = np.sin(CELLS[1:])
    curves = {
        "z": Curve(CELLS, bump, 0.02 * bump, factor * bump, 0.02 * bump),
        "brand_new": Curve(CELLS, wave, 0.1 + 0 * wave, factor * wave, 0.1 + 0 * wave),
    }
    return ValidationReport(
        showers={"reference": 1000, "candidate": 500},
        metrics=metrics,
        floor=metrics if floor else {},
        gates={f"physics/{name}": judge(gate, metrics.get(f"physics/{name}")) for name, gate in limits.items()},
        curves=curves,
        provenance={"git_commit": "abc123", "cpu_isa": "AVX512_VNNI", "inputs_sha256": '{"geant4.h5": "6c94"}'},
    )


BARE = ValidationReport(showers={}, metrics={}, floor={}, gates={}, curves={}, provenance={})
NAMES = ("parametrised", "float32", "bfloat16", "TFLite float16", "TFLite int8", "INC int8", HOSTILE)


@pytest.fixture(scope="module")
def reports() -> dict[str, ValidationReport]:
    return {name: report_of(1 + i / 50) for i, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def text(reports: dict[str, ValidationReport]) -> str:
    shower = np.random.default_rng(0).gamma(0.1, 1e-3, (25, 25, 25)).astype(np.float32)
    return html.render(
        reports,
        reference_name="Geant4 & co",
        pictures={"Geant4": shower, HOSTILE: shower},
        speed={"INC int8": {"core-ms per shower": 0.421, HOSTILE: 1.6}},
    )


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_gate_has_a_symbol_and_a_word(page: Page) -> None:
    (hits,) = (row for row in page.rows if "number of hits" in row and "failed" in row)
    assert hits.count("✗ failed") == len(NAMES)
    for title, words in (
        ("mean energy of the worst layer", "? undecided"),
        ("centre along z, shift", "✓ passed"),
        ("energy resolution, shift, 2-50 GeV", "– not measured"),  # noqa: RUF001 - the symbol
    ):
        assert any(title in row and row.count(words) == len(NAMES) for row in page.rows), title


def test_the_verdict_is_in_words_and_explained(page: Page) -> None:
    plain = re.sub(r"\s+", " ", page.text)
    assert plain.count("1 of 3 gates failed: number of hits, shift; 1 undecided.") == len(NAMES)
    for explanation in ("beyond the limit by more than two", "use more showers", "within the limit", "do not allow"):
        assert explanation in plain
    assert "This version of the report has no definition of this metric." in plain


def test_nothing_is_fetched_from_elsewhere(text: str, page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, name)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "://" not in text


def test_links_of_the_page_lead_somewhere(page: Page) -> None:
    places = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {link["href"].removeprefix("#") for link in page.all("a")} == places


def test_names_are_harmless(page: Page, text: str) -> None:
    assert HOSTILE not in text
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "Geant4 &amp; co" in text
    assert sum(HOSTILE in row for row in page.rows) >= 4  # shown as what they are


def test_figures_are_there_described_and_not_blank(page: Page) -> None:
    images = page.all("img")
    assert len(images) == 2 + 2  # curves, showers
    for image in images:
        kind, _, coded = image["src"].partition(";base64,")
        picture = base64.b64decode(coded, validate=True)
        assert len(image["alt"]) > 20
        if kind == "data:image/png":
            assert imread(io.BytesIO(picture)).std() > 0.05
            continue
        assert kind == "data:image/svg+xml"
        tree = ET.fromstring(picture)  # noqa: S314 - made here
        assert len(list(tree.iter("{http://www.w3.org/2000/svg}use"))) > 100  # markers
        links = {e.get("{http://www.w3.org/1999/xlink}href", "#") for e in tree.iter()}
        assert all(link.startswith("#") for link in links)
    assert "int8 1.08 to 1.08" in images[0]["alt"]


def test_equal_input_gives_equal_bytes() -> None:
    few = {"int8": report_of()}
    assert html.render(few) == html.render(few)


def test_one_candidate_without_floor_pictures_or_speed() -> None:
    page = Page(html.render({"int8": report_of(floor=False)}, title="One <candidate>"))
    assert "One <candidate>" in page.text
    assert "Single showers" not in page.text
    assert "against itself" not in page.text
    assert len({row for row in page.rows if "int8" in row}) == 4  # heads of the four tables


def test_a_report_without_gates_or_curves_can_be_shown() -> None:
    assert "no gate was measured" in Page(html.render({"bare": BARE})).text


def test_curves_of_only_some_candidates_are_drawn() -> None:
    less = replace(report_of(), curves={})
    page = Page(html.render({"none": less, "int8": report_of()}))
    assert len(page.all("img")) == 2


@pytest.mark.parametrize("n", [0, 9])
def test_too_few_and_too_many_reports_are_refused(n: int) -> None:
    with pytest.raises(ConfigError, match="1 to 8"):
        html.render({f"{i}": BARE for i in range(n)})


def test_reports_of_different_references_are_refused() -> None:
    other = replace(report_of(), showers={"reference": 999})
    with pytest.raises(ConfigError, match="a 1000, b 999"):
        html.to_json({"a": report_of(), "b": other})


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    assert html.write_html(path, {"int8": BARE}) == path
    assert path.read_text(encoding="utf-8") == html.render({"int8": BARE})
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="none: no such folder"):
        html.write_html(tmp_path / "none" / "report.html", {"int8": BARE})
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OutputError, match="folder: is a folder; name a file"):
        html.write_html(folder, {"int8": BARE})
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]  # no part is left


def test_all_reports_fit_into_one_json(reports: dict[str, ValidationReport]) -> None:
    content = json.loads(html.to_json(reports, reference_name="Geant4"))
    assert content["reference"] == "Geant4"
    assert list(content["candidates"]) == list(NAMES)
    metrics = content["candidates"]["INC int8"]["metrics"]
    assert metrics["physics/hits_shift"]["value"] == 0.5
    assert metrics["physics/auc_high_level"]["value"] is None


def test_spreads_in_bins_have_a_table_of_their_own() -> None:
    metrics = {
        "physics/spread_x_mean": Estimate(0.2, 0.05),
        "physics/spread_x_mean_2_10gev": Estimate(0.2, 0.05),
        "physics/spread_x_mean_10_25gev": Estimate(0.01, 0.04),
    }
    gates = {"physics/spread_x_mean": judge(Gate(0.07), metrics["physics/spread_x_mean"])}
    report = dataclasses.replace(BARE, metrics=metrics, gates=gates)
    page = Page(html.render({"int8": report, "float32": BARE}))
    assert any(attributes.get("id") == "spreads" for attributes in page.all("section"))
    (row,) = (row for row in page.rows if "1 ± 4" in row)
    assert re.sub(r"\s+", " ", row).strip() == "spread of the centre along x limit 7 20 ± 5 1 ± 4 ✗ failed"
    assert not any(attributes.get("id") == "spreads" for attributes in Page(html.render({"a": BARE})).all("section"))
