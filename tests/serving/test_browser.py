import hashlib
import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest

from calogan.events import packaged_sample, read_events
from calogan.serving.browser import PAGE
from calogan.validation.observables import AXES, Observables, observe

FILES = sorted(path for path in PAGE.rglob("*") if path.is_file())
NAMESPACES = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml")
# The files of the release 0.180.0 as they were published; in the last, one import names its neighbour instead of "three".
THREE = {
    "three.core.min.js": "61ba0df005b05991361d040d8ff670e1aadfd0ce7aeebd1fdb0725957a8957de",
    "three.module.min.js": "e2b5ee6bccd38fd6d8a2428546b83c5f2426d84b152ef82be8055556e3b40eb6",
    "OrbitControls.js": "b97879c748170baadeb3fb84cea1ffdf4674e283dc06042f34e2acb95a76042c",
}


def test_the_page_needs_no_key_and_allows_nothing_from_elsewhere(url: str) -> None:
    answer = httpx.get(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_its_files_are_served_with_the_same_policy_and_name_no_other_host(url: str, path: Path) -> None:
    answer = httpx.get(f"{url}/page/{path.relative_to(PAGE)}")
    assert answer.content == path.read_bytes()
    assert answer.headers["content-security-policy"] == httpx.get(url).headers["content-security-policy"]
    assert set(re.findall(r"(?:https?|wss?)://[^\s\"'`)>]+", answer.text)) <= set(NAMESPACES)
    kinds = {".js": "javascript", ".css": "css", ".html": "html", ".json": "json", ".svg": "svg"}
    assert kinds.get(path.suffix, "") in answer.headers["content-type"]


def test_it_names_only_files_that_exist_and_has_no_script_or_style_in_itself(url: str) -> None:
    text = httpx.get(url).text
    named = [name for name in re.findall(r'(?:href|src)="([^"#]+)"', text) if name != "docs"]
    assert named
    assert all(httpx.get(f"{url}/{name}").status_code == 200 for name in named)
    assert re.findall(r"<script(?! type=\"module\" src=)|<style|\son\w+=|\sstyle=", text) == []
    for path in PAGE.glob("*.js"):
        for module in re.findall(r'from "(.+?)"', path.read_text(encoding="utf-8")):
            assert (PAGE / module).is_file(), f"{path.name} imports {module}"


@pytest.mark.parametrize("path", ["page/none.js", "page/../api.py", "page/%2e%2e/api.py", "page//etc/passwd", "page/"])
def test_nothing_else_is_served(url: str, path: str) -> None:
    answer = httpx.get(httpx.URL(url).copy_with(raw_path=f"/{path}".encode()))
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found"


def test_the_api_documents_only_the_api(url: str) -> None:
    assert not {path for path in httpx.get(f"{url}/openapi.json").json()["paths"] if path == "/" or "page" in path}


def test_three_js_is_what_was_published() -> None:
    for name, expected in THREE.items():
        text = (PAGE / "three" / name).read_text(encoding="utf-8")
        if name == "OrbitControls.js":
            text = text.replace("} from './three.module.min.js';", "} from 'three';", 1)
        assert hashlib.sha256(text.encode()).hexdigest() == expected, name
    assert "The MIT License" in (PAGE / "three" / "LICENSE").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in FILES) < 1_000_000


@pytest.fixture(scope="module")
def geant4() -> Observables:
    return observe(read_events([packaged_sample()]))


@pytest.mark.parametrize("energy", [120, 260, 360])
def test_the_band_agrees_with_the_packaged_showers(geant4: Observables, energy: int) -> None:
    table = json.loads((PAGE / "geant4.json").read_text(encoding="utf-8"))
    place = table["energy"].index(energy)
    near = np.abs(geant4.energy - energy) < 0.12 * energy
    for i, axis in enumerate(AXES):
        share = geant4.profiles[near, i] / geant4.energy[near, None]
        band = {name: np.array(values[place]) for name, values in table["profiles"][axis].items()}
        error = share.std(axis=0) / np.sqrt(near.sum())
        # Within 12 % of the energy, a layer's mean moves by less than 3 % of the largest share.
        assert np.all(np.abs(band["mean"] - share.mean(axis=0)) < 5 * error + 0.03 * share.mean(axis=0).max())
        inside = ((share >= band["p16"]) & (share <= band["p84"])).mean(axis=0)[6:19]
        assert inside.mean() == pytest.approx(0.68, abs=0.08)
    mean, width = table["observables"]["sampling_fraction"][place]
    fraction = 100 * geant4.sampling_fraction[near]
    assert mean == pytest.approx(fraction.mean(), abs=5 * fraction.std() / np.sqrt(near.sum()))
    assert width == pytest.approx(fraction.std(), rel=0.3)


def test_the_band_covers_the_energies_of_the_packaged_models() -> None:
    table = json.loads((PAGE / "geant4.json").read_text(encoding="utf-8"))
    assert (table["energy"][0], table["energy"][-1]) == (2, 500)
    assert sum(part["showers"] for part in table["origin"]) >= 1000
