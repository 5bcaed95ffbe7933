"""The page in a real browser, over swarms that do not exist: real records, the real application."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from swarm.monitor.history import Sample
from swarm.types import ServerState
from tests.monitor.browsing import Visit, browsing, needs_browser, visiting
from tests.monitor.serving import Face, face_beside
from tests.monitor.swarms import crowd, household, peer_id, server, view
from tests.pictures import picture_path

pytestmark = [pytest.mark.slow, needs_browser]

RENDERED = "performance.getEntriesByName('rendered')[0]?.startTime ?? 0"
ROWS = "#table tbody tr"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as running:
        yield running


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Face]:
    with face_beside(tmp_path_factory.mktemp("page")) as running:
        yield running


@pytest.fixture
def home(shown: Face, browser: Browser) -> Iterator[Visit]:
    shown.put_up(household())
    with visiting(browser, shown.url) as visit:
        visit.wait(lambda: visit.count(ROWS) == 13)
        yield visit


def test_a_thousand_servers_are_there_within_a_second_and_change_in_place(shown: Face, browser: Browser) -> None:
    records = crowd(1000)
    shown.put_up([view(records)])
    times = []
    for _ in range(3):
        with visiting(browser, "about:blank") as visit:
            # Seconds in which the page's thread had a core: other work on this machine does not count.
            meter = visit.page.context.new_cdp_session(visit.page)
            meter.send("Performance.enable", {"timeDomain": "threadTicks"})
            visit.page.goto(shown.url)
            visit.wait(lambda visit=visit: visit.page.evaluate(RENDERED) > 0)
            measured = {each["name"]: each["value"] for each in meter.send("Performance.getMetrics")["metrics"]}
            times.append((visit.page.evaluate(RENDERED) / 1000, measured["TaskDuration"]))
            assert visit.page.locator(ROWS).count() == visit.page.locator(".lanes .server").count() == 1000
    print("1,000 servers rendered after", ", ".join(f"{wall:.2f} s ({busy:.2f} s busy)" for wall, busy in times))
    assert min(busy for _, busy in times) < 0.8
    assert min(wall for wall, _ in times) < 1.0 or os.getloadavg()[0] > (os.cpu_count() or 1)

    with visiting(browser, shown.url) as visit:
        page = visit.page
        visit.wait(lambda: visit.count(ROWS) == 1000)
        page.evaluate("document.body.dataset.mine = 'not loaded again'")
        page.fill("#search", "kiln")
        kilns = sum("kiln" in record.public_name for record in records)
        visit.wait(lambda: visit.count(ROWS) == kilns)
        page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
        marked = page.locator(f"{ROWS} .name a").nth(5)
        marked.evaluate("node => getSelection().selectAllChildren(node)")
        before = page.evaluate("[scrollY, String(getSelection())]")
        assert before[0] > 0 and before[1].startswith("kiln-")
        changed = [replace(record, load=record.load + 7) for record in records[1:]]
        shown.put_up([view([*changed, server("kiln-new", 70, 80)])])
        row = page.locator(f'{ROWS}[data-peer="{peer_id("kiln-new")}"]')
        took = visit.wait(lambda: row.count() == 1)
        print(f"and changed all of them after {took:.2f} s")
        assert page.evaluate("[scrollY, String(getSelection())]") == before
        assert page.input_value("#search") == "kiln"
        assert page.evaluate("document.body.dataset.mine") == "not loaded again"
        shown_loads = page.locator(f"{ROWS} .load").all_text_contents()
        assert sum(int(load) >= 7 for load in shown_loads) == len(shown_loads) - 1


def test_gap_bottleneck_and_alerts_are_shown_where_they_are(home: Visit) -> None:
    assert home.text("#headline") == "smollm2-135m cannot be used: 4 blocks have no server"
    gap = home.page.locator('[data-model="smollm2-135m"] .bands .gap')
    assert gap.get_attribute("data-start") == "20" and gap.get_attribute("data-end") == "24"
    plot = home.page.locator('[data-model="smollm2-135m"] .plot').bounding_box()
    box = gap.bounding_box()
    assert plot and box and abs((box["x"] - plot["x"]) / plot["width"] - 20 / 30) < 0.01
    assert box["height"] > 100
    assert home.text('[data-model="smollm2-135m"] .signs .gap') == "no server: 20\u201323"
    assert home.text('[data-model="smollm2-135m"] .alerts [data-level="bad"]') == "blocks 20-23 have no server"
    neck = home.page.locator('[data-model="llama-3.1-70b"] .bands .neck')
    assert (neck.get_attribute("data-start"), neck.get_attribute("data-end")) == ("62", "80")
    standings = set(home.page.locator(f"{ROWS} .standing").all_text_contents())
    assert standings == {"serving", "joining", "leaving", "unreachable", "other checkpoint"}


def test_rows_are_searched_filtered_and_sorted(home: Visit) -> None:
    page = home.page
    page.keyboard.press("/")
    page.keyboard.type("cuda llama")
    home.wait(lambda: home.count(ROWS) < 13)
    assert all("CUDA" in text for text in page.locator(f"{ROWS} .device").locator("visible=true").all_text_contents())
    page.keyboard.press("Escape")
    home.wait(lambda: home.count(ROWS) == 13)
    page.click('th[data-column="device"] button')
    devices = page.locator(f"{ROWS} .device > span").all_text_contents()
    assert set(devices) == {"CPU, avx2", "CPU, avx512vnni", "CUDA"} and devices == sorted(devices)
    page.click('#filters [data-standing="joining"]')
    home.wait(lambda: home.count(ROWS) == 1)
    assert home.text(f"{ROWS} .name a") == "zürich-3"
    page.click('#filters [data-standing="joining"]')
    page.click('th[data-column="rate"] button')
    rates = [float(text.replace(",", "")) for text in page.locator(f"{ROWS} .rate").all_text_contents()]
    assert rates == sorted(rates, reverse=True) and len(rates) == 13
    assert page.get_attribute('th[data-column="rate"]', "aria-sort") == "descending"
    page.click('th[data-column="rate"] button')
    rates = [float(text.replace(",", "")) for text in page.locator(f"{ROWS} .rate").all_text_contents()]
    assert rates == sorted(rates)
    page.fill("#search", "nobody is called so")
    home.wait(lambda: home.count("#nobody") == 1)


def test_a_server_has_a_page_of_its_own_by_keyboard_alone(home: Visit, shown: Face) -> None:
    page = home.page
    page.locator(".lanes .server").first.focus()
    page.keyboard.press("ArrowRight")
    name = page.evaluate("document.activeElement.title").split(":")[0]
    page.keyboard.press("Enter")
    home.wait(lambda: home.count("#panel") == 1)
    assert page.locator("#panel dt:text-is('device') + dd").first.inner_text().startswith(("CPU, avx", "CUDA"))
    assert home.text("#panel h2") == name and "#/server/12D3KooW" in page.url
    assert "tokens/s through its blocks" in home.text("#panel")
    page.keyboard.press("Escape")
    home.wait(lambda: home.count("#panel") == 0)
    assert page.evaluate("document.activeElement.title").startswith(name)
    page.click(f"{ROWS}:has-text('lab-8') .blocks")
    home.wait(lambda: home.count("#panel") == 1)
    assert "44\u201361 of 80, then 62\u201379" in home.text("#panel")
    shown.put_up(household()[1:])
    home.wait(lambda: "not in the swarm now" in home.text("#panel"))


def test_a_link_to_a_server_opens_it(shown: Face, browser: Browser) -> None:
    shown.put_up(household())
    with visiting(browser, f"{shown.url}/#/server/{peer_id('copper')}") as visit:
        visit.wait(lambda: visit.count("#panel h2") == 1 and visit.text("#panel h2") == "copper")
    with visiting(browser, f"{shown.url}/#/server/%E0%A4%A") as visit:
        visit.wait(lambda: visit.count(ROWS) == 13)


def test_names_of_strangers_are_text_and_nothing_else(shown: Face, browser: Browser) -> None:
    evil = '<img src=x onerror="document.title=1">'
    model = '"><script>document.title=2</script>'
    kernel = "<b>" + "x" * 20 + "</b>"
    records = [
        server(
            evil, 0, 20, model=model, num_blocks=30, kernel=kernel, version="<i>1</i>", addrs=("javascript:alert(1)",)
        ),
        server("\u05d0\u05d1" * 16, 10, 20, model=model, num_blocks=30, state=ServerState.JOINING),
        server("a&amp;b", 0, 10, model=model, num_blocks=30, checkpoint="<u>"),
    ]
    shown.put_up([view(records)])
    with visiting(browser, f"{shown.url}/#/server/{records[0].peer}") as visit:
        visit.wait(lambda: visit.count(ROWS) == 3 and visit.count("#panel h2") == 1)
        assert visit.text("#panel h2") == evil and visit.text(".card h2") == model
        assert evil in visit.page.locator(f"{ROWS} .name a").all_text_contents()
        assert "a&amp;b" in visit.page.locator(f"{ROWS} .name a").all_text_contents()
        found = visit.page.evaluate(
            "document.querySelectorAll('img, iframe, main b:not([class]), u, body script').length"
        )
        assert found == visit.page.evaluate("document.querySelectorAll('.totals b').length")
        assert visit.page.evaluate("[...document.links].every(link => link.origin === location.origin)")


def test_the_page_fits_a_phone_and_both_schemes(shown: Face, browser: Browser) -> None:
    shown.put_up(household())
    grounds = set()
    for scheme in ("light", "dark"):
        with visiting(browser, shown.url, width=390, height=844, color_scheme=scheme) as visit:
            visit.wait(lambda: visit.count(ROWS) == 13)
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
            grounds.add(visit.page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
            button = visit.page.locator("#theme")
            button.click()
            assert button.inner_text() == "Theme: light"
            button.click()
            visit.page.reload()
            assert visit.page.get_attribute("html", "data-theme") == "dark"
    assert len(grounds) == 2


def test_the_graph_tells_what_the_history_holds(shown: Face, browser: Browser) -> None:
    now = time.time()
    for minute in range(50, 0, -1):
        covered = 30 if minute > 10 else 26
        shown.note([Sample("smollm2-135m", 3, 30, covered, 50.0 if covered == 30 else 0.0)], now=now - 60 * minute)
    shown.put_up(household())
    with visiting(browser, shown.url) as visit:
        graph = '[data-model="smollm2-135m"] .graph'
        visit.wait(lambda: visit.page.locator(f"{graph} .partial").count() > 0)
        assert visit.page.locator(f"{graph} .whole").count() > 0
        assert "0 tokens/s, 26 of 30 blocks" in visit.text(f"{graph} .reading")
        visit.page.locator(f"{graph} svg").focus()
        for _ in range(60):
            visit.page.keyboard.press("ArrowLeft")
        assert "50 tokens/s, 30 of 30 blocks" in visit.text(f"{graph} .reading")
        visit.page.click(f"{graph} button:has-text('7 d')")
        visit.wait(lambda: visit.page.get_attribute(f"{graph} svg", "aria-label").find("last 7 d") > 0)


def test_with_keys_the_browser_asks_for_one_and_then_all_works(tmp_path: Path, browser: Browser) -> None:
    with face_beside(tmp_path, "monitor-secret-key") as guarded:
        guarded.put_up(household())
        credentials = {"username": "anybody", "password": "monitor-secret-key"}
        with visiting(browser, guarded.url, http_credentials=credentials) as visit:
            visit.wait(lambda: visit.count(ROWS) == 13)
            assert "monitor-secret-key" not in visit.page.content()


def test_the_page_says_when_it_hears_nothing_and_comes_back(tmp_path: Path, browser: Browser) -> None:
    with face_beside(tmp_path) as first:
        first.put_up(household())
        context = browser.new_context()
        page = context.new_page()
        page.goto(first.url)
        page.wait_for_selector(ROWS)
    page.wait_for_selector('#live[data-state="lost"]')
    assert page.locator(ROWS).count() == 13
    with face_beside(tmp_path, port=int(first.url.rpartition(":")[2])) as again:
        again.put_up(household()[1:])  # the larger model is gone since
        page.wait_for_selector('#live[data-state="live"]', timeout=30_000)
        page.wait_for_function("n => document.querySelectorAll('#table tbody tr').length === n", arg=3)
    context.close()


def test_pictures_for_the_documentation(shown: Face, browser: Browser, tmp_path: Path) -> None:
    shown.put_up(household())
    now = time.time()
    for step in range(300):
        covered = 80 if not 200 < step < 215 else 62
        per_s = (100 - step % 40 / 4) if covered == 80 else 0.0
        samples = [Sample("llama-3.1-70b", 9, 80, covered, per_s)]
        shown.note(
            [*samples, Sample("smollm2-135m", 3, 30, 30 if step < 260 else 26, 150.0 if step < 260 else 0.0)],
            now=now - 3600 + 12 * step,
        )
    for name, options in (
        ("monitor", {"color_scheme": "light", "width": 1240, "height": 1000}),
        ("monitor-dark", {"color_scheme": "dark", "width": 1240, "height": 760}),
        ("monitor-phone", {"color_scheme": "light", "width": 390, "height": 844}),
    ):
        with visiting(browser, shown.url, **options) as visit:
            visit.wait(lambda visit=visit: visit.page.locator(".graph .line").count() >= 2)
            visit.page.wait_for_timeout(400)
            path = picture_path(name, tmp_path)
            visit.page.screenshot(path=path)
            assert 10_000 < path.stat().st_size < 200_000
    shown.put_up([view(crowd(1000))])
    with visiting(browser, shown.url, width=1240, height=820) as visit:
        visit.wait(lambda: visit.count(ROWS) == 1000)
        visit.page.wait_for_timeout(400)
        path = picture_path("monitor-thousand", tmp_path)
        visit.page.screenshot(path=path)
        assert 10_000 < path.stat().st_size < 200_000
