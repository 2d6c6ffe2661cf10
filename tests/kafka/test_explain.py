"""`hitl explain` and the dead letters, on a real log."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import hitl_stream.cli.main  # noqa: F401  # so that it is in sys.modules, where the package's own `main` cannot hide it
from hitl_stream.core.commands import ReleaseRequest
from hitl_stream.lane.explain import Story, asked, explain
from hitl_stream.wire.topics import CONTROL_TOPICS, ROUTER_TOPICS
from support.history import Installation, action
from support.kafka import Topics, send, within
from support.oncall import OnCall

pytestmark = pytest.mark.kafka
HOME, AWAY = 1, 0


@pytest.fixture
def place(kafka: str, topics: Topics) -> Installation:
    installation = Installation(kafka, topics.prefix)
    within(installation.create())
    return installation


def told(place: Installation, text: str, tenant: str = "", **options: Any) -> Story:
    return within(explain(place.client, place.topics, [place.actions], asked(text, tenant, **options), tenant))


def whats(story: Story) -> list[str]:
    return [entry.what for entry in story.entries]


@pytest.fixture
def moved(place: Installation) -> Installation:
    """Two actions, one of them found away from home; then the first of them again."""

    async def scenario() -> None:
        first = action(1)
        await place.publish(AWAY, [first])
        await place.route(AWAY)
        await place.publish(HOME, [action(12, after="9.00"), first, b'{"action_id":"act-1", broken'])
        await place.route(HOME)

    within(scenario())
    return place


def test_a_story_is_told_in_the_order_of_time(moved: Installation):
    story = told(moved, "acme/act-1")

    assert whats(story) == ["actions", "actions", "actions", "execute", "closed", "dlq"]
    proposed, at_home, again, executed, closed, dead = story.entries
    assert at_home.says["via"]["from"] == proposed.place == f"{moved.actions}/0/0"
    assert again.place == f"{moved.actions}/1/2"
    assert executed.says["origin"] == at_home.place
    assert executed.says["outcome"] == "EXECUTE"
    assert closed.says["why"] == "duplicate"
    assert dead.says["error"] == "not_json"
    assert json.loads(proposed.action or "")["action_id"] == "act-1"


def test_an_id_within_another_id_or_text_is_not_meant(moved: Installation):
    assert whats(told(moved, "acme/act-12")) == ["actions", "review"]
    assert whats(told(moved, "acme/act")) == []
    assert whats(told(moved, "other/act-12")) == []


def test_with_its_account_one_partition_is_read_and_the_origin_is_fetched(moved: Installation):
    story = told(moved, "acme/act-1", entity="acc-1/cmp-1")
    assert story.entries[0].place == f"{moved.actions}/0/0"
    assert whats(told(moved, "acme/act-1", entity="acc-3")) == ["actions"]


def test_the_nearest_ids_are_named(moved: Installation):
    assert told(moved, "acme/act-2").nearest[:2] == ("acme/act-12", "acme/act-1")


def test_a_tenant_can_be_left_out_where_there_is_one(moved: Installation):
    assert whats(told(moved, "act-12", tenant="acme")) == ["actions", "review"]


def test_canaries_are_left_out(moved: Installation):
    canary = b'{"id":"a/0/1#0","tenant":"acme","action_id":"act-12","purpose":"%s"}'
    topic = moved.topics.name("review.seeded")
    within(send(moved.bootstrap, topic, [canary % b"canary", canary % b"audit"], HOME))
    assert whats(told(moved, "acme/act-12")) == ["actions", "review", "review.seeded"]


# --- switches ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def oncall(kafka: str, topics: Topics, tmp_path: Path) -> OnCall:
    place = OnCall(kafka, topics.prefix, tmp_path)
    return place.begin((*ROUTER_TOPICS, *CONTROL_TOPICS, "results"))


@pytest.fixture
def held(oncall: OnCall) -> Installation:
    """An action that was sent back under a switch, which still holds, decided again, and executed."""
    installation = Installation(oncall.bootstrap, oncall.prefix)
    installation.under(oncall.log().control)

    async def decide() -> None:
        await installation.publish(HOME, [action(1, campaign="cmp-7")])
        await installation.route(HOME)

    within(decide())
    epoch = oncall.engage("campaign:cmp-7", reason="wrong landing page")
    oncall.command("ben", partial(ReleaseRequest, epochs=(epoch,), reason="mended"))

    async def carry_on() -> None:
        await installation.send_back((await installation.to_execute(HOME))[0], epoch)
        await installation.pass_(HOME)
        await installation.executed((await installation.to_execute(HOME))[1])

    within(carry_on())
    return installation


def test_a_story_tells_which_switch_held_it_and_who_engaged_that(held: Installation, oncall: OnCall):
    about = asked("acme/act-1")
    story = within(explain(held.client, held.topics, [held.actions], about, trust=oncall.trust))

    assert whats(story) == ["actions", "execute", "control", "held", "execute", "results"]
    engaged, parked, again, executed = story.entries[2:]
    assert engaged.place == f"{held.topics.name('control')}/0/1"
    assert engaged.says == {
        "typ": "engage", "switch": 1, "mode": "HALT", "scope": ["campaign:cmp-7"], "by": "ana",
        "reason": "wrong landing page", "source": "person",
    }  # fmt: skip
    assert parked.says["parked"] == {"by": "executor", "epoch": 0, "switches": [1]}
    assert again.says["attempt"] == 1
    assert executed.says["present"] == {"/changes/0": "1.00"}
    assert executed.says["platform"] == {"code": 200, "ref": "op-1", "text": None}
    assert story.untold == ""


def test_without_trust_a_switch_is_only_named(held: Installation):
    story = told(held, "acme/act-1")
    assert whats(story) == ["actions", "execute", "held", "execute", "results"]
    assert "HITL_TRUST" in story.untold


def test_what_no_switch_held_says_nothing_of_control(moved: Installation):
    assert told(moved, "acme/act-1").untold == ""


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def hitl(moved: Installation, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Run a command line on the installation; return exit code, stdout, stderr."""
    module = sys.modules["hitl_stream.cli.main"]
    monkeypatch.setattr(module, "VERBS", ("topics", "logs", "dlq", "tail"))
    where = ["--kafka", moved.bootstrap, "--prefix", moved.prefix, "--partitions", "2"]

    def call(*arguments: str) -> tuple[int, str, str]:
        code = module.run([*arguments, *where])
        return code, *capfd.readouterr()

    return call


def test_explain_prints_the_story_and_ends_with_1_for_an_unknown_id(hitl):
    code, shown, _ = hitl("explain", "acme/act-1")
    assert code == 0
    assert "note:" not in shown
    assert "moved home" in shown
    assert "refused, duplicate" in shown
    code, shown, _ = hitl("explain", "acme/act-2")
    assert code == 1
    assert "acme/act-12" in shown
    code, shown, _ = hitl("explain", "acme/act-2", "--json")
    assert code == 1
    assert json.loads(shown)["found"] is False


def test_verify_ends_with_1_when_something_is_wrong(hitl, moved: Installation):
    code, shown, _ = hitl("verify", "--json", "--deep", "--group", moved.group)
    report = json.loads(shown)
    assert code == 0
    assert report["ok"]
    assert report["conservation"] == "ok"
    assert report["counts"]["inputs"] == 5
    assert report["counts"]["pending.execute"] == 1
    assert report["figures"] == {}
    within(moved.publish(HOME, [action(5)]))
    within(moved.commit(HOME, 5))
    code, shown, _ = hitl("verify", "--group", moved.group)
    assert code == 1
    assert f"{moved.actions}/1/4" in shown
    assert "pending: execute 1, review 1" in shown


def test_dead_letters_are_listed_and_shown(hitl, moved: Installation):
    code, shown, _ = hitl("dlq", "list", "--json")
    listed = json.loads(shown)
    (letter,) = listed["letters"]
    assert (code, listed["matched"], letter["error"], letter["source"]) == (0, 1, "not_json", f"{moved.actions}/1/3")
    assert json.loads(hitl("dlq", "list", "--json", "--error", "encoding")[1])["letters"] == []
    code, shown, _ = hitl("dlq", "show", letter["place"])
    assert code == 0
    assert '{"action_id":"act-1", broken' in shown
    assert hitl("dlq", "show", "1/77")[0] == 1
    assert hitl("dlq", "show", f"{moved.actions}/1/0")[0] == 2


def test_dead_letters_of_agents_are_published_again_as_they_came_and_others_are_left(hitl, moved: Installation):
    within(send(moved.bootstrap, moved.topics.name("dlq"), [b"from nowhere"], AWAY))
    code, shown, _ = hitl("dlq", "replay", "--dry-run")
    assert (code, "1 of 2 dead letters would be published again" in shown) == (0, True)
    code, shown, _ = hitl("dlq", "replay", "--json", "--error", "not_json")
    assert (code, json.loads(shown)) == (0, {"matched": 1, "published": 1, "left": {}})
    code, shown, _ = hitl("tail", "actions", "--since", "1h", "--json", "--count", "6")
    rows = [json.loads(line) for line in shown.splitlines()]
    again = [row["partition"] for row in rows if row["value"] == '{"action_id":"act-1", broken']
    assert (code, again) == (0, [HOME, HOME]), "as it came, where it came"
    code, shown, _ = hitl("dlq", "replay", "--json")
    assert json.loads(shown)["left"] == {"no agent's: it came from nowhere": 1}


def test_tail_shows_a_line_a_record_and_no_control_characters(hitl, moved: Installation):
    within(send(moved.bootstrap, moved.topics.name("closed"), [b'{"why":"\\u001b[2Jevil","end":"refused"}'], AWAY))
    code, shown, _ = hitl("tail", "execute", "closed", "--since", "1h", "--count", "3")
    lines = shown.splitlines()
    assert (code, len(lines)) == (0, 3)
    assert any("outcome=EXECUTE" in line and "action_id=act-1" in line for line in lines)
    assert any("why=\\x1b[2Jevil" in line for line in lines)
    assert "\x1b[2J" not in shown


def test_a_dead_letter_cannot_speak_to_the_terminal(hitl, moved: Installation):
    within(send(moved.bootstrap, moved.topics.name("dlq"), [b"\x1b[2J\xff\xe2\x80\xaeevil [red]"], AWAY))
    _, shown, _ = hitl("dlq", "show", "0/0")
    assert "\x1b" not in shown
    assert "\\x1b[2J\\xff\\u202eevil [red]" in shown


def test_topics_can_be_planned_and_checked_by_hand(hitl):
    code, shown, _ = hitl("topics", "plan", "--json")
    rows = {row["name"]: row["state"] for row in json.loads(shown)["topics"]}
    assert code == 0
    assert (rows["execute"], rows["reviews"]) == ("ok", "absent")
    assert hitl("topics", "check")[0] == 1
    assert hitl("topics", "apply")[0] == 0
    code, shown, _ = hitl("topics", "check", "--json")
    assert (code, json.loads(shown)) == (0, {"ok": True, "problems": []})
