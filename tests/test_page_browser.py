"""The page in a headless Chromium: talking, chats, facts, versions, what asks once, a narrow window, the keyboard."""

import os
import re
import shutil

import pytest
from paged import knowing
from playwright.sync_api import expect, sync_playwright
from served import until
from test_memory_facts import BOLT, GRAZ, OSLO

from ttt_retrofit.memory.facts import Fact
from ttt_retrofit.serving.page import launch
from ttt_retrofit.util.files import write_list

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"no Chromium: install one of {NAMES}, or name it in CHROMIUM"),
]

CAKE = "Bolt needs a cake."  # which waits to become memory
WHERE, WHO = "where is Marek ?", "who has the key ?"
expect.set_options(timeout=30_000)
MARKDOWN = """A **plan** & `code`:

| Ingredient | Preparation | Neighbourhood |
|---|---|---|
| Buttermilk | Refrigerated overnight | Supermarket |

```
a line that is much longer than a telephone is wide, so that it has to be scrolled to be read
```

<img src=x onerror=alert(1)> [bad](javascript:alert(1)) [good](https://example.org) ![picture](https://example.org/p.png)
"""
UNNAMED = """() => [...document.querySelectorAll("button, input, select, textarea")]
  .filter((one) => !(one.ariaLabel || one.labels?.length || one.textContent.trim())).map((one) => one.outerHTML)"""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, tmp_path, monkeypatch):
    """The page, and its controller. Nothing fails in it, and it asks no other machine for anything."""
    said = [{"role": "user", "content": CAKE}, {"role": "assistant", "content": MARKDOWN}]
    tmp_path.joinpath("memory").mkdir()
    write_list(tmp_path / "turns.json", "messages", said)
    controller = knowing(tmp_path, monkeypatch, most=12)
    page, asked, broken = browser.new_page(viewport={"width": 1200, "height": 800}), [], []
    page.set_default_timeout(20_000)
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("console", lambda line: broken.append(line.text))
    with launch(controller, "a talk", None) as url:
        page.goto(url)
        expect(page.locator(".message")).to_have_count(2)
        yield page, controller
        page.close()
    assert broken == [] and [address for address in asked if not re.match(rf"(data:|{url})", address)] == []


def say(page, text):
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def texts(page):
    return page.locator(".message .text").all_inner_texts()


def test_a_conversation_is_edited_regenerated_and_stopped(opened):
    page, controller = opened
    say(page, WHERE)
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    expect(page.locator(".message")).to_have_count(4)
    expect(page.locator(".message").last).to_be_in_viewport()
    page.get_by_role("button", name="Regenerate").click()
    until(lambda: len(controller.session.messages) == 4 and controller.state()["answering"] is None)
    page.get_by_role("button", name="Edit").last.click()
    page.locator(".editing textarea").fill(WHO)
    page.keyboard.press("Enter")
    expect(page.locator(".message.own .text").last).to_have_text(WHO)
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    assert [one["content"] for one in controller.session.messages][2] == WHO
    page.get_by_role("button", name="Edit").first.click()
    page.locator(".editing textarea").fill(WHERE)
    page.get_by_role("button", name="Send", exact=True).first.click()
    expect(page.get_by_role("dialog")).to_contain_text("2 messages after it will be deleted")
    page.keyboard.press("Escape")  # keeps them
    expect(page.locator(".message .text")).to_have_count(3)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".message")).to_have_count(4)
    controller.max_new_tokens = 3000
    say(page, WHERE)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator(".message")).to_have_count(6)


def test_chats_begin_change_and_go(opened):
    page, controller = opened
    page.get_by_role("button", name="New chat").first.click()
    expect(page.locator(".message")).to_have_count(0)
    say(page, WHERE)
    expect(page.get_by_role("button", name=WHERE, exact=True)).to_have_attribute("aria-current", "true")
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    page.get_by_role("button", name="Bolt needs a cake.", exact=True).click()
    expect(page.locator(".message .text").first).to_have_text("Bolt needs a cake.")
    page.get_by_role("button", name="Delete the chat Bolt").click()
    page.get_by_role("button", name="Cancel").click()
    assert len(controller.session.messages) == 4
    page.get_by_role("button", name="Delete the chat Bolt").click()
    page.get_by_role("button", name="Delete the chat", exact=True).click()
    expect(page.locator(".message .text").first).to_have_text(WHERE)
    assert controller.session.messages[0]["content"] == WHERE
    page.reload()
    expect(page.locator(".message .text").first).to_have_text(WHERE)


def test_facts_are_searched_corrected_and_deleted_after_one_question(opened):
    page, controller = opened
    facts = page.get_by_role("list", name="Facts", exact=True)
    expect(facts.locator(".fact-text")).to_have_text([CAKE, GRAZ.text, BOLT.text])
    expect(facts.locator(".mark")).to_have_text(["waiting", "in words", "not checked"])
    page.get_by_label("Search the facts").fill("dog")
    expect(facts.locator(".fact-text")).to_have_text([BOLT.text])
    page.get_by_label("Search the facts").fill("")
    page.get_by_label("Which facts").select_option("superseded")
    expect(facts.locator(".fact-text")).to_have_text([OSLO.text])
    facts.get_by_role("button", name="History").click()
    expect(facts.get_by_role("list", name="History")).to_contain_text(GRAZ.text)
    page.get_by_label("Which facts").select_option("current")
    facts.get_by_role("button", name="Correct: The user's dog").click()
    facts.get_by_label("The corrected fact").press("Escape")
    expect(facts.get_by_label("The corrected fact")).to_have_count(0)
    facts.get_by_role("button", name="Delete: The user's dog").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    assert controller.state()["changes"] == []
    facts.get_by_role("button", name="Delete: The user's dog").click()
    page.get_by_role("button", name="Delete the fact").click()
    expect(facts.locator(".fact-text")).to_have_text([GRAZ.text])


def test_a_fact_that_is_not_learned_yet_is_corrected_and_deleted_at_once(opened):
    page, controller = opened
    facts = page.get_by_role("list", name="Facts", exact=True)
    page.get_by_label("Which facts").select_option("waiting")
    expect(facts.locator(".fact-text")).to_have_text([CAKE])
    facts.get_by_role("button", name="Correct").click()
    facts.get_by_label("The corrected fact").fill("Volt needs a cake.")
    facts.get_by_role("button", name="Save").click()
    expect(facts.locator(".fact-text")).to_have_text(["Volt needs a cake."])
    expect(page.locator(".message.own .text")).to_have_text(["Volt needs a cake."])
    facts.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text("It is not learned yet.")
    expect(page.get_by_role("dialog").get_by_role("checkbox")).to_have_count(0)
    page.get_by_role("button", name="Delete the fact").click()
    expect(facts).to_have_text("Nothing is known yet.")
    assert controller.session.messages == []


def test_facts_are_reviewed_with_their_words_changed(opened):
    page, controller = opened
    controller.review.facts = [BOLT, Fact.of("The user has a card.", "user", None, [1], "a" * 64)]
    form = page.get_by_role("region", name="To review")
    form.get_by_label("Keep").nth(1).uncheck()
    form.get_by_label("Its words").first.fill("The dog is Volt.")
    form.get_by_role("button", name="Keep the ticked ones").click()
    until(lambda: controller.review._kept is not None)
    assert [fact.text for fact in controller.review._kept] == ["The dog is Volt."]
    controller.review.facts = []
    expect(form).to_be_hidden()


def test_going_back_forgetting_and_erasing_ask_once_and_nothing_is_chosen_before(opened):
    page, controller = opened
    page.get_by_text("Versions", exact=True).click()
    back = page.get_by_role("button", name="Go back to this version")
    expect(back).to_be_disabled()
    page.get_by_label("Version 1").check()
    back.click()
    expect(page.get_by_role("dialog")).to_contain_text(f"1 fact will be known again: {OSLO.text}")
    page.get_by_role("button", name="Go back", exact=True).click()
    expect(page.locator(".fact-text")).to_have_text([CAKE, OSLO.text])
    page.get_by_text("Conversations that were learned").click()
    forget = page.get_by_role("button", name="Forget the ticked ones")
    expect(forget).to_be_disabled()
    page.locator("#context-list input").check()
    forget.click()
    page.get_by_role("button", name="Forget", exact=True).click()
    expect(page.locator(".fact-text")).to_have_text([CAKE])
    page.get_by_role("button", name="Erase everything").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".message")).to_have_count(2)
    page.get_by_role("button", name="Erase everything").click()
    page.get_by_role("dialog").get_by_role("button", name="Erase everything").click()
    expect(page.locator(".message")).to_have_count(0)
    assert controller.session.memory is None and controller.session.messages == []


def test_an_answer_is_markdown_without_scripts_or_pictures(opened):
    page, _ = opened
    answer = page.locator(".message .text").nth(1)
    expect(answer.locator("strong")).to_have_text("plan")
    expect(answer).to_contain_text("<img src=x onerror=alert(1)>")
    expect(answer.locator("img, script")).to_have_count(0)
    assert [link.get_attribute("href") for link in answer.locator("a").all()] == [None, "https://example.org"]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer.get_by_role("button", name="Copy the code").click()
    expect(answer.get_by_role("button", name="Copy the code")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").startswith("a line that is much longer")


def test_in_a_narrow_window_words_are_whole_and_every_control_has_a_name(opened):
    page, _ = opened
    page.locator(".message").first.evaluate("(drawn) => (drawn.dataset.drawn = 'once')")
    for _ in range(2):
        page.wait_for_event("response", lambda reply: reply.url.endswith("page/state"))
    expect(page.locator(".message").first).to_have_attribute("data-drawn", "once")
    assert page.evaluate(UNNAMED) == []
    page.set_viewport_size({"width": 400, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    lines = (
        "(cell) => { const range = new Range(); range.selectNodeContents(cell); return range.getClientRects().length }"
    )
    assert [cell.evaluate(lines) for cell in page.locator("td:not(:nth-child(2)), th").all()] == [1] * 5
    expect(page.get_by_label("Your message")).to_be_in_viewport()
    memory = page.get_by_role("button", name="Memory")
    memory.press("Enter")
    expect(page.get_by_label("Search the facts")).to_be_focused()
    expect(page.get_by_label("Your message")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(memory).to_have_attribute("aria-expanded", "false")
    expect(page.get_by_label("Your message")).to_be_visible()
