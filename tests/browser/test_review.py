"""The review page in a real browser: one item after another, by keyboard, and no decision lost or doubled."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from hitl_stream.console.people import FRESH_MS
from hitl_stream.core.errors import UnknownOutcomeError
from hitl_stream.core.review import State
from hitl_stream.core.verdicts import Skipped, Verdict
from hitl_stream.wire.desk_records import REVIEW
from hitl_stream.wire.records import encode, time_text
from hitl_stream.wire.verdicts import Given, read_verdict
from support.browser import WAIT_MS_MAX, Seen, faults_of
from support.console import PASSWORD
from support.make import NOW_MS, FakeRecord, change, make_policy
from support.people import CLUSTER
from support.served import Served, served
from support.view import judged, record, review

pytestmark = pytest.mark.browser
expect.set_options(timeout=WAIT_MS_MAX)
RESTED_MS = 3_100
"""A little longer than a decision rests."""
MANY = 30
AWAY = (r"failed: .*ERR_INTERNET_DISCONNECTED", r"failed: .*ERR_NETWORK_CHANGED", r"warning|error: .*EventSource")


class Desk:
    """A page of a queue, and the console behind it. Its clock is the browser's, moved by hand."""

    def __init__(self, page: Page, console: Served) -> None:
        self.page, self.console = page, console

    @property
    def title(self) -> Any:
        return self.page.locator(".card-title")

    @property
    def item(self) -> str:
        """The item that stands there."""
        self.title.wait_for()
        return self.page.locator(".card").get_attribute("data-item") or ""

    def open(self, queue: str = "trading") -> Desk:
        with self.page.expect_response("**/painted"):
            self.page.goto(f"{self.console.url}/review/{queue}")
            self.title.wait_for()
        return self

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def rest(self, ms: int = RESTED_MS) -> None:
        """Let time go by in the browser."""
        self.page.clock.fast_forward(ms)

    def hold_still(self) -> None:
        """Let no time go by in the browser but by `rest`."""
        self.page.clock.pause_at(self.page.evaluate("Date.now()") / 1000 + 1)

    def judge(self, *keys: str) -> Verdict:
        """Decide by these keys, and return what was signed."""
        before = len(self.given())
        self.press(*keys)
        with self.page.expect_response(re.compile("/verdict$")):
            self.rest()
        return self.given()[before]

    def given(self) -> list[Any]:
        """Return the claims of every judgement that was written; each signature is good to a desk."""
        log, keys = self.console.front.log, self.console.front.watch.control.keys
        found = [read_verdict(encode(one), NOW_MS, keys, CLUSTER) for one in log.verdicts()]
        assert all(isinstance(one, Given) for one in found), found
        return [one.claims for one in found if isinstance(one, Given)]


Serve = Callable[..., Desk]


@pytest.fixture
def serve(page: Page, context: BrowserContext, tmp_path: Path) -> Iterator[Serve]:
    """Sign somebody in at a console into which records were folded."""
    with ExitStack() as stack:

        def begin(*records: FakeRecord, by: str = "ana", clock: bool = True, **parts: Any) -> Desk:
            console = stack.enter_context(served(tmp_path, names=(by,), **parts))
            console.do(lambda found: found.fold(*records, as_of_ms=NOW_MS))
            console.sign_in(context, by)
            if clock:
                page.clock.install()
            return Desk(page, console)

        yield begin
        for window in context.pages:
            window.close()  # its stream of events would keep the console from stopping


def items(count: int, **parts: Any) -> list[FakeRecord]:
    """Return so many items, the first of which is the most pressing."""
    return [
        review(f"i{n}", n, action_id=f"act-{n}", decide_by_ms=NOW_MS + 600_000 + n * 1_000, people=1, **parts)
        for n in range(count)
    ]


def tiered(tier: int = 3, **parts: Any) -> FakeRecord:
    """Return an item of a tier."""
    found = review("i0", people=1, **parts)
    value = (found.value or b"").replace(b'"tier":1', f'"tier":{tier}'.encode())
    assert value != found.value
    return record("reviews", REVIEW, "i0", value)


# --- by keyboard ------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("D9")
def test_thirty_items_are_judged_by_keyboard_and_each_once(serve: Serve):
    desk = serve(*items(MANY)).open()
    for _ in range(MANY):
        standing = desk.item
        desk.press("a")
        desk.rest()
        expect(desk.page.locator(f'.card[data-item="{standing}"]')).to_have_count(0)
    expect(desk.page.get_by_role("heading", name="Nothing waits for you here")).to_be_visible()
    expect(desk.page.locator("#hour")).to_have_text(f"{MANY} decided this hour")

    given = desk.given()
    assert {one.item for one in given} == {f"i{n}" for n in range(MANY)}
    assert len(given) == len({one.jti for one in given}) == MANY
    assert {one.verdict for one in given} == {"approve"}


@pytest.mark.behaviour("D9")
def test_output_stands_beside_its_source_on_a_wide_screen(serve: Serve):
    content = {"text": "Run further.", "source": "Product sheet."}
    desk = serve(*items(1, content=content)).open()
    output, source = (desk.page.locator(name).bounding_box() for name in (".output", ".source"))

    assert output is not None
    assert source is not None
    assert output["y"] == source["y"]
    assert output["x"] + output["width"] < source["x"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (("x", "4"), {"verdict": "reject", "code": "too_large"}),
        (("e", "0"), {"verdict": "escalate", "code": None}),
        (("e", "1"), {"verdict": "escalate", "code": "wrong_fact"}),
        (("x", "Escape", "a"), {"verdict": "approve", "code": None}),
        (("x", "n", "a", "x", "1", "Escape", "2"), {"verdict": "reject", "code": "off_tone", "note": "ax1"}),
        (("Control+a", "Alt+x", "a"), {"verdict": "approve", "code": None}),
    ],
)
def test_keys_say_a_verdict_and_why(serve: Serve, keys: tuple[str, ...], expected: dict[str, Any]):
    said = serve(*items(1)).open().judge(*keys)

    assert {name: getattr(said, name) for name in expected} == expected


@pytest.mark.behaviour("E16")
def test_a_change_is_tried_against_the_policy_while_it_is_written(serve: Serve):
    desk = serve(*items(1)).open()
    page, send = desk.page, desk.page.get_by_role("button", name="Send the change")
    desk.press("c")
    page.get_by_label("bid in EUR").fill("1.95")
    desk.rest(300)
    expect(page.locator(".checked")).to_contain_text("another person is asked first, in trading")
    page.get_by_label("bid in EUR").fill("1.25")
    desk.rest(300)
    expect(page.locator(".checked")).to_contain_text("it runs as your action")
    expect(page.locator(".change-diff")).to_contain_text("+0.05 EUR, +4.17")
    expect(send).to_be_disabled()
    page.get_by_label("Why").select_option("too_large")
    expect(send).to_be_enabled()

    send.focus()
    said = desk.judge("Enter")
    assert (said.verdict, said.code) == ("change", "too_large")
    assert [(one.path, one.value) for one in said.changes] == [("/changes/0/after", "1.25")]


def test_a_change_that_cannot_be_made_is_said_and_not_sent(serve: Serve):
    desk = serve(*items(1, changes=[change("1.20", "1.30")])).open()
    desk.press("c")
    desk.page.get_by_label("Why").select_option("other")
    desk.page.get_by_label("bid in EUR").fill("1.300")
    desk.rest(300)

    expect(desk.page.locator(".checked")).to_contain_text("stays what it is")
    expect(desk.page.get_by_role("button", name="Send the change")).to_be_disabled()


def test_what_is_undone_in_time_is_never_sent(serve: Serve):
    desk = serve(*items(2)).open()
    desk.press("a")
    expect(desk.page.locator(".card")).to_have_attribute("data-item", "i1")
    desk.press("u")
    expect(desk.page.locator(".card")).to_have_attribute("data-item", "i0")

    said = desk.judge("x", "5")
    assert [(one.item, one.verdict) for one in desk.given()] == [(said.item, "reject")] == [("i0", "reject")]


def test_what_is_skipped_is_noted_and_shown_again_when_asked(serve: Serve):
    desk = serve(*items(1)).open()
    with desk.page.expect_response(re.compile("/claim[?]view=")):
        desk.press("Space")
    (said,) = desk.given()
    assert isinstance(said, Skipped)
    desk.page.get_by_role("button", name="Show the skipped one again").click()

    assert desk.item == "i0"


def test_the_legend_names_the_keys(serve: Serve):
    desk = serve(*items(1)).open()
    desk.press("?")

    expect(desk.page.get_by_role("dialog", name="Keys")).to_contain_text("reject, then a reason 1–9")


# --- the highest tier -------------------------------------------------------------------------------------------------


def test_the_highest_tier_is_approved_by_shift_and_the_typed_amount(serve: Serve):
    desk = serve(tiered(changes=[change("10000", "12500.50")])).open()
    approve = desk.page.get_by_role("dialog").get_by_role("button", name="Approve")
    desk.press("a")
    expect(desk.page.get_by_role("dialog")).to_have_count(0)
    desk.press("Shift+A")
    desk.rest(1_000)
    desk.page.get_by_label("What will be there").fill("12500.05")
    expect(approve).to_be_disabled()
    desk.page.get_by_label("What will be there").fill("12 500.5")
    expect(approve).to_be_enabled()
    desk.press("Enter")
    expect(desk.title).to_have_count(0)

    assert desk.judge().verdict == "approve"


def test_the_highest_tier_wants_a_sign_in_of_a_moment_ago(serve: Serve, seen: Seen):
    desk = serve(tiered(changes=[change("10000", "12500")])).open()
    desk.console.front.now_ms += FRESH_MS + 1
    desk.press("Shift+A")
    desk.page.get_by_label("What will be there").fill("12500")
    desk.rest(1_000)
    desk.press("Enter")
    desk.page.get_by_label("Password of ana").fill(PASSWORD)
    desk.press("Enter")
    expect(desk.title).to_have_count(0)

    assert desk.judge().verdict == "approve"


def test_the_highest_tier_waits_as_long_as_reading_takes(serve: Serve):
    found = tiered(changes=[change("10000", "12500")])
    value = (found.value or b"").replace(b'"floor_s":0.0', b'"floor_s":600.0')
    desk = serve(record("reviews", REVIEW, "i0", value)).open()
    desk.press("Shift+A")
    desk.page.get_by_label("What will be there").fill("12500")

    expect(desk.page.get_by_role("dialog")).to_contain_text("Reading it takes at least 600 s")
    expect(desk.page.get_by_role("dialog").get_by_role("button", name="Approve")).to_be_disabled()


# --- what is signed ---------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A9")
def test_a_verdict_says_when_its_card_was_painted_and_when_the_key_was_pressed(serve: Serve):
    desk = serve(*items(1)).open()
    desk.console.front.watch.at_ms += 60_000

    said = desk.judge("a")
    assert time_text(NOW_MS) == said.painted.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert timedelta(0) < said.decided - said.painted <= timedelta(seconds=57)


def test_a_card_that_does_not_fit_its_digest_is_not_shown(serve: Serve):
    desk = serve(*items(1))

    def forged(route: Any) -> None:
        response = route.fetch()
        route.fulfill(response=response, body=response.text().replace("1.30", "9.30"))

    desk.page.route("**/next?*", forged)
    desk.page.goto(f"{desk.console.url}/review/trading")

    expect(desk.page.locator("#said")).to_contain_text("does not fit its digest")
    expect(desk.title).to_have_count(0)


def test_what_a_decision_did_is_read_back(serve: Serve):
    desk = serve(*items(1)).open()
    desk.hold_still()
    desk.judge("a")
    expect(desk.page.locator(".lately")).to_contain_text("on its way to the desk")
    jws = desk.console.front.log.verdicts()[0].jws
    desk.console.fold(judged("i0", jws=jws, effect="waiting", action={"action_id": "act-0"}))
    desk.rest(2_000)

    expect(desk.page.locator(".lately")).to_contain_text("it counts; another approval is still needed")


# --- the net and the others -------------------------------------------------------------------------------------------


def test_what_is_decided_offline_is_sent_when_the_net_is_back(serve: Serve, context: BrowserContext, seen: Seen):
    for pattern in AWAY:
        seen.allow(pattern)
    desk = serve(*items(3)).open()
    context.set_offline(True)
    desk.press("a")
    desk.rest()
    expect(desk.page.locator("#outbox")).to_contain_text("One decision waits to be sent")
    assert desk.item == "i1"
    with desk.page.expect_response(re.compile("/verdict$")):
        context.set_offline(False)

    expect(desk.page.locator("#outbox")).not_to_contain_text("waits")
    assert [one.item for one in desk.given()] == ["i0"]


def test_a_decision_whose_answer_was_lost_is_sent_again_as_the_same(serve: Serve, seen: Seen):
    seen.allow("answer: 504 POST .*/verdict")
    desk = serve(*items(1)).open()
    desk.console.front.log.after = UnknownOutcomeError("the answer was lost")
    desk.judge("a")
    expect(desk.page.locator("#outbox")).to_contain_text("One decision waits to be sent")
    desk.console.front.log.after = None
    with desk.page.expect_response(re.compile("/verdict$")):
        desk.page.get_by_role("button", name="Try now").click()

    expect(desk.page.locator(".lately")).to_contain_text("Approved")
    assert len(desk.given()) == 2
    assert len({one.jti for one in desk.given()}) == 1


def test_an_item_that_has_ended_meanwhile_gives_way_to_the_next(serve: Serve, seen: Seen):
    seen.allow("answer: 409 POST .*/verdict")
    desk = serve(*items(2)).open()
    desk.console.fold(review("i0", 9, action_id="act-0", state=State.EXPIRED))
    desk.press("a")
    desk.rest()

    expect(desk.page.locator("#said")).to_contain_text("not taken")
    expect(desk.page.locator("#said")).to_contain_text("the item has ended")
    assert desk.item == "i1"
    assert desk.given() == []


def test_an_item_that_was_lost_to_somebody_else_gives_way_to_the_next(serve: Serve, seen: Seen):
    seen.allow("answer: 40[49] POST .*/claim")
    desk = serve(*items(2)).open()
    desk.console.fold(review("i0", 9, action_id="act-0", state=State.APPROVED))
    desk.rest(30_100)

    expect(desk.page.locator("#said")).to_contain_text("the item has ended")
    assert desk.item == "i1"


def test_what_is_left_while_it_rests_is_sent_all_the_same(serve: Serve):
    desk = serve(*items(1)).open()
    desk.press("a")
    desk.page.goto(f"{desk.console.url}/sign-in")
    while not desk.given():  # the browser sends it when the page has gone; the test's own limit ends this
        desk.page.wait_for_timeout(20)
    desk.page.goto(f"{desk.console.url}/review/trading")
    expect(desk.page.get_by_role("heading", name="Nothing waits for you here")).to_be_visible()
    desk.rest()
    expect(desk.page.locator("#outbox")).to_contain_text("has been sent")

    assert {(one.item, one.jti) for one in desk.given()} == {("i0", desk.given()[0].jti)}


def test_two_tabs_show_different_items_and_a_copied_outbox_is_not_sent_twice(
    serve: Serve, context: BrowserContext, seen: Seen
):
    desk = serve(*items(6)).open()
    desk.press("a")
    expect(desk.page.locator(".card")).to_have_attribute("data-item", "i1")
    kept = desk.page.evaluate("sessionStorage.getItem('hitl-outbox')")
    copy = context.new_page()
    seen.watch(copy)
    copy.add_init_script(f"sessionStorage.setItem('hitl-outbox', {kept!r});")
    other = Desk(copy, desk.console)
    copy.goto(f"{desk.console.url}/review/trading")
    assert other.item in {"i4", "i5"}
    with desk.page.expect_response(re.compile("/verdict$")):
        desk.rest()
    expect(copy.locator("#outbox")).not_to_contain_text("Sending")

    assert [one.item for one in desk.given()] == ["i0"]


def test_another_persons_decisions_are_not_sent(serve: Serve):
    desk = serve(*items(1))
    left = '[{"id":"0000-0000","by":"ben","item":"i0","view":"","title":"x","body":{"verdict":"approve"},"due":0}]'
    desk.page.add_init_script(f"sessionStorage.setItem('hitl-outbox', {left!r});")
    desk.open()
    desk.rest()

    expect(desk.page.locator("#outbox")).to_contain_text("sent when ben signs in here")
    assert desk.given() == []


def test_what_comes_later_is_shown_by_itself(serve: Serve):
    desk = serve(review("i9", 0, queues=("manager",)))
    desk.page.goto(f"{desk.console.url}/review/trading")
    expect(desk.page.get_by_role("heading", name="Nothing waits for you here")).to_be_visible()
    desk.console.fold(review("i1", 1, people=1))
    desk.rest(6_000)

    assert desk.item == "i1"


def test_after_a_long_silence_the_items_go_back(serve: Serve):
    desk = serve(*items(2)).open()
    with desk.page.expect_response(re.compile("/items/i1/claim$")):
        desk.rest(11 * 60_000)
    expect(desk.page.get_by_role("heading", name="Are you still there?")).to_be_visible()
    desk.page.get_by_role("button", name="Go on").click()

    assert desk.item == "i0"


# --- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("C8")
def test_a_client_sees_its_own_queue_and_its_own_items_only(serve: Serve):
    claim = review("c1", 7, queues=("client",), people=1, content={"text": "Clinically proven.", "source": "Study."})
    desk = serve(*items(1), claim, by="carl")
    desk.page.goto(f"{desk.console.url}/review")
    expect(desk.page.locator("[data-queue]")).to_have_count(1)
    expect(desk.page.locator("main")).not_to_contain_text("trading")
    desk.open("client")
    expect(desk.page.locator(".output")).to_contain_text("Clinically proven.")
    desk.page.goto(f"{desk.console.url}/review/trading")

    expect(desk.page.get_by_role("heading", name="There is no such queue for you")).to_be_visible()


@pytest.mark.parametrize("path", ["/review", "/review/trading"])
def test_a_viewer_is_told_that_they_may_look_only(serve: Serve, path: str):
    desk = serve(*items(1), by="vic")
    desk.page.goto(desk.console.url + path)

    expect(desk.page.get_by_role("heading", name="You may look only")).to_be_visible()
    expect(desk.page.get_by_role("button", name="Approve")).to_have_count(0)


# --- what outsiders write ---------------------------------------------------------------------------------------------

HOSTILE = {
    "script": "<script>window.pwned = 1</script><img src=http://evil.example/x.png onerror='window.pwned = 1'>",
    "link": "javascript:window.pwned=1 [click](http://evil.example) http://evil.example/a",
    "template": "{{7*7}} ${7*7} %s \\u003cb\\u003e &lt;b&gt; <!-- --> ]]>",
    "bidi": "pay \u202e00.1\u202c now \u2066x\u2069",
    "unseen": "a\u200bb\u200dc\ufeffd\u00ade\u2060f\U000e0041g\u3164h",
    "alike": "p\u0430ypal \u0391pple",
    "rtl": "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f4\U000e0067\U000e007f \u2764\ufe0f",
    "long": "word " * 2_000,
    "solid": "W" * 10_000,
}


def hostile(text: str) -> dict[str, Any]:
    """Return an action with this text in every field that may hold one."""
    short, some = text[:150], text[:3_000]
    entity = {"account": short, "campaign": short}
    return {
        "agent": {"id": short, "version": short},
        "changes": [{"entity": entity, "field": short, "before": some, "after": f"{some}!", "unit": text[:32]}],
        "evidence": [{"signal": short, "value": 1, "before": 2, "better": text[:16], "ref": text[:2_000]}],
        "content": {
            "text": text,
            "source": text,
            "language": text[:64],
            "platform": text[:64],
            "assets": [{"sha256": "a" * 64, "media_type": short, "uri": text[:2_000]}],
        },
        "destination": short,
        "context": {short: some},
        "flags": [short],
        "rationale": text,
        short: some,
    }


def test_hostile_words_are_text_and_nothing_of_them_is_hidden(serve: Serve):
    records = [
        review(f"i{n}", n, action_id=f"act-{n}", decide_by_ms=NOW_MS + 600_000 + n * 1_000, people=1, **hostile(text))
        for n, text in enumerate(HOSTILE.values())
    ]
    desk = serve(*records).open()
    for n, text in enumerate(HOSTILE.values()):
        expect(desk.page.locator(".card")).to_have_attribute("data-item", f"i{n}")
        desk.press("c")
        desk.page.get_by_label("Text", exact=True).fill(f"{text}?")
        _is_text(desk.page, text)
        desk.press("Escape", "Space")


@pytest.mark.parametrize(
    ("name", "mark", "count"), [("bidi", "unseen", 4), ("unseen", "unseen", 7), ("alike", "mixed", 2)]
)
def test_what_deceives_the_eye_is_marked(serve: Serve, name: str, mark: str, count: int):
    desk = serve(*items(1, content={"text": HOSTILE[name]})).open()

    expect(desk.page.locator(f".output > .words .{mark}")).to_have_count(count)


def _is_text(page: Page, text: str) -> None:
    assert page.evaluate("window.pwned") is None
    assert page.locator(".card").locator("script, img, iframe, a, [style], [onerror]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{text[:20]} is wider than the page"
    for where in (".output > .words", ".source .words", ".says .words"):
        _holds_all(page, where, text)


def _holds_all(page: Page, where: str, text: str) -> None:
    """Every character is there to be read; what cannot be seen has its mark, and no other character is in its place."""
    plain = page.evaluate(
        "(where) => { const one = document.querySelector(where).cloneNode(true);"
        " one.querySelectorAll('.unseen').forEach((mark) => mark.replaceWith(String.fromCodePoint("
        "parseInt(mark.title.slice(2), 16)))); return one.textContent; }",
        where,
    )
    assert plain == text


def test_what_no_model_knows_what_a_switch_covers_and_what_went_wrong_is_said(serve: Serve):
    beside = {"covered": (7,), "exception": "platform", "flagged": True}
    desk = serve(*items(1, beside=beside, force=True)).open()
    card = desk.page.locator(".card")

    expect(card).to_contain_text("One part of this action nobody here knows")
    expect(card).to_contain_text("/force")
    expect(card).to_contain_text("A kill switch covers it")
    expect(card).to_contain_text("proposes it anew, as your own action")
    expect(desk.page.get_by_role("button", name="Approve anew")).to_be_visible()


@pytest.mark.behaviour("E16")
def test_the_card_says_what_the_agent_may_do_and_hides_a_score_that_is_to_be_hidden(serve: Serve):
    policy = make_policy(classes={"bid.adjust": {"hide_score": True}})
    desk = serve(*items(1), policy=policy).open()

    expect(desk.page.locator(".limits")).to_contain_text("runs it alone inside these limits")
    expect(desk.page.locator(".limits")).to_contain_text("20")
    expect(desk.page.locator(".why")).to_contain_text("hidden until somebody has judged it")
    expect(desk.page.locator(".card")).not_to_contain_text("0.40")


# --- for everybody ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(serve: Serve, scheme: Any):
    desk = serve(*items(2, force=True, rationale="word " * 300, content={"text": "a", "source": "b"}), clock=False)
    page = desk.page
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.goto(f"{desk.console.url}/review")
    page.locator(".queue").wait_for()
    assert faults_of(page) == []
    desk.open()
    assert faults_of(page) == []
    desk.press("x")
    assert faults_of(page) == []
    desk.press("Escape", "c")
    page.get_by_label("bid in EUR").fill("1.95")
    page.locator(".checked .note").wait_for()
    assert faults_of(page) == []


def test_a_narrow_screen_needs_no_scrolling_sideways(serve: Serve):
    desk = serve(*items(1, force=True, content={"text": "a" * 300, "source": "b"}))
    desk.page.set_viewport_size({"width": 360, "height": 740})
    desk.open()
    assert desk.page.evaluate("document.documentElement.scrollWidth") == 360
    desk.press("c")
    assert desk.page.evaluate("document.documentElement.scrollWidth") == 360
