"""The chat page in Chromium, through a real gateway with keys, on a live swarm whose servers die."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from swarm.demo.fleet import Fleet
from swarm.demo.processes import Process
from tests.chat.browser import Visit, visit
from tests.pictures import chromium, picture_path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="there is no chromium here: apt-get install chromium"),
]

KEY = "a-key-for-tests"
STORY = "Tell me a long story about a lighthouse keeper and his parrot."
DASH = "\N{EN DASH}"
GREEDY = {"temperature": 0, "top_p": "", "max_tokens": 150}
HOSTILE = """<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>

**<b>bold</b>** [a](javascript:alert(1)) ![i](https://example.com/i.png) `<i>code</i>`

```"><svg onload=alert(1)>
</code></pre><script>document.title='owned'</script>
```
"""


@pytest.fixture(scope="module")
def url(servers: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    words = ["swarm.gateway", "--initial-peers", servers.addr, "--port", "0", "--api-key", KEY, "--threads", "1"]
    gateway = Process.start(*words, log=log)
    try:
        yield gateway.wait_ready()["url"]
    finally:
        gateway.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def desk(browser: Browser, url: str) -> Iterator[Visit]:
    """The page on a desk's screen, with answers that are the same each time."""
    with visit(browser, url, KEY, color_scheme="light") as visited:
        visited.settings(**GREEDY)
        yield visited


def asked_of_the_api(url: str, text: str) -> str:
    """What the same question is answered without the page."""
    body: dict[str, Any] = {"model": "smollm2-135m", "messages": [{"role": "user", "content": text}]}
    body |= {"temperature": 0, "max_tokens": GREEDY["max_tokens"]}
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with urlopen(Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers), timeout=60) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def squeezed(text: str) -> str:
    """Without blanks and line ends: how a browser lays text out is its own affair."""
    return "".join(text.split())


def test_an_answer_streams_and_shows_its_route_stops_and_is_written_again(desk: Visit, url: str) -> None:
    page = desk.page
    desk.ask(STORY)
    desk.wait_text(20)
    early = desk.answer()
    desk.wait_text(len(early) + 40)  # it grows
    assert page.locator(".way.live").count() == 1
    page.keyboard.press("Escape")
    desk.wait_idle()
    stopped = desk.answer()
    assert page.locator(".ending").inner_text() == "stopped" and len(stopped) < 500
    time.sleep(0.4)
    assert desk.answer() == stopped

    page.keyboard.press("Alt+r")
    page.wait_for_selector("#send.busy")
    desk.wait_idle()
    assert page.locator(".assistant").count() == 1
    assert squeezed(desk.answer()) == squeezed(asked_of_the_api(url, STORY))
    assert squeezed(desk.answer()).startswith(squeezed(stopped))

    expect(page.locator("#route .hop-name")).to_have_text(["Ada", page_middle(page), "Cleo", "back to the gateway"])
    assert f"blocks 0{DASH}11 at Ada" in (page.locator(".comb").get_attribute("aria-label") or "")
    assert page.locator(".comb polygon").count() == 30
    times = page.locator("#route .hop-time").all_inner_texts()
    assert all(float(each.split()[0]) > 0 for each in times)
    assert "3 hops" in page.locator(".route-line").inner_text()


def test_the_state_of_the_chosen_model_is_told_in_words(desk: Visit) -> None:
    page, state = desk.page, desk.page.locator("#model-state")
    expect(state).to_have_text(re.compile(r"^30 blocks at [34] servers$"))
    whole = {"num_blocks": 30, "servers": 1, "state": "ready"}
    broken = {"num_blocks": 30, "servers": 2, "state": "incomplete", "missing": [{"start": 20, "end": 30}]}
    for models, words, dot in (
        ([{"id": "one", "swarm": whole}], "30 blocks at 1 server", "ok"),
        ([{"id": "one", "swarm": broken}], "some blocks have no server", "warn"),
        ([{"id": "one", "swarm": broken}, {"id": "two", "swarm": whole}], "some blocks have no server", "warn"),
        ([], "no model is served", "warn"),
    ):
        page.unroute("**/v1/models")
        page.route("**/v1/models", lambda route, _, models=models: route.fulfill(json={"data": models}))
        page.reload()
        expect(state).to_have_text(words)
        assert page.locator(f"#model-state .dot.{dot}").count() == 1
        if len(models) == 2:
            page.locator("#model").select_option("two")
            expect(state).to_have_text("30 blocks at 1 server")


def test_two_windows_do_not_lose_each_others_conversations(desk: Visit, url: str) -> None:
    other = desk.page.context.new_page()
    other.goto(url)
    desk.ask("Please name the capital of France.")
    desk.wait_idle()
    expect(other.locator(".conversation")).to_have_text(["Please name the capital of France."])
    other.locator("#question").fill("Please name the capital of Italy.")
    other.keyboard.press("Enter")
    other.wait_for_selector(".route-line")
    other.reload()
    expect(other.locator(".conversation")).to_have_count(2)


def page_middle(page: Page) -> str:
    name = page.locator("#route .hop-name").nth(1).inner_text()
    assert name in ("Ben", "Dora")
    return str(name)


def test_everything_can_be_done_with_keys_and_conversations_are_kept(desk: Visit) -> None:
    page, keys = desk.page, desk.page.keyboard
    keys.press("Alt+s")
    keys.type("You speak like a pirate.")  # the dialog begins with the system prompt
    keys.press("Escape")
    with page.expect_request("**/v1/chat/completions") as sent:
        desk.ask("Please name the capital of France.")
    assert sent.value.post_data_json["messages"] == [
        {"role": "system", "content": "You speak like a pirate."},
        {"role": "user", "content": "Please name the capital of France."},
    ]
    desk.wait_idle()
    assert "Paris" in desk.answer()
    keys.press("ArrowUp")
    keys.press("Control+a")
    keys.type("Please name the capital of Italy.")
    keys.press("Enter")
    page.wait_for_selector("#send.busy")
    desk.wait_idle()
    assert page.locator(".user .said").all_inner_texts() == ["Please name the capital of Italy."]
    assert "Rome" in desk.answer()

    seen = set()
    for _ in range(26):
        keys.press("Tab")
        ring = page.evaluate("[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]")
        in_box = ring[0] == "question"  # whose ring is its box's
        assert ring[1] == "solid" or in_box or page.evaluate("document.activeElement === document.body"), ring
        seen.add(ring[0])
    assert {"new", "model", "settings", "question"} <= seen

    keys.press("Alt+n")
    assert page.locator(".message").count() == 0 and page.locator("#welcome").is_visible()
    page.reload()
    page.get_by_role("button", name="Please name the capital of Italy.", exact=True).press("Enter")
    assert "Rome" in desk.answer()
    keys.press("Alt+s")
    assert page.locator("#settings-dialog [name=system]").input_value() == "You speak like a pirate."
    keys.press("Escape")
    keys.press("Alt+k")
    assert page.get_by_text("answer the last question again").is_visible()
    keys.press("Enter")
    page.locator("#conversations .icon-button").focus()
    keys.press("Enter")
    keys.press("Enter")  # once more is yes
    assert page.locator("#conversations li").count() == 0


def test_a_phone_in_the_dark(browser: Browser, url: str, tmp_path: Path) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "color_scheme": "dark"}
    with visit(browser, url, KEY, device_scale_factor=2, **phone) as visited:
        page = visited.page
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 20, 18)"
        page.evaluate(f"localStorage.setItem('swarm.conversations', {json.dumps(json.dumps([KEPT]))})")
        page.reload()
        page.tap("#side-open")
        page.get_by_role("button", name="What do bees", exact=False).first.tap()
        page.fill("#question", "Please name three rivers of France.")
        page.tap("#send")
        page.wait_for_selector("#send.busy")
        visited.wait_idle()
        page.wait_for_selector(".assistant:last-child .route-line")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        boxes = [button.bounding_box() for button in page.locator(".top button, #send").all()]
        assert all(box and box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["height"] >= 40 for box in boxes)
        page.screenshot(path=picture_path("chat-page-phone", tmp_path))
        page.locator(".route-line").last.tap()
        expect(page.locator("#panel")).to_be_in_viewport(ratio=0.9)
        page.tap("#panel-close")
        expect(page.locator("#panel")).to_be_hidden()
        page.tap("#side-open")
        for background in ("rgb(238, 242, 238)", "rgb(14, 20, 18)"):  # auto, then light, then dark
            page.tap("#theme")
            expect(page.locator("body")).to_have_css("background-color", background)


KEPT = {
    "id": "kept",
    "model": "smollm2-135m",
    "settings": {"temperature": 0, "max_tokens": 60},
    "messages": [
        {"role": "user", "content": "What do bees do in winter?"},
        {"role": "assistant", "content": "They form a **cluster** around their queen and keep her warm."},
    ],
    "changed": 1,
}


def test_what_strangers_say_never_becomes_markup(desk: Visit) -> None:
    page = desk.page

    def answer(route: Route) -> None:
        piece = {"id": "x", "choices": [{"index": 0, "delta": {"content": HOSTILE}, "finish_reason": "stop"}]}
        route.fulfill(body=f"data: {json.dumps(piece)}\n\ndata: [DONE]\n\n", content_type="text/event-stream")

    hop = {"peer": HOSTILE, "name": HOSTILE, "start": 0, "end": 30, "network_ms": 1, "queue_ms": 1, "compute_ms": 1}
    way = {"id": "x", "model": HOSTILE, "hops": [hop], "back_ms": 1, "step_ms": 4, "failovers": 0, "advice": HOSTILE}
    model = {"id": HOSTILE, "swarm": {"num_blocks": 30, "servers": 1, "state": "ready"}}
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [model]}))
    page.route("**/v1/chat/completions", answer)
    page.route("**/api/v1/route/*", lambda route: route.fulfill(json=way))
    page.reload()
    page.wait_for_function("document.querySelector('#model').options.length === 1")
    desk.page.locator("#question").fill(HOSTILE)
    page.keyboard.press("Enter")
    page.wait_for_selector(".route-line")
    found = page.evaluate(
        "document.querySelectorAll('img:not([src=\"static/icon.svg\"]), a:not(.skip), [onload]').length"
    )
    assert found == 0
    assert (
        page.evaluate("document.querySelectorAll('.message script, .message b, .message i:not(.waiting i)').length")
        == 0
    )
    assert "owned" not in page.evaluate("document.title")[:5]
    assert "<script>" in desk.answer() and "<i>code</i>" in desk.answer()
    assert page.locator("#model option").inner_text().startswith("<img")


def test_what_fails_is_told_with_what_to_do(desk: Visit) -> None:
    page = desk.page
    desk.expected = ["ERR_FAILED", "400 (Bad Request)"]
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.locator("#question").fill("Please name the capital of France.")
    page.keyboard.press("Enter")
    alert = page.locator(".fault")
    expect(alert).to_contain_text("The gateway does not answer")
    page.unroute("**/v1/chat/completions")
    alert.get_by_role("button", name="Try again").click()
    expect(page.locator(".assistant .said").last).to_contain_text("Paris", timeout=20_000)
    desk.wait_idle()
    assert alert.count() == 0

    page.keyboard.press("Alt+n")
    page.locator("#question").fill("word " * 9000)
    page.keyboard.press("Enter")
    expect(alert).to_contain_text("The conversation is too long for this model", timeout=20_000)
    expect(alert).to_contain_text("8192")


def test_without_the_key_there_is_no_page(browser: Browser, url: str) -> None:
    context = browser.new_context()
    answers = [context.request.get(f"{url}/{path}") for path in ("", "static/app.js", "v1/models")]
    assert [answer.status for answer in answers] == [401, 401, 401]
    assert answers[0].headers["www-authenticate"].startswith("Basic ")  # what a browser asks its reader for
    context.close()


def test_a_server_dies_and_the_answer_goes_on(desk: Visit, url: str, servers: Fleet, tmp_path: Path) -> None:
    page = desk.page
    desk.ask("Please write a Python function that adds two numbers.")
    desk.wait_idle()
    page.keyboard.press("Alt+n")
    undisturbed = asked_of_the_api(url, STORY)
    desk.ask(STORY)
    page.wait_for_selector("#route .hop-name")
    desk.wait_text(30)
    middle = page_middle(page)
    other = {"Ben": "Dora", "Dora": "Ben"}[middle]
    servers.signal(middle, signal.SIGKILL)
    expect(page.locator(".news")).to_contain_text(f"{other} took over blocks 12{DASH}20", timeout=30_000)
    desk.wait_idle()
    assert squeezed(desk.answer()) == squeezed(undisturbed)
    expect(page.locator(".route-line")).to_contain_text("1 fail-over")
    expect(page.locator("#route .hop-name").nth(1)).to_have_text(other)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        path = picture_path("chat-page" + ("-dark" if scheme == "dark" else ""), tmp_path)
        page.screenshot(path=path, animations="disabled")
        assert 20_000 < path.stat().st_size < 200_000
