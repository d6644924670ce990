"""The page in a real browser: what people read, on a desk and on a phone, when all is well and when it is not."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from prometheus_client import CollectorRegistry

from detectors.labels import LabelSet
from service.alerting.contract import AlertStatus
from service.http import HttpServer
from service.settings import HttpSettings
from service.summary import by_state, top_owners
from service.view import STATES, FleetView, Publisher
from tests.fakes.clock import ManualClock
from tests.fakes.view import alert_on, fleet_view, publisher_of, service_status, still_clock

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=window.hacked=1><b>&\"'\u202egnp.exe\u200b"
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 375, "height": 812}
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "Debian's chromium is missing: apt-get install chromium"
    expect.set_options(timeout=20_000)  # a busy machine is slow, not wrong
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield found
        found.close()


class Site:
    """A served page: what it shows comes from `publisher`, and `stop` takes the server away."""

    def __init__(self, browser: Browser, publisher: Publisher, clock: ManualClock, **options: object) -> None:
        self.publisher = publisher
        self.clock = clock
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self._server = HttpServer(HttpSettings(port=0), publisher, CollectorRegistry(), clock)
        self.address = self._server.start()
        self._context = browser.new_context(viewport=DESK, **options)  # type: ignore[arg-type]
        self.page: Page = self._context.new_page()
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self._note("error", str(error)))
        self.page.on("request", lambda request: self.requested.append(request.url))

    def open(self) -> Page:
        self.page.goto(self.address)
        return self.page

    def stop(self) -> None:
        self._server.stop(3)

    def close(self) -> None:
        self._context.close()
        self.stop()

    def _note(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.complaints.append(text)


@pytest.fixture
def sites(browser: Browser) -> Iterator[list[Site]]:
    opened: list[Site] = []
    yield opened
    for site in opened:
        site.close()


@pytest.fixture
def visit(browser: Browser, sites: list[Site]):
    def serve(view: FleetView | None = None, publisher: Publisher | None = None, **options: object) -> Site:
        clock = still_clock()
        shown = publisher or publisher_of(view or fleet_view(), service_status(), clock)
        site = Site(browser, shown, clock, **options)
        sites.append(site)
        return site

    return serve


def text_of(page: Page, selector: str) -> str:
    return page.locator(selector).inner_text()


def dollars(amount: float) -> str:
    return f"${amount:,.0f}" if amount >= 1000 else f"${amount:,.2f}"


def test_the_figures_on_the_page_are_those_of_the_fleet(visit):
    view = fleet_view()
    site = visit(view)
    page = site.open()
    totals = by_state(view)
    expect(page.locator("#waste-rate")).to_have_text(dollars(totals.waste_usd_per_hour.sum()))
    expect(page.locator("#waste-total")).to_have_text(dollars(totals.waste_usd.sum()))
    expect(page.locator("#wasted-gpus")).to_have_text(str(totals.gpus[:6].sum()))
    expect(page.locator("#firing")).to_have_text(str(view.alert_counts[AlertStatus.FIRING]))
    expect(page.locator("#chip")).to_have_text("Live")
    expect(page.locator("#as-of")).to_have_text("As of 2026-11-24 06:00:00 UTC")
    assert page.locator("#states tr").count() == len(STATES)
    unallocated = page.locator("#states tr").first.inner_text()
    assert str(totals.gpus[0]) in unallocated and dollars(totals.waste_usd_per_hour[0]) in unallocated
    assert page.locator("#owners tr").count() == len(top_owners(view, 9)[0])
    assert page.locator("#alerts li").count() == view.alert_counts[AlertStatus.FIRING]
    assert "Do:" in page.evaluate("getComputedStyle(document.querySelector('.do'), '::before').content")
    assert page.locator("#gpus tr").count() == 25
    assert site.complaints == []


def test_only_this_server_is_asked_for_anything(visit):
    site = visit()
    page = site.open()
    expect(page.locator("#gpus tr")).to_have_count(25)
    assert {url for url in site.requested if not url.startswith(site.address)} == set()


def test_a_new_view_shows_up_without_a_reload(visit):
    view = fleet_view()
    site = visit(view)
    page = site.open()
    expect(page.locator("#waste-rate")).to_have_text(dollars(np.nansum(view.waste_usd_per_hour)))
    site.publisher.publish_view(replace(view, waste_usd_per_hour=view.waste_usd_per_hour * 3))
    expect(page.locator("#waste-rate")).to_have_text(dollars(np.nansum(view.waste_usd_per_hour) * 3))


def test_names_are_text_whatever_they_hold(visit):
    labels = [LabelSet(node=HOSTILE, gpu=HOSTILE, pod=HOSTILE, namespace=HOSTILE, team=HOSTILE, model=HOSTILE)]
    view = replace(fleet_view(labels=labels), state=np.array([2], np.int8))
    alert = replace(
        alert_on(view, 0, AlertStatus.FIRING), kind=HOSTILE, severity=HOSTILE, action=HOSTILE, summary=HOSTILE
    )
    site = visit(replace(view, alerts=(alert,), alert_counts={AlertStatus.FIRING: 1}))
    page = site.open()
    expect(page.locator("#gpus tr")).to_have_count(1)
    expect(page.locator("#alerts li")).to_have_count(1)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main b b, #alerts b").count() == 0
    shown = page.locator("body").inner_text()
    assert "<img src=x" in shown
    assert not re.search("[\u202a-\u202e\u200b]", shown)
    assert site.complaints == []


def test_losing_the_server_is_said_loudly_and_finding_it_again_is_not_missed(visit):
    site = visit()
    page = site.open()
    expect(page.locator("#chip")).to_have_text("Live")
    page.route("**/api/**", lambda route: route.abort())
    banner = page.locator("#banner")
    expect(banner).to_contain_text("Disconnected")
    expect(banner).to_contain_text("old")
    expect(banner).to_be_in_viewport()
    expect(page.locator("#chip")).to_have_text("Lost")
    assert banner.get_attribute("role") == "alert"
    page.unroute("**/api/**")
    expect(page.locator("#chip")).to_have_text("Live")
    expect(banner).to_be_hidden()


def test_a_server_that_is_gone_leaves_the_last_figures_with_their_age(visit):
    site = visit()
    page = site.open()
    expect(page.locator("#chip")).to_have_text("Live")
    figure = text_of(page, "#waste-rate")
    site.stop()
    expect(page.locator("#chip")).to_have_text("Lost")
    assert text_of(page, "#waste-rate") == figure
    assert page.locator("main").get_attribute("data-old") == "yes"


def test_old_figures_are_said_loudly(visit):
    site = visit()
    page = site.open()
    expect(page.locator("#chip")).to_have_text("Live")
    site.clock.advance(130)
    expect(page.locator("#banner")).to_contain_text("no tick has closed for 2 min")
    expect(page.locator("#chip")).to_have_text("Old")


def test_a_silent_fleet_is_shown_as_unknown_and_not_as_free_of_waste(visit):
    clock = still_clock()
    site = visit(publisher=publisher_of(fleet_view(40), service_status(silent_after_s=235.0), clock))
    clock.advance(236)
    page = site.open()
    expect(page.locator("#banner")).to_contain_text("every GPU counts as unknown")
    expect(page.locator("#gpus-note")).to_have_text("No GPU is known to be wasted; the figures are old.")
    assert page.locator("main").get_attribute("data-old") == "yes"


def test_an_ended_input_is_called_final_and_not_old(visit):
    clock = still_clock()
    site = visit(publisher=publisher_of(fleet_view(40), service_status(source_ended=True), clock))
    page = site.open()
    expect(page.locator("#banner")).to_contain_text("input has ended")
    assert page.locator("main").get_attribute("data-old") == "no"


def test_before_the_first_tick_the_page_says_so_in_words(visit):
    site = visit(publisher=Publisher(still_clock()))
    page = site.open()
    expect(page.locator("#banner")).to_contain_text("first tick has not closed")
    expect(page.locator("#owners-empty")).to_have_text("No GPU seen yet, so nobody pays.")
    expect(page.locator("#alerts-empty")).to_have_text("Nothing is firing.")
    expect(page.locator("#gpus-note")).to_have_text("No GPU seen yet.")
    expect(page.locator("#waste-rate")).to_have_text("–")
    expect(page.locator("#service")).to_contain_text("Service not ready: starting")
    assert site.complaints == []


def test_a_fleet_without_waste_is_good_news(visit):
    view = fleet_view(64, alerts=())
    active = np.full(64, STATES.index("active"), np.int8)
    page = visit(replace(view, state=active, waste_usd_per_hour=np.zeros(64))).open()
    expect(page.locator("#waste-rate")).to_have_text("$0.00")
    expect(page.locator("#gpus-note")).to_have_text("No GPU is wasted right now.")
    expect(page.locator("#alerts-empty")).to_have_text("Nothing is firing.")


def test_clicking_a_state_or_an_owner_shows_its_gpus(visit):
    page = visit().open()
    page.locator("#states button", has_text="Keep-alive").click()
    expect(page.locator("#state-filter")).to_have_value("keep_alive")
    expect(page.locator("#gpus-note")).to_have_text(re.compile(r"^\d+ GPUs?, the worst \d+ shown"))
    expect(page.locator("#gpus .tag span:last-child").first).to_have_text("Keep-alive")
    assert set(page.locator("#gpus .tag span:last-child").all_inner_texts()) == {"Keep-alive"}
    page.locator("#clear").click()
    expect(page.locator("#gpus tr")).to_have_count(25)
    page.locator("#owners button", has_text="(nobody)").click()
    expect(page.locator("#gpus .tag span:last-child").nth(3)).to_have_text("Unallocated")
    assert set(page.locator("#gpus [data-part=owner]").all_inner_texts()) == {"(nobody)"}


def test_searching_and_showing_more_survive_a_refresh(visit):
    site = visit()
    page = site.open()
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#gpus tr")).to_have_count(50)
    page.get_by_label("Find").fill("jupyter")
    expect(page.locator("#gpus [data-part=pod]").first).to_contain_text("notebooks/jupyter")
    asked = len(site.requested)
    page.wait_for_function("n => performance.getEntriesByType('resource').length > n", arg=asked + 6)
    assert page.get_by_label("Find").input_value() == "jupyter"
    assert all("jupyter" in pod for pod in page.locator("#gpus [data-part=pod]").all_inner_texts())
    page.get_by_label("Find").fill("no such thing")
    expect(page.locator("#gpus-note")).to_have_text("No GPU matches; clear the filters to see all.")


def test_a_hidden_page_does_not_ask(visit):
    site = visit()
    site.page.clock.install()
    page = site.open()
    expect(page.locator("#chip")).to_have_text("Live")
    turn = (
        "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }"
    )
    page.evaluate(turn, arg=True)
    page.wait_for_load_state("networkidle")
    asked = len(site.requested)
    page.clock.fast_forward(60_000)
    page.wait_for_load_state("networkidle")
    assert len(site.requested) == asked
    with page.expect_response("**/api/v1/summary*"):
        page.evaluate(turn, arg=False)
    with page.expect_response("**/api/v1/summary*"):
        page.clock.fast_forward(2_000)


@pytest.mark.parametrize("viewport", [DESK, PHONE, {"width": 768, "height": 1024}])
def test_nothing_is_wider_than_the_screen(visit, viewport):
    long = [LabelSet(node="n" * 250, gpu="0", pod="p" * 250, team="t" * 250, model="m" * 250) for _ in range(3)]
    for view in (fleet_view(), fleet_view(labels=long)):
        page = visit(view).page
        page.set_viewport_size(viewport)
        page.goto(visit(view).address)
        expect(page.locator("#chip")).to_have_text("Live")
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_on_a_phone_every_figure_of_a_gpu_keeps_its_label(visit):
    site = visit()
    site.page.set_viewport_size(PHONE)
    page = site.open()
    expect(page.locator("#gpus tr")).to_have_count(25)
    labels = page.evaluate(
        "[...document.querySelectorAll('#gpus tr:first-child td')].slice(3)"
        ".map(td => getComputedStyle(td, '::before').content)"
    )
    assert labels == [f'"{name}"' for name in ("Activity", "Power", "Memory", "Waste per hour", "Wasted so far")]
    assert page.locator("#gpus").get_by_role("cell").count() == 25 * 8


def test_figures_arrive_without_moving_the_page(visit):
    site = visit()
    page = site.page
    page.add_init_script(
        "window.shift = 0; new PerformanceObserver(list => list.getEntries()"
        ".forEach(e => { window.shift += e.value; })).observe({ type: 'layout-shift', buffered: true });"
    )
    site.open()
    expect(page.locator("#gpus tr")).to_have_count(25)
    with page.expect_response("**/api/v1/summary*"):
        pass
    assert page.evaluate("window.shift") < 0.02


CONTRAST = """() => {
  const channel = v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = node => {
    for (let n = node; n; n = n.parentElement) {
      const colour = parse(getComputedStyle(n).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const weak = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim());
    if (!own || !node.checkVisibility({ visibilityProperty: true })) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.push(`${node.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return weak;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(visit, scheme):
    page = visit(color_scheme=scheme).open()
    expect(page.locator("#gpus tr")).to_have_count(25)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", ground)[0]) < 60) == (scheme == "dark")
    assert page.evaluate(CONTRAST) == []


def test_the_page_can_be_used_from_the_keyboard_and_read_aloud(visit):
    page = visit().open()
    expect(page.locator("#gpus tr")).to_have_count(25)
    for role in ("banner", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1
    assert page.get_by_role("heading", level=1).count() == 1
    unnamed = "[...document.querySelectorAll('section, table')].filter(n => !n.ariaLabel && !n.querySelector('caption')"
    assert page.evaluate(f"{unnamed} && !document.getElementById(n.getAttribute('aria-labelledby'))).length") == 0
    assert "Active" in (page.locator("#share").get_attribute("aria-label") or "")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the worst GPUs"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#state-filter")).to_have_value(STATES[0])


def test_a_refresh_keeps_the_focus_where_it_was(visit):
    page = visit().open()
    button = page.locator("#owners button").nth(2)
    button.focus()
    with page.expect_response("**/api/v1/gpus*"):
        pass
    with page.expect_response("**/api/v1/gpus*"):
        pass
    expect(button).to_be_focused()
