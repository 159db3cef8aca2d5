"""The page in a headless Chromium: talking, a memory made in idle time, forgetting, rolling back, erasing."""

import os
import re
import shutil

import httpx
import pytest
from converted import speaker
from playwright.sync_api import expect, sync_playwright
from served import until
from test_agent import CONFIG
from words import OTHER_STORY, QUESTIONS, STORY, tokenizer

from ttt_retrofit import ChatSession, InputError
from ttt_retrofit.chat.days import without_days
from ttt_retrofit.serving.page import PageController, launch

pytestmark = pytest.mark.slow

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def talk(directory, patience):
    model = speaker()
    session = ChatSession(model, tokenizer(), directory, keep_turns=1, config=CONFIG, questions=QUESTIONS)
    return PageController(session, 6, patience)


def test_an_answer_grows_and_a_failed_one_leaves_no_trace(tmp_path, monkeypatch):
    page = talk(tmp_path, 1e9)
    grown = list(page.send("where is Marek ?"))
    assert grown[0] == [{"role": "user", "content": "where is Marek ?"}] and len(grown) > 3
    assert grown[-1] == page.shown == without_days(page.session.messages)

    def fails(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr(page.session.model, "generate", fails)
    with pytest.raises(RuntimeError):
        list(page.send("who ?"))
    assert page.shown == grown[-1] == without_days(page.session.messages)


def test_what_was_erased_while_it_was_answered_does_not_come_back(tmp_path):
    page = talk(tmp_path, 1e9)
    list(page.send("where is Marek ?"))
    writing = page.send("who has the key ?")
    next(writing)
    until(lambda: len(page.session.messages) == 4)
    page.erase()
    list(writing)
    assert page.shown == page.session.messages == []


def test_what_is_remembered_is_shown_and_can_be_taken_back(tmp_path):
    page = talk(tmp_path, 0.0)
    for said in (STORY, OTHER_STORY):
        list(page.send(said))
    until(lambda: "Consolidating" not in page.poll() and page.session.memory)
    assert "Contexts remembered: 1" in page.summary() and "recalled" in page.summary() and "drift" in page.summary()
    ((name, *_),) = page.entries()
    assert any(question in QUESTIONS for question, _ in page.lessons())
    with pytest.raises(InputError, match="No context is chosen"):
        page.forget([])
    page.forget([name])
    assert page.entries() == [] and page.lessons() == []
    page.change(page.session.rollback)
    assert len(page.entries()) == 1
    page.erase()
    assert page.shown == [] and page.entries() == [] and "remembered: 0" in page.summary()


@pytest.fixture
def shown(tmp_path):
    with launch(talk(tmp_path, 1e9), "a talk", None) as url:
        yield url


def test_a_web_page_that_poses_as_local_is_shown_nothing(shown):
    found = httpx.get(f"{shown}config")
    # Nor does an answer make the browser fetch an image from somewhere else.
    assert found.status_code == 200 and "default-src 'self'" in found.headers["content-security-policy"]
    posing = httpx.get(f"{shown}config", headers={"Host": "evil.example", "Origin": "http://evil.example"})
    assert posing.status_code == 403 and "evil.example" in posing.text


def test_no_page_shows_it_in_a_frame(shown):
    for path in ("", "config", "nothing"):
        headers = httpx.get(f"{shown}{path}").headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"] and headers["x-frame-options"] == "DENY"


def test_pages_of_other_origins_read_and_change_nothing(shown):
    """Another port of this machine is another origin; so is a frame without one."""
    asking, join = {"Access-Control-Request-Method": "POST"}, f"{shown}gradio_api/queue/join"
    for origin in ("http://localhost:9", "http://127.0.0.1:9", "https://evil.example", "null", f"{shown}x"):
        headers = {"Origin": origin}
        for reply in (
            httpx.get(f"{shown}config", headers=headers),
            httpx.post(join, json={}, headers=headers),
            httpx.options(join, headers=headers | asking),
        ):
            assert reply.status_code == 403 and not any(name.startswith("access-control") for name in reply.headers)
    image = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert httpx.get(f"{shown}config", headers=image).status_code == 403
    assert httpx.get(shown, headers=link).status_code == 200
    own = httpx.get(f"{shown}config", headers={"Origin": shown.rstrip("/")})
    assert own.status_code == 200 and "access-control-allow-credentials" not in own.headers


def test_nothing_is_uploaded(shown):
    for path in ("upload", "process_recording", "queue/join"):
        reply = httpx.post(f"{shown}gradio_api/{path}", files={"files": b"x" * 10})
        assert reply.status_code == 415 and "expected application/json" in reply.text
    large = httpx.post(f"{shown}gradio_api/queue/join", json={"data": ["x" * (1 << 20)]})
    assert large.status_code == 413


@pytest.mark.skipif(BROWSER is None, reason=f"no Chromium: install one of {NAMES}, or name it in CHROMIUM")
def test_a_conversation_in_a_browser_becomes_memory_and_is_forgotten(tmp_path):
    talking = talk(tmp_path, 0.5)
    with sync_playwright() as play, launch(talking, "ttt-retrofit", None) as url:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        asked, broken = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(url)
        for number, said in enumerate((STORY, OTHER_STORY), start=1):
            page.locator("#said textarea").fill(said)
            page.keyboard.press("Enter")
            expect(page.locator(".message.bot")).to_have_count(number, timeout=30_000)
            until(lambda: len(talking.shown) == 2 * number, 30)  # noqa: B023
        answer = talking.session.messages[-1]["content"].split()[0]
        expect(page.locator(".message.bot").last).to_contain_text(answer)
        expect(page.locator("#memory")).to_contain_text("Contexts remembered: 1", timeout=60_000)
        expect(page.locator("#progress")).to_contain_text("2 messages are still in words", timeout=10_000)
        expect(page.get_by_text(QUESTIONS[0]).first).to_be_visible()
        page.locator("#forget").click()
        expect(page.locator("#memory")).to_contain_text("Contexts remembered: 0")
        page.locator("#rollback").click()
        expect(page.locator("#memory")).to_contain_text("Contexts remembered: 1")
        page.locator("#erase").click()  # erases nothing yet
        page.locator("#keep").click()
        expect(page.locator("#really")).to_be_hidden()
        expect(page.locator(".message.bot")).to_have_count(2)
        page.locator("#erase").click()
        page.locator("#really").click()
        expect(page.locator("#memory")).to_contain_text("Contexts remembered: 0")
        expect(page.locator("#really")).to_be_hidden()
        expect(page.locator(".message.bot")).to_have_count(0)
        browser.close()
    assert broken == []
    assert [address for address in asked if not re.match(rf"(data:|blob:|{url})", address)] == []
