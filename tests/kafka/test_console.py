"""The console over a real Kafka: from a proposal to what was executed, and what is lost when something goes away.

One process with control, router, desk and executor works the whole time; consoles come and go beside it. What goes away
under a reviewer is the console, Kafka or the database: nothing is said to stand that does not, nothing counts twice.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from hitl_stream.client import Action, Publisher
from hitl_stream.console.people import DAY_MS, Scope, open_people
from hitl_stream.dev.broker import free_ports
from hitl_stream.dev.site import make_control_keys
from hitl_stream.lane.admin import apply
from hitl_stream.settings import load
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wiring import make_router_keys
from support import dying_console
from support.cli import environ, until_ready
from support.kafka import Topics, read, running, within
from support.make import action_dict, change, iso
from support.postgres import cluster, required

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

POLICY = Path("src/hitl_stream/dev/policies/acme.yaml").resolve()
PARTITIONS = 2
SECONDS_MAX = 90.0
POLL_S = 0.1
STOP_S_MAX = 40.0
ASK_S_MAX = 60.0
UNAVAILABLE = (503, "urn:hitl:unavailable")
UNKNOWN = (504, "urn:hitl:unknown_outcome")


@dataclass
class Site:
    """An installation, its console, and ana, who trades."""

    state: Path
    kafka: str
    prefix: str
    env: dict[str, str]
    tokens: dict[str, str] = field(default_factory=dict)
    port: int = 0
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        """Start a process of `hitl run`, or a script; its log goes to a file."""
        (metrics,) = free_ports(1)
        path = self.state / f"log-{len(self.running)}"
        env = environ(self.state, **self.env, **more, HITL_METRICS_PORT=str(metrics))
        with path.open("wb") as log:
            process = subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=log, cwd=self.state, env=env)
        self.running.append(process)
        try:
            until_ready(process, metrics)  # type: ignore[arg-type]
        except AssertionError as error:
            raise AssertionError(f"{error}\n{path.read_text()[-4_000:]}") from None
        return process

    def console(self, **more: str) -> subprocess.Popen[bytes]:
        """Start a console, which dies where it is told to."""
        (self.port,) = free_ports(1)
        port = {"HITL_CONSOLE_PORT": str(self.port)}
        if more:
            return self.start(dying_console.__file__, **port, **more)
        return self.start("-m", "hitl_stream", "run", "console", **port)

    def ask(self, method: str, path: str, body: Any = None, *, by: str = "ana", **query: Any) -> httpx.Response:
        """Ask the console as somebody."""
        url = f"http://127.0.0.1:{self.port}/api/v1{path}"
        headers = {"Authorization": f"Bearer {self.tokens[by]}"}
        return httpx.request(method, url, json=body, params=query, headers=headers, timeout=ASK_S_MAX)

    def propose(self, *actions: Action) -> None:
        """Let an agent propose."""

        async def send() -> None:
            async with Publisher(self.kafka, topic=self.prefix + "actions") as publisher:
                for action in actions:
                    await publisher.send(action)

        within(send())

    def given(self) -> dict[str, Any]:
        """Ask for the next item until there is one."""
        return self.all_given(1)[0]

    def all_given(self, count: int) -> list[dict[str, Any]]:
        """Ask for the next items until there are so many."""

        def given() -> list[dict[str, Any]] | None:
            items = self.ask("GET", "/queues/trading/next", count=count).json()["items"]
            return items if len(items) == count else None

        found: list[dict[str, Any]] = until(given)
        return found

    def judge(self, item: Mapping[str, Any], body: Mapping[str, Any]) -> httpx.Response:
        """Send a verdict."""
        return self.ask("POST", f"/items/{item['item']}/verdict", body)

    def verdict(self, item: Mapping[str, Any], word: str, **more: Any) -> dict[str, Any]:
        """Say that a card is painted; return the body of a verdict on it."""
        painted = self.ask("POST", f"/items/{item['item']}/painted", {"view": item["view"]})
        assert painted.status_code == 200, painted.text
        return {"verdict": word, "view": item["view"], "painted": painted.json()["receipt"], **more}

    def effects(self, item: str) -> list[str]:
        """Return what ana's verdicts on an item did."""
        return [one["effect"] for one in self.ask("GET", f"/items/{item}").json().get("yours", ())]

    def records(self, topic: str) -> list[dict[str, Any]]:
        """Return what stands on a topic."""
        found: list[dict[str, Any]] = []
        for part in range(PARTITIONS):
            found += [json.loads(one.value) for one in within(read(self.kafka, self.prefix + topic, part)) if one.value]
        return found


def until(question: Callable[[], Any]) -> Any:
    """Ask until there is an answer."""
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        found = question()
        if found:
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"no answer within {SECONDS_MAX:g} s")


@pytest.fixture
def site(tmp_path: Path, kafka: str, topics: Topics) -> Iterator[Site]:
    """Everything but the console."""
    with installation(tmp_path, kafka, topics.prefix) as found:
        yield found


@contextmanager
def installation(directory: Path, kafka: str, prefix: str, **more: str) -> Iterator[Site]:
    """Give everything but the console; `more` are further settings."""
    settings = load(kafka=kafka, prefix=prefix, partitions=PARTITIONS, state_dir=directory / "state")
    within(apply({"bootstrap_servers": kafka}, TopicSet(prefix, PARTITIONS)))
    make_router_keys(settings)
    env = {
        "HITL_KAFKA": kafka, "HITL_PREFIX": prefix, "HITL_PARTITIONS": str(PARTITIONS),
        "HITL_TRUST": within(make_control_keys(settings)), "HITL_POLICY": str(POLICY), "HITL_ADAPTER": "log",
        "HITL_LOG_FORMAT": "json", **more,
    }  # fmt: skip
    found = Site(directory, kafka, prefix, env)
    mine = ("items:decide", "queues:read", "actions:write", "actions:read", "feedback:read")
    within(hire(found, "ana", "trader", ("acme",), *mine))
    within(hire(found, "kim", "kill-operator", None, "switches:read", "switches:engage"))
    try:
        found.start("-m", "hitl_stream", "run", "control", "router", "desk", "executor")
        yield found
    finally:
        for process in found.running:
            process.send_signal(signal.SIGTERM)
        for process in found.running:
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()


async def hire(site: Site, name: str, role: str, tenants: tuple[str, ...] | None, *scopes: str) -> None:
    """Make an account, qualified where it decides, and a token for it."""
    people = open_people(site.env.get("HITL_PEOPLE", site.state / "state" / "people.db"))
    now_ms = time.time_ns() // 1_000_000
    try:
        await people.add(name, now_ms, tenants=tenants, roles=(role,))
        if role == "trader":
            await people.qualify(name, "bid.adjust", now_ms + DAY_MS)
        site.tokens[name] = (await people.issue(name, [Scope(one) for one in scopes], now_ms + DAY_MS, now_ms)).secret
    finally:
        await people.close()


def proposal(number: int) -> Action:
    """Return a bid that is too much for the machine."""
    now_ms = int(time.time() * 1000)
    fields = action_dict(
        action_id=f"act-{number}", changes=[change("1.20", "1.80", campaign=f"cmp-{number}")],
        proposed_at=iso(now_ms), expires_at=iso(now_ms + 3_600_000),
        rationale="It pays.",
    )  # fmt: skip
    return Action.model_validate(fields)


@pytest.mark.behaviour("A7", "B7")
def test_from_a_proposal_over_a_verdict_to_what_was_executed(site: Site):
    site.console()
    action = proposal(1)
    site.propose(action)
    item = site.given()
    card = json.loads(item["card"])
    assert (card["changes"][0]["after"], card["agent_says"]["rationale"]) == ("1.80", "It pays.")
    body = site.verdict(item, "approve", note="as planned")
    said = site.judge(item, body)
    assert said.status_code == 202, said.text
    until(lambda: site.effects(item["item"]) == ["applied"])

    async def wait() -> Any:
        async with Publisher(site.kafka, topic=site.prefix + "actions") as publisher:
            return await publisher.wait(action)

    outcome = within(wait(), SECONDS_MAX)
    assert (outcome.end, outcome.by) == ("executed", ("ana",))
    (executed,) = [one for one in site.records("execute") if one["action_id"] == "act-1"]
    assert executed["by"] == ["ana"]
    story = until(lambda: _ended(site.ask("GET", "/actions/acme/act-1").json()))
    assert {one["kind"] for one in story["records"]} == {"decision", "result"}
    (decision,) = [one["record"] for one in story["records"] if one["kind"] == "decision"]
    assert (decision["by"], decision["effect"], decision["shown"]) == ("ana", "applied", item["card"])


def _ended(story: dict[str, Any]) -> dict[str, Any] | None:
    return story if len(story.get("records", ())) == 2 else None


def test_a_proposal_over_the_console_is_the_signed_in_persons_and_they_cannot_approve_it(site: Site):
    site.console()
    action = json.loads(proposal(2).to_bytes())
    assert site.ask("POST", "/actions", action).status_code == 202
    asked = until(lambda: [one for one in site.records("reviews") if "item" in one])
    assert asked[0]["not"][-1] == "ana"
    assert site.ask("GET", "/queues/trading/next").json()["items"] == []
    assert site.ask("GET", f"/items/{asked[0]['item']}").status_code == 404


def test_a_console_killed_between_the_append_and_its_answer_loses_and_doubles_nothing(site: Site, tmp_path: Path):
    file = tmp_path / "die"
    site.console(HITL_DIE_IF=str(file))
    assert site.ask("POST", "/actions", json.loads(proposal(3).to_bytes())).status_code == 202  # by ana: not for her
    site.propose(proposal(4))
    item = site.given()
    body = site.verdict(item, "reject", code="too_large", note="not today", id="one-verdict-only")
    file.touch()
    with pytest.raises(httpx.HTTPError):
        site.judge(item, body)
    assert site.running[-1].wait(STOP_S_MAX) == -signal.SIGKILL

    site.console()
    again = site.judge(item, body)
    assert again.status_code in (202, 404, 409), again.text  # it was read back before, or the item has ended already
    until(lambda: site.effects(item["item"]) == ["applied"])
    once_more = site.judge(item, body)
    assert once_more.status_code == 202, once_more.text
    decided = [one for one in site.records("decisions") if one["item"] == item["item"]]
    assert [(one["verdict"], one["effect"], one["note"]) for one in decided] == [("reject", "applied", "not today")]
    closed = [one for one in site.records("closed") if one["action_id"] == "act-4"]
    assert [(one["end"], one["code"]) for one in closed] == [("rejected", "too_large")]
    told = site.ask("GET", "/feedback").json()
    assert [(one["action_id"], one["code"], one["note"]) for one in told["feedback"]] == [
        ("act-4", "too_large", "not today")
    ]
    assert site.ask("GET", "/feedback", after=told["after"]).json()["feedback"] == []


@pytest.mark.behaviour("E15", "E16")
def test_a_switch_from_the_console_is_effective_and_it_hears_every_role_that_proves_it(site: Site):
    site.console()
    said = site.ask("POST", "/switches", {"scope": ["tenant:acme"], "mode": "HALT", "reason": "a try"}, by="kim")
    assert said.status_code == 202, said.text

    def effective() -> Any:
        switches = site.ask("GET", "/switches", by="kim").json()["switches"]
        return [one for one in switches if one["epoch"] == said.json()["epoch"] and one["state"] == "EFFECTIVE"]

    (switch,) = until(effective)
    assert (switch["scope"], switch["by"]) == (["tenant:acme"], "console")
    assert switch["reason"] == "kim at the console: a try"
    assert switch["took_ms"] > 0

    def heard() -> Any:
        told = site.ask("GET", "/instances", by="kim").json()
        found = {one["role"] for one in told["instances"] if one["holds"] and one["checked"] and one["partitions"]}
        return told if told["control"] and found == {"router", "desk", "executor"} else None

    assert until(heard)["heard"]


# --- what goes away under a reviewer ----------------------------------------------------------------------------------


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Return status and type of a problem."""
    assert answer.headers["content-type"].startswith("application/problem+json"), answer.text
    return answer.status_code, answer.json()["type"]


def counted_once(site: Site, item: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Send a verdict until it is taken, and wait until it has done something; return the one judgement there is."""
    until(lambda: site.judge(item, body).status_code == 202)
    until(lambda: site.effects(item["item"]) == ["applied"])
    again = site.judge(item, body)
    assert again.status_code == 202, again.text
    (decided,) = [one for one in site.records("decisions") if one["item"] == item["item"]]
    return decided


@pytest.mark.behaviour("F7")
def test_a_verdict_while_kafka_is_away_is_no_202_and_counts_once_when_it_is_sent_again(tmp_path: Path):
    # Its controller, which sleeps with it, is not to take it for gone: nor is a machine that is busy.
    settings = {"broker.session.timeout.ms": "60000"}
    with running("jar", settings=settings) as broker, installation(tmp_path, broker.bootstrap, "away.") as site:
        site.console()
        site.propose(*(proposal(n) for n in range(3)))
        items = site.all_given(3)
        bodies = [site.verdict(item, "approve", id=f"verdict-{n}") for n, item in enumerate(items)]
        assert counted_once(site, items[0], bodies[0])["effect"] == "applied"

        broker.pause()
        # The producer has a connection still: nobody can tell what becomes of the first. Of the second, it is known.
        silent = [site.judge(*one) for one in zip(items[1:], bodies[1:], strict=True)]
        broker.resume()

        assert {problem(one) for one in silent} <= {UNAVAILABLE, UNKNOWN}
        judged = [counted_once(site, *one) for one in zip(items[1:], bodies[1:], strict=True)]
        assert [(one["verdict"], one["effect"]) for one in judged] == [("approve", "applied")] * 2
        executed = until(lambda: found if len(found := site.records("execute")) >= 3 else None)
        assert sorted(one["action_id"] for one in executed) == ["act-0", "act-1", "act-2"]
        assert site.running[-1].poll() is None, "the console went on"


@pytest.mark.behaviour("F7")
def test_a_verdict_while_the_database_is_away_is_no_202_and_the_console_comes_back_by_itself(
    tmp_path: Path, kafka: str, topics: Topics
):
    with (
        cluster(required()) as database,
        installation(tmp_path, kafka, topics.prefix, HITL_STORE=database.dsn, HITL_PEOPLE=database.dsn) as site,
    ):
        site.console()
        site.propose(proposal(1))
        item = site.given()
        body = site.verdict(item, "approve", id="one-verdict-only")

        database.stop()
        away = site.judge(item, body)
        assert problem(away) == UNAVAILABLE
        assert site.records("verdicts") == []
        database.start()

        assert counted_once(site, item, body)["effect"] == "applied"
        assert len(site.records("verdicts")) == 1
        assert site.running[-1].poll() is None, "the console went on"


@pytest.mark.behaviour("F7")
def test_a_claim_outlives_the_console_that_gave_it_and_its_verdict_counts_once(site: Site):
    within(hire(site, "ben", "trader", ("acme",), "items:decide", "queues:read"))
    site.console()
    site.propose(proposal(1))
    item = site.given()
    body = site.verdict(item, "approve", id="one-verdict-only")
    site.running[-1].kill()
    site.running[-1].wait(STOP_S_MAX)

    site.console()
    assert site.ask("GET", "/queues/trading/next", by="ben").json()["items"] == []
    assert site.ask("POST", f"/items/{item['item']}/claim", by="ben").status_code in (404, 409)
    assert site.ask("POST", f"/items/{item['item']}/claim").status_code == 200
    assert counted_once(site, item, body)["by"] == "ana"
    assert len(site.records("verdicts")) == 1
