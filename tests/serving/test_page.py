"""The page in a real browser, with the packaged model behind it."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from calogan.serving.api import build_api
from calogan.serving.keys import KeyRing
from calogan.validation.observables import ecal, hits, projection

KEY = "key of the tests"
SLOW_KEY = "key of a slow client"
STEADY_KEY = "key of a steady client"
KEYS = f"""
[physicist]
key = "{KEY}"
[slow]
key = "{SLOW_KEY}"
showers_per_s = 0.01
[steady]
key = "{STEADY_KEY}"
showers_per_s = 10
"""
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs the programs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def generators() -> dict[str, Any]:
    from calogan.generation.generator import load  # noqa: PLC0415 - imports TensorFlow

    return {precision: load("lean", precision=precision) for precision in ("int8", "float32")}


@pytest.fixture(scope="module")
def address(generators: dict[str, Any], start: Callable[[Any], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(KEYS, encoding="utf-8")
    keys.chmod(0o600)
    return start(build_api(generators, keys=KeyRing(file=keys)))


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    arguments = ["--headless=new", "--disable-dev-shm-usage", "--window-size=1400,900"]
    arguments += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # WebGL without a graphics card
    for argument in arguments + ["--no-sandbox"] * (os.geteuid() == 0):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER))) as chrome:
        yield chrome


def log(browser: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """What the browser noted since the last call."""
    entries: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


class Page:
    """What a user does with the page and sees of it."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser, self.address = browser, address
        browser.get(address)

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def until(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, 60).until(lambda _: condition())

    def open(self, key: str = KEY) -> "Page":
        self.find("#key").send_keys(key, Keys.ENTER)
        self.until(self.numbers)
        self.idle()
        return self

    def idle(self) -> None:
        self.until(lambda: self.find("#showers").get_attribute("aria-busy") == "false")

    def write(self, field: str, text: str) -> None:
        self.find(field).send_keys(Keys.CONTROL, "a")
        self.find(field).send_keys(text, Keys.ENTER)
        self.idle()

    def choose(self, name: str) -> None:
        self.find(f"input[value={name}] + span").click()
        self.idle()

    def numbers(self) -> dict[str, list[str]]:
        """The rows of the table."""
        rows = self.browser.execute_script(
            "return [...document.querySelectorAll('#numbers tr')].map(row => [...row.cells].map(cell => cell.innerText))"
        )
        return {title: cells for title, *cells in rows}

    def angles(self) -> set[str | None]:
        return {canvas.get_attribute("data-angle") for canvas in self.all("canvas.space")}


@pytest.fixture
def page(browser: webdriver.Chrome, address: str) -> Page:
    """The page as a new tab would show it."""
    browser.get(f"{address}/page/icon.svg")
    browser.execute_script("sessionStorage.clear()")
    for kind in ("browser", "performance"):
        log(browser, kind)
    return Page(browser, address)


def test_a_wrong_key_is_told_and_not_kept(page: Page) -> None:
    page.find("#key").send_keys("a wrong key", Keys.ENTER)
    page.until(lambda: page.find("#error").text)
    assert page.find("#error").text == "The key is wrong for this endpoint; ask its operator."
    assert page.browser.execute_script("return sessionStorage.length") == 0
    assert not page.find("#main").is_displayed()


def test_the_numbers_are_those_of_the_showers(page: Page, generators: dict[str, Any]) -> None:
    page.open()
    page.write("#energy", "120")
    page.write("#n", "3")
    page.write("#seed", "11")
    events = {name: generators[name].sample(np.full(3, 120.0), seed=11) for name in ("float32", "int8")}
    numbers = page.numbers()
    assert numbers[""] == ["Geant4", "float32", "int8"]
    showers = [sample.showers[:1] for sample in events.values()]
    assert [float(each.replace("\u202f", "")) for each in numbers["ECAL (MeV)"][1:]] == pytest.approx(
        [1e3 * ecal(shower)[0] for shower in showers], rel=1e-3
    )
    assert [float(each.replace("\u202f", "")) for each in numbers["hits"][1:]] == pytest.approx(
        [hits(shower).sum() for shower in showers], rel=5e-3
    )
    page.find("#next").click()
    assert page.find("#shown").text == "shower 2 of 3"
    assert page.numbers() != numbers
    page.find("#mean").click()
    means = [float(cell.split(" ±")[0].replace("\u202f", "")) for cell in page.numbers()["ECAL (MeV)"][1:]]
    assert means == pytest.approx([1e3 * ecal(sample.showers).mean() for sample in events.values()], rel=0.02)
    assert "energy=120&n=3&seed=11" in page.browser.current_url
    assert KEY not in page.browser.current_url


def test_the_showers_turn_together_by_mouse_and_by_keys(page: Page) -> None:
    page.open()
    before, picture = page.angles(), page.all("canvas.space")[1].screenshot_as_png
    assert len(page.all("canvas.space")) == 3
    assert len(before) == 1
    ActionChains(page.browser).drag_and_drop_by_offset(page.find("canvas.space"), 80, 10).perform()
    turned = page.angles()
    assert len(turned) == 1
    assert turned != before
    assert page.all("canvas.space")[1].screenshot_as_png != picture
    page.find("canvas.space").send_keys(Keys.ARROW_LEFT, "+")
    assert page.angles() not in (before, turned)
    page.find("canvas.space").send_keys("0")
    assert page.angles() == before


def test_another_precision_or_seed_changes_what_is_seen(page: Page) -> None:
    both = page.open().numbers()
    page.choose("int8")
    alone = page.numbers()
    assert alone[""] == ["Geant4", "int8"]
    assert alone["hits"][1] == both["hits"][2]
    assert len(page.all(".panel")) == 1
    page.choose("float32")
    assert page.numbers()["hits"][1] == both["hits"][1]
    page.find("#new-seed").click()
    page.until(lambda: page.numbers()["hits"][1] != both["hits"][1])


def test_the_cursor_of_a_map_reads_its_cell_in_both_precisions(page: Page, generators: dict[str, Any]) -> None:
    page.open()
    page.choose("xz")
    page.find("canvas.map").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    text = page.find("#readout").text
    assert text.startswith("z 10, x 11: float32 ")
    for precision in ("float32", "int8"):
        shower = generators[precision].sample(np.full(1, 50.0), seed=1).showers
        gev = projection(shower, "xz")[0][11, 10]
        shown, unit = text.split(f"{precision} ")[1].split(" ")[:2]
        assert float(shown) * {"MeV": 1e-3, "keV": 1e-6}[unit] == pytest.approx(gev, rel=5e-3)
    assert page.all("svg .mark")
    page.find("canvas.map").send_keys(Keys.ESCAPE)
    assert page.find("#readout").text == ""


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("#energy", "700", "Energy 700 GeV is outside 2 to 500 GeV, the range of this model."),
        ("#energy", "much", "The energy is a number in GeV, such as 50."),
        ("#n", "101", "This page draws 100 showers at most; the API draws more."),
        ("#seed", "-1", "The seed is a whole number from 0 on."),
    ],
)
def test_an_order_that_cannot_be_met_says_why_and_leaves_the_showers(
    page: Page, field: str, text: str, message: str
) -> None:
    numbers = page.open().numbers()
    page.write(field, text)
    page.until(lambda: page.find("#error").text == message)
    assert page.numbers() == numbers
    page.write(field, "30")
    page.until(lambda: not page.find("#error").is_displayed())


def test_a_busy_endpoint_is_told_with_the_time_to_wait(page: Page) -> None:
    page.find("#key").send_keys(SLOW_KEY, Keys.ENTER)
    page.until(lambda: page.find("#error").text)
    assert page.find("#error").text.startswith("This key may ask for 0.01 showers/s; try again in ")


def test_a_short_wait_is_waited_for(page: Page) -> None:
    # The showers of the first precision must be paid off, 2 s, before the second is drawn.
    numbers = page.open(STEADY_KEY).numbers()
    assert numbers[""] == ["Geant4", "float32", "int8"]
    assert not page.find("#error").is_displayed()


def test_enter_in_a_changed_field_asks_once(page: Page) -> None:
    page.open()
    page.choose("int8")
    log(page.browser, "performance")
    page.write("#energy", "77")
    events = [json.loads(entry["message"])["message"] for entry in log(page.browser, "performance")]
    orders = [event["params"]["request"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [json.loads(order["postData"])["energy"] for order in orders if order["method"] == "POST"] == [77]


def test_a_seed_above_two_to_the_53_stays_exact(page: Page, generators: dict[str, Any]) -> None:
    page.open()
    page.write("#seed", str(2**63 - 1))
    shower = generators["int8"].sample(np.full(1, 50.0), seed=2**63 - 1).showers
    shown = float(page.numbers()["ECAL (MeV)"][2].replace("\u202f", ""))
    assert shown == pytest.approx(1e3 * ecal(shower)[0], rel=1e-3)


def test_it_asks_its_own_server_only_and_breaks_no_rule_of_its_policy(page: Page) -> None:
    page.open()
    page.choose("int8")
    events = [json.loads(entry["message"])["message"] for entry in log(page.browser, "performance")]
    requests = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert {f"{page.address}/v1/models", f"{page.address}/v1/showers"} <= requests
    assert {url for url in requests if not url.startswith((page.address, "data:"))} == set()
    assert log(page.browser, "browser") == []
    assert page.browser.execute_script("return [localStorage.length, document.cookie]") == [0, ""]


def test_it_fits_a_telephone(page: Page) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.open()
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= 390
        assert all(canvas.size["width"] > 300 for canvas in page.all("canvas"))
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_control_is_reached_with_the_tab_key(page: Page, tmp_path: Path) -> None:
    page.open()
    reached = set()
    page.browser.execute_script("document.activeElement.blur()")
    for _ in range(40):
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        reached.add(page.browser.execute_script("const at = document.activeElement; return at.id || at.className"))
    assert {"energy-slider", "energy", "n", "seed", "new-seed", "draw", "mean", "next", "space", "map"} <= reached
    page.find("#forget").click()
    assert page.browser.execute_script("return sessionStorage.length") == 0
    assert page.find("#key").is_displayed()
