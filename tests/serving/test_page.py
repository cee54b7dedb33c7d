"""The page at ``/`` in a real browser, against a server of its own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import shutil
import socket
import threading
import time

import pytest
import uvicorn

from nivesh_lib.paths import shipped_model
from nivesh_lib.serving import page as served
from nivesh_lib.serving.app import create_app
from nivesh_lib.serving.settings import Settings

SURE = "Is my health cover enough for a family of four?"
UNSURE = "Will it rain in Mumbai tomorrow?"
# The lowest contrast of a text with what is painted behind it, and that text.
CONTRAST = """() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((one) => one / 255)
      .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const behind = (one) => {
    const colour = getComputedStyle(one).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? behind(one.parentElement) : colour;
  };
  return [...document.body.querySelectorAll("*")].filter((one) => one.checkVisibility() &&
      [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim())).map((one) => {
    const both = [light(getComputedStyle(one).color), light(behind(one))].sort((a, b) => b - a);
    return [both[0] / both[1], one.textContent];
  }).sort((a, b) => a[0] - b[0])[0];
}"""


@contextlib.contextmanager
def serving(feedback, **settings):
    """Yield the address of a server that runs in a thread."""
    model = settings.pop("model", str(shipped_model()))
    app = create_app(Settings(model=model, feedback=feedback, **settings))
    # Without a lifespan the model is loaded by the first query, or is found missing by it.
    config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="off")
    server, bound = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


@pytest.fixture(scope="module")
def feedback(tmp_path_factory):
    return tmp_path_factory.mktemp("feedback") / "corrections.jsonl"


@pytest.fixture(scope="module")
def address(feedback):
    with serving(feedback) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium to open a page in")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened.new_page().close()  # the first one takes long
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """A page of which nothing leaves its server, and that neither fails nor breaks its policy."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(10_000)
    wrong, asked = [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda one: asked.append(one.url))
    page.on("console", lambda one: wrong.append(one.text) if one.type == "error" else None)
    yield page
    assert [text for text in wrong if not text.startswith("Failed to load resource")] == []
    (host,) = {re.match(r"(?:data:|https?://[^/]+/)", url)[0] for url in asked} - {"data:"}
    assert page.url.startswith(host)
    page.close()


def ask(page, query):
    page.get_by_label("Your query").fill(query)
    page.keyboard.press("Enter")


def bars(page):
    """Return name, share of the bar and percentage of each intent that is shown."""
    page.locator("#bars li").first.wait_for()
    script = "rows => rows.map(one => [...one.children].map(cell => cell.value ?? cell.innerText))"
    return [tuple(row) for row in page.locator("#bars li").evaluate_all(script)]


def alert(page):
    page.locator("[role=alert]:visible").wait_for()
    return page.locator("[role=alert]:visible").inner_text()


def test_a_query_is_asked_and_its_answer_confirmed_with_the_keyboard_alone(page, address, feedback):
    page.goto(address)
    page.locator("#query:focus").wait_for()  # the browser sets the focus after the page has loaded
    page.keyboard.type(SURE)
    page.keyboard.press("Enter")
    best, *others = bars(page)
    assert page.locator("#verdict").inner_text() == best[0] == "Insurance advice"
    assert best[1] > 0.7 and len(others) == 2
    assert all(shown == f"{100 * share:.0f} %" for _, share, shown in (best, *others))
    assert page.locator("[aria-live=polite]").inner_text().startswith(SURE)
    assert "not a release" in page.locator("#source").inner_text()
    reached = []
    while "Yes, it is right" not in reached:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText"))
        outline = "getComputedStyle(document.activeElement).outlineWidth"
        assert page.evaluate(outline) == "3px"
    assert reached == ["Ask", "Yes, it is right"]
    page.keyboard.press("Enter")
    page.locator("#kept:focus").wait_for()
    line = json.loads(feedback.read_text().splitlines()[-1])
    assert (line["intent"], line["predicted"]) == ("insurance_advice", "insurance_advice")


def test_a_query_that_the_model_doubts_goes_to_a_person(page, address):
    page.goto(address)
    page.get_by_role("button", name=UNSURE).click()
    (best, share, _), *_ = bars(page)
    assert page.locator("#verdict").inner_text() == "A person would answer this"
    assert share < 0.7 and f"best guess: {best}." in page.locator("#unsure").inner_text()


def test_a_correction_is_kept_anonymised(page, address, feedback):
    page.goto(address)
    ask(page, "send 500 from ravi.k@example.com to my fund")
    predicted = bars(page)[0][0]
    page.get_by_label("Your query").fill("something else")  # what was asked is what is corrected
    choice = page.get_by_label("No, it is")
    names = choice.locator("option").all_inner_texts()[1:]
    assert len(names) == 13 and predicted not in names
    choice.select_option(label=names[0])
    page.get_by_role("button", name="Send correction").click()
    page.locator("#kept:visible").wait_for()
    assert page.locator("#kept").inner_text().startswith(f"Kept: this query is “{names[0]}”")
    line = json.loads(feedback.read_text().splitlines()[-1])
    assert line["intent"] == names[0].lower().replace(" ", "_") and line["release"] == ""
    assert line["predicted"] == predicted.lower().replace(" ", "_")
    assert "ravi" not in line["query"] and line["query"].startswith("send 500 from ")


def test_nothing_is_sent_before_an_intent_is_chosen(page, address, feedback):
    page.goto(address)
    ask(page, SURE)
    bars(page)
    before = feedback.read_text() if feedback.exists() else ""
    page.get_by_role("button", name="Send correction").click()
    page.locator("#intent:invalid:focus").wait_for()
    assert before == (feedback.read_text() if feedback.exists() else "")


def test_a_key_is_asked_for_where_the_server_has_one(page, tmp_path):
    with serving(tmp_path / "file", keys=("s3cret",)) as address:
        page.goto(address)
        assert not page.get_by_label("API key").is_visible()
        ask(page, SURE)
        assert alert(page).startswith("This server wants an API key.")
        page.keyboard.type("₹")  # what no header can hold
        page.keyboard.press("Enter")
        page.locator("#key:invalid:focus").wait_for()
        assert alert(page).startswith("This server wants an API key.")
        page.get_by_label("API key").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("This server does not take that API key.").wait_for()
        page.get_by_label("API key").fill("s3cret")
        page.keyboard.press("Enter")
        assert bars(page)[0][0] == "Insurance advice"
        assert not page.locator("[role=alert]:visible").count()
        page.get_by_role("button", name="Yes, it is right").click()
        page.locator("#kept:visible").wait_for()


def test_no_key_is_asked_for_where_none_would_help(page, address):
    problem = {"title": "Not from here", "status": 403, "detail": "it answers its own machine"}
    page.route("**/predict/intent", lambda route: route.fulfill(status=403, json=problem))
    page.goto(address)
    ask(page, SURE)
    assert alert(page) == "It answers its own machine."
    assert not page.get_by_label("API key").is_visible()


def test_a_query_that_is_too_long_or_empty_is_told_in_a_sentence(page, address):
    page.goto(address)
    ask(page, SURE)
    bars(page)
    ask(page, "x" * 501)
    assert alert(page) == "The query has 501 characters, at most 500 are answered."
    assert not page.locator("#answer").is_visible()  # it belongs to another query
    ask(page, " ")
    page.get_by_text("The query is empty; ask something.").wait_for()


def test_a_server_without_a_model_and_one_that_is_gone_are_told(page, tmp_path):
    with serving(tmp_path / "file", model=str(tmp_path / "none")) as address:
        page.goto(address)
        ask(page, SURE)
        assert alert(page).startswith("No model is ready: ") and alert(page).endswith(
            "Try again in 10 s."
        )
    ask(page, SURE)
    page.get_by_text("The server does not answer.").wait_for()


def test_a_correction_that_cannot_be_kept_is_told_beside_it(page, tmp_path):
    with serving(tmp_path) as address:  # a folder cannot be appended to
        page.goto(address)
        ask(page, SURE)
        page.get_by_role("button", name="Yes, it is right").click()
        assert alert(page).startswith("Not kept: the correction could not be kept")
        assert alert(page).endswith("; send it again later.")  # said once
        assert page.locator("#correct [role=alert]").is_visible()


def test_a_query_stays_text(page, address):
    page.goto(address)
    query = "<script>document.title=1</script><img src=x onerror=document.title=2>"
    ask(page, query)
    bars(page)
    assert page.locator("#asked").inner_text() == query
    assert not page.locator("#asked *").count() and page.title().startswith("Nivesh")


def test_text_cannot_become_markup_in_any_script_of_the_page(browser, address):
    page = browser.new_page()
    page.goto(address)
    script = "try { document.body.innerHTML = '<b>x</b>' } catch (error) { error.name }"
    assert page.evaluate(script) == "TypeError"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("query", ["टैक्स कैसे बचाएं? " * 20, "x" * 480], ids=["hindi", "one word"])
def test_it_fits_a_phone_and_can_be_read(page, address, scheme, query):
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    ask(page, query)
    bars(page)
    assert page.locator("#asked").inner_text() == query.strip()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ratio, text = page.evaluate(CONTRAST)
    assert ratio >= 4.5, f"{text!r}: {ratio:.2f}"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 25)"
    assert dark == (scheme == "dark")


def test_the_policy_allows_the_page_s_own_blocks_and_nothing_else(client):
    answer = client.get("/")
    rules = answer.headers["content-security-policy"].split("; ")
    policy = dict(rule.split(" ", 1) for rule in rules)
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        (block,) = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    markup = answer.text.partition("<body>")[2].partition("<script>")[0]
    assert not re.findall(r"<[^>]+\s(?:on\w+|style|src|action)=", markup)
    assert answer.content == served.HTML


def test_health_tells_the_intents_that_a_correction_may_name(client, make_client, tmp_path):
    intents = client.get("/health").json()["intents"]
    assert len(intents) == 14
    refused = client.post("/feedback", json={"query": "x", "intent": "none"}).json()["detail"]
    assert refused.endswith(f"There are {', '.join(intents)}")
    assert make_client(model=str(tmp_path)).get("/health").json()["intents"] == []
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Health"]
    assert set(schema["required"]) == set(client.get("/health").json())
