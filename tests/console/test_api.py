"""`/api/v1`, route by route, over a view and accounts of its own: who may, who may not, and what is written."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.console.app import BODY_BYTES_MAX
from hitl_stream.console.auth import FAILURES_MAX, FAILURES_MS
from hitl_stream.console.browser import COOKIE
from hitl_stream.console.live import Live
from hitl_stream.console.office import HELD_MAX
from hitl_stream.console.people import FRESH_MS, Scope
from hitl_stream.console.problems import MEDIA_TYPE
from hitl_stream.console.store import LEASE_MS
from hitl_stream.core.action import Agent
from hitl_stream.core.commands import Contained, Engage, Heartbeat, ReleaseRequest, Waiting
from hitl_stream.core.control import CONFIRM_MS_MAX, RELEASE_MS_MIN, Pending
from hitl_stream.core.errors import UnknownOutcomeError, UnreachableError
from hitl_stream.core.events import Mode, Purpose, Refusal
from hitl_stream.core.review import State
from hitl_stream.core.switches import Switch
from hitl_stream.core.verdicts import BatchRelease, PairChoice, Skipped, Verdict
from hitl_stream.lane.heartbeats import Beat
from hitl_stream.lane.instances import Seen as Acked
from hitl_stream.wire.desk_records import REVIEW, Feedback, NeedRow
from hitl_stream.wire.home import home
from hitl_stream.wire.records import VIA, Ack, encode, time_text
from hitl_stream.wire.seal import SEAL_HEADER, sealed
from hitl_stream.wire.signing import new_signing_key, sign
from hitl_stream.wire.verdicts import Given, read_verdict
from support.console import API, PARTITIONS, VIA_KEY, Front, front, pair, run
from support.make import NOW_MS, FakeRecord, acme, action_bytes, change, iso, make_policy
from support.people import CLUSTER, entry
from support.signed import CONTROL as CONTROL_KEY
from support.signed import claims as control_claims
from support.view import closed, flagged, folded, judged, lot, raised, record, result, review

Scenario = Callable[[Front], Awaitable[Any]]
Ask = Callable[..., Any]
OURS = {"X-Hitl-Console": "1"}
"""What a page of the console sends along."""
VIEW = "0" * 64
RECEIPT = "1." + "0" * 32
ROUTES: tuple[tuple[str, str, Any, Scope | None], ...] = (
    ("GET", "/me", None, None),
    ("DELETE", "/sessions", None, None),
    ("POST", "/actions", {}, Scope.PROPOSE),
    ("GET", "/actions/acme/act-1", None, Scope.READ),
    ("POST", "/actions/acme/act-1/reverse", {"reason": "a slip"}, Scope.PROPOSE),
    ("GET", "/search", None, Scope.READ),
    ("GET", "/feedback", None, Scope.FEEDBACK),
    ("GET", "/queues", None, Scope.QUEUES),
    ("GET", "/reasons", None, Scope.QUEUES),
    ("GET", "/exceptions", None, Scope.QUEUES),
    ("GET", "/queues/trading/next", None, Scope.DECIDE),
    ("DELETE", "/rest", None, Scope.DECIDE),
    ("GET", "/me/figures", None, Scope.DECIDE),
    ("GET", "/watch", None, Scope.QUEUES),
    ("GET", "/gates", None, Scope.QUEUES),
    ("GET", "/quiz", None, Scope.DECIDE),
    ("POST", "/quiz/bid.adjust", None, Scope.DECIDE),
    ("POST", "/quiz/bid.adjust/answer", {"quiz": "0" * 16, "at": 0, "approve": True}, Scope.DECIDE),
    ("GET", "/items/i1", None, Scope.QUEUES),
    ("POST", "/items/i1/claim", None, Scope.DECIDE),
    ("DELETE", "/items/i1/claim", None, Scope.DECIDE),
    ("POST", "/items/i1/painted", {"view": VIEW}, Scope.DECIDE),
    ("POST", "/items/i1/check", {"changes": []}, Scope.DECIDE),
    ("POST", "/items/i1/verdict", {"verdict": "approve", "view": VIEW, "painted": RECEIPT}, Scope.DECIDE),
    ("GET", "/batches", None, Scope.QUEUES),
    ("POST", "/batches/acme/acc-17/b-7/painted", {"view": VIEW}, Scope.RELEASE_BATCH),
    ("POST", "/batches/acme/acc-17/b-7/release", {"view": VIEW, "painted": RECEIPT}, Scope.RELEASE_BATCH),
    ("GET", "/pairs/next", None, Scope.PAIRS),
    ("POST", "/pairs/p-1/painted", {"view": VIEW}, Scope.PAIRS),
    ("POST", "/pairs/p-1/verdict", {"choice": "tie", "view": VIEW, "painted": RECEIPT}, Scope.PAIRS),
    ("GET", "/switches", None, Scope.SWITCHES),
    ("GET", "/instances", None, Scope.SWITCHES),
    ("GET", "/scopes", None, Scope.ENGAGE),
    ("GET", "/live", None, Scope.QUEUES),
    ("POST", "/switches", {"scope": ["tenant:acme"], "mode": "HALT"}, Scope.ENGAGE),
    ("POST", "/commands", {"jws": "a.b.c"}, Scope.COMMANDS),
)
NAMED = [f"{method} {path}" for method, path, *_ in ROUTES]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Run a scenario over a console into which records were folded."""

    def asked(scenario: Scenario, *records: FakeRecord, **parts: Any) -> Any:
        async def go() -> Any:
            async with front(tmp_path, *records, **parts) as found:
                return await scenario(found)

        return run(go())

    return asked


def problem(response: Any, status: int, type_: str) -> dict[str, Any]:
    """Return the body of a problem, which must be this one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail", "instance", "todo"}
    assert body["type"] == f"urn:hitl:{type_}"
    assert body["status"] == status
    return dict(body)


def claims(found: Front, index: int = -1) -> Any:
    """Return the claims of a judgement that was appended; its signature must be good to a desk."""
    value = encode(found.log.verdicts()[index])
    given = read_verdict(value, NOW_MS, found.watch.control.keys, CLUSTER)
    assert isinstance(given, Given), given
    return given.claims


# --- the door ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES, ids=NAMED)
def test_nobody_gets_in_without_a_token(ask: Ask, method: str, path: str, body: Any, scope: Any):
    async def scenario(found: Front) -> None:
        problem(await found.ask(method, path, None, body), 401, "not_signed_in")
        problem(await found.ask(method, path, None, body, token="no such token"), 401, "not_signed_in")
        assert found.log.written == []

    ask(scenario, review(), names=())


def test_the_routes_are_those_of_the_document_and_signing_in(ask: Ask):
    async def scenario(found: Front) -> None:
        document = found.app.openapi()
        known = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
        asked = {(method, path) for method, path, *_ in ROUTES}

        assert len(known) == len(asked) + 1
        assert ("POST", f"{API}/sessions") in known

    ask(scenario, names=())


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES, ids=NAMED)
def test_a_token_is_for_its_scopes_only(ask: Ask, method: str, path: str, body: Any, scope: Scope | None):
    async def scenario(found: Front) -> None:
        other = next(one for one in (Scope.READ, Scope.QUEUES) if one is not scope)
        token = await found.token("ana", (other,))
        response = await found.ask(method, path, None, body, token=token)
        if scope is None:
            assert response.status_code in (200, 204)
        else:
            problem(response, 403, "scope")

    ask(scenario, review(), names=("ana",))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [route[:3] for route in ROUTES if route[3] in (Scope.DECIDE, Scope.RELEASE_BATCH, Scope.PAIRS)],
)
@pytest.mark.behaviour("B7")
def test_a_service_never_decides_whatever_its_token_says(ask: Ask, method: str, path: str, body: Any):
    async def scenario(found: Front) -> None:
        response = await found.ask(method, path, "bidder-7", body)

        assert "a service never decides" in problem(response, 403, "service")["title"]

    ask(scenario, review(), names=("bidder-7",))


def test_a_token_whose_time_is_over_lets_nobody_in(ask: Ask):
    async def scenario(found: Front) -> None:
        token = (await found.people.issue("ana", (Scope.QUEUES,), NOW_MS + 1_000, NOW_MS)).secret
        assert (await found.ask("GET", "/queues", None, token=token)).status_code == 200
        found.now_ms += 1_000
        problem(await found.ask("GET", "/queues", None, token=token), 401, "not_signed_in")

    ask(scenario, names=("ana",))


def test_a_role_that_was_taken_away_is_gone_with_the_next_request(ask: Ask):
    async def scenario(found: Front) -> None:
        token = await found.token("ana")
        assert (await found.ask("GET", "/queues/trading/next", token=token)).status_code == 200
        await found.people.set_roles("ana", remove=("trader",))
        problem(await found.ask("GET", "/queues/trading/next", token=token), 403, "scope")

    ask(scenario, names=("ana",))


def test_too_many_wrong_secrets_and_an_address_has_to_wait(ask: Ask):
    async def scenario(found: Front) -> None:
        for _ in range(FAILURES_MAX):
            assert (await found.ask("GET", "/me", None, token="wrong")).status_code == 401
        found_ = await found.ask("GET", "/me", "ana")
        problem(found_, 429, "too_many")
        assert int(found_.headers["retry-after"]) > 0
        found.now_ms += FAILURES_MS
        assert (await found.ask("GET", "/me", "ana")).status_code == 200

    ask(scenario, names=("ana",))


def test_a_cookie_is_not_taken_beside_a_token_nor_from_who_is_no_page_of_ours(ask: Ask):
    async def scenario(found: Front) -> None:
        cookie = {"Cookie": f"{COOKIE}={await found.session('ana')}"}
        problem(await found.ask("GET", "/me", "ana", headers=cookie | OURS), 400, "cookie")
        problem(await found.ask("GET", "/me", None, headers=cookie), 400, "cookie")
        assert (await found.ask("GET", "/me", None, headers=cookie | OURS)).json()["name"] == "ana"

    ask(scenario, names=("ana",))


def test_a_token_in_a_cookie_lets_nobody_in(ask: Ask):
    async def scenario(found: Front) -> None:
        cookie = {"Cookie": f"{COOKIE}={await found.token('ana')}"}
        problem(await found.ask("GET", "/me", None, headers=cookie | OURS), 401, "not_signed_in")

    ask(scenario, names=("ana",))


CHANGING = [route for route in ROUTES if route[0] != "GET"]
FOREIGN: tuple[dict[str, str], ...] = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:9999"},
    {"Origin": "http://localhost.evil.example"},
    {},
    {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://localhost", "Sec-Fetch-Site": "same-site"},
)


@pytest.mark.parametrize(("method", "path", "body", "scope"), CHANGING, ids=[f"{row[0]} {row[1]}" for row in CHANGING])
def test_what_another_site_makes_a_browser_send_changes_nothing(
    ask: Ask, method: str, path: str, body: Any, scope: Any
):
    async def scenario(found: Front) -> None:
        cookie = {"Cookie": f"{COOKIE}={await found.session('ana')}"}
        for origin in FOREIGN:
            problem(await found.ask(method, path, None, body, headers=cookie | OURS | origin), 403, "origin")
        assert found.log.written == []
        assert found.commands == []

    ask(scenario, review("i1", 1), names=("ana",))


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "localhost@evil.example"])
def test_another_host_is_not_served(ask: Ask, host: str):
    async def scenario(found: Front) -> None:
        problem(await found.ask("GET", "/me", "ana", headers={"Host": host}), 421, "host")

    ask(scenario, names=("ana",))


def test_other_origins_are_told_nothing(ask: Ask):
    async def scenario(found: Front) -> None:
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        for method in ("GET", "OPTIONS"):
            response = await found.ask(method, "/me", "ana", headers=headers)
            assert not [name for name in response.headers if name.startswith("access-control")]

    ask(scenario, names=("ana",))


def test_a_body_that_is_too_long_is_not_read(ask: Ask):
    async def scenario(found: Front) -> None:
        problem(await found.ask("POST", "/actions", "ana", b" " * (BODY_BYTES_MAX + 1)), 413, "too_large")

    ask(scenario, names=("ana",))


def test_answers_are_not_kept_and_not_guessed_at(ask: Ask):
    async def scenario(found: Front) -> None:
        headers = (await found.ask("GET", "/me", "ana")).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]

    ask(scenario, names=("ana",))


def test_an_unknown_route_and_an_unknown_method_are_problems_of_the_one_shape(ask: Ask):
    async def scenario(found: Front) -> None:
        problem(await found.ask("GET", "/nowhere", "ana"), 404, "not_found")
        problem(await found.ask("PUT", "/me", "ana"), 405, "method")

    ask(scenario, names=("ana",))


# --- people -----------------------------------------------------------------------------------------------------------


def test_who_signs_in_gets_a_session_for_all_that_they_may_do(ask: Ask):
    async def scenario(found: Front) -> None:
        token = await found.session("ana")
        me = (await found.ask("GET", "/me", token=token)).json()
        assert (me["name"], me["kind"], me["fresh"]) == ("ana", "person", True)
        assert "items:decide" in me["scopes"]
        assert "switches:engage" not in me["scopes"]
        assert (await found.ask("DELETE", "/sessions", token=token)).status_code == 204
        problem(await found.ask("GET", "/me", token=token), 401, "not_signed_in")

    ask(scenario, names=("ana",))


@pytest.mark.parametrize(
    ("name", "password"), [("ana", "wrong"), ("nobody", "correct horse battery"), ("bidder-7", "x")]
)
def test_a_wrong_password_and_an_unknown_name_are_answered_alike(ask: Ask, name: str, password: str):
    async def scenario(found: Front) -> Any:
        response = await found.ask("POST", "/sessions", None, {"name": name, "password": password})
        return problem(response, 401, "not_signed_in")

    assert "do not fit" in ask(scenario, names=("ana", "bidder-7"))["title"]


# --- actions ----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("B7")
def test_a_proposal_is_written_in_the_name_of_who_is_signed_in(ask: Ask):
    async def scenario(found: Front) -> None:
        value = action_bytes(submitted_by="the chief", by="the chief")
        response = await found.ask("POST", "/actions", "ana", value)

        assert response.status_code == 202
        ((topic, partition, written, key, headers),) = found.log.written
        via, seal = dict(headers)["hitl-via"], dict(headers)[SEAL_HEADER]
        assert (topic, partition, written) == ("actions", home("acme", "acc-17", PARTITIONS), value)
        assert key == b"acme/acc-17/cmp-204"
        assert (json.loads(via)["role"], json.loads(via)["by"]) == ("console", "ana")
        digest = hashlib.sha256(value).hexdigest()
        assert sealed({"w1": VIA_KEY}, "hitl.actions", VIA, via + b"\0" + digest.encode(), seal)
        assert response.json()["hash"] == digest

    ask(scenario, names=("ana",))


@pytest.mark.parametrize(
    ("name", "parts", "status", "type_"),
    [
        ("bidder-7", {}, 202, ""),
        ("bidder-7", {"agent": {"id": "other-agent"}}, 403, "refused"),
        ("otto", {}, 403, "tenant"),
        ("ana", {"tenant": ""}, 403, "tenant"),
        ("ana", {"action_id": "~canary"}, 422, "invalid"),
        ("ana", {"action_id": "act-1~r7k2"}, 422, "invalid"),
        ("ana", {"action_id": "act-1~undo-9f9f9f9f9f9f"}, 202, ""),
        ("bidder-7", {"action_id": "act-1~undo-9f9f9f9f9f9f"}, 422, "invalid"),
        ("ana", {"type": 7}, 422, "invalid"),
        ("ana", {"changes": "none"}, 422, "invalid"),
    ],
)
def test_who_may_propose_what(ask: Ask, name: str, parts: Any, status: int, type_: str):
    async def scenario(found: Front) -> None:
        response = await found.ask("POST", "/actions", name, action_bytes(**parts))
        if status == 202:
            assert response.status_code == 202, response.text
        else:
            problem(response, status, type_)
            assert found.log.written == []

    ask(scenario, names=(name,))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 1_000, b'{"action_id": "\xed\xa0\x80"}'])
def test_what_is_no_action_is_a_problem_and_no_crash(ask: Ask, body: bytes):
    async def scenario(found: Front) -> None:
        problem(await found.ask("POST", "/actions", "ana", body), 422, "invalid")

    ask(scenario, names=("ana",))


def test_the_story_of_an_action_tells_who_decided_and_what_came_of_it(ask: Ask):
    async def scenario(found: Front) -> None:
        story = (await found.ask("GET", "/actions/acme/act-1", "uma")).json()
        kinds = [one["kind"] for one in story["records"]]
        assert sorted(kinds) == ["decision", "result"]
        (decision,) = [one["record"] for one in story["records"] if one["kind"] == "decision"]
        assert (decision["by"], decision["verdict"], decision["effect"]) == ("ana", "approve", "applied")
        assert decision["action"]["action_id"] == "act-1"
        assert not {"purpose", "for", "not", "routed"} & {name for one in story["records"] for name in one["record"]}
        assert story["items"][0]["state"] == "APPROVED"

    ask(scenario, review(state=State.APPROVED), judged(), result(), names=("uma",))


def test_the_story_of_what_is_still_asked_tells_who_decides_nothing(ask: Ask):
    async def scenario(found: Front) -> None:
        story = (await found.ask("GET", "/actions/acme/act-1", "ana")).json()
        assert (story["undecided"], story["records"], story["items"]) == (True, [], [])
        seen = (await found.ask("GET", "/actions/acme/act-1", "uma")).json()
        assert [one["kind"] for one in seen["records"]] == ["result"]

    ask(scenario, review(), judged(), result(), names=("ana", "uma"))


@pytest.mark.parametrize(("tenant", "action_id", "by"), [("acme", "act-2", "uma"), ("acme", "act-1", "otto")])
def test_an_unknown_action_and_another_tenants_are_answered_alike(ask: Ask, tenant: str, action_id: str, by: str):
    async def scenario(found: Front) -> None:
        problem(await found.ask("GET", f"/actions/{tenant}/{action_id}", by), 404, "not_found")

    ask(scenario, closed(), names=("uma", "otto"))


def test_an_action_id_may_hold_slashes(ask: Ask):
    async def scenario(found: Front) -> None:
        assert (await found.ask("GET", "/actions/acme/2026/a%2Fb", "uma")).status_code == 200

    ask(scenario, closed(action_id="2026/a/b"), names=("uma",))


def some_feedback(*rows: tuple[str, str, str]) -> list[bytes]:
    """Return feedback about (tenant, action id, agent)."""
    return [
        encode(Feedback(
            item=f"i{n}", tenant=tenant, action_id=action_id, agent=Agent(agent),
            verdict="reject", code="off_tone", note="too loud", by="ana", at="2026-11-21T07:10:00.000Z",
        ))
        for n, (tenant, action_id, agent) in enumerate(rows)
    ]  # fmt: skip


FEEDBACK = (
    ("acme", "act-1", "bidder-7"),
    ("other", "act-2", "bidder-7"),
    ("acme", "act-3", "copy-2"),
    ("acme", "~c", "copy-2"),
)


@pytest.mark.parametrize(
    ("by", "query", "ids"),
    [
        ("uma", {}, ["act-1", "act-3"]),
        ("uma", {"agent": "copy-2"}, ["act-3"]),
        ("bidder-7", {}, ["act-1"]),
        ("bidder-7", {"agent": "copy-2"}, ["act-1"]),
        ("otto", {}, ["act-2"]),
    ],
)
def test_feedback_is_told_to_whom_it_concerns(ask: Ask, by: str, query: Any, ids: list[str]):
    async def scenario(found: Front) -> None:
        found.feedback += some_feedback(*FEEDBACK)
        told = (await found.ask("GET", "/feedback", by, **query)).json()
        assert [row["action_id"] for row in told["feedback"]] == ids
        assert (told["after"], told["more"]) == ("0:4", False)

    ask(scenario, names=("uma", "otto", "bidder-7"))


def test_feedback_goes_on_where_the_last_answer_ended(ask: Ask):
    async def scenario(found: Front) -> None:
        found.feedback += some_feedback(*FEEDBACK)
        first = (await found.ask("GET", "/feedback", "uma", limit=1)).json()
        assert (first["after"], first["more"]) == ("0:1", True)
        rest = (await found.ask("GET", "/feedback", "uma", after=first["after"])).json()
        assert [row["action_id"] for row in rest["feedback"]] == ["act-3"]
        problem(await found.ask("GET", "/feedback", "uma", after="x"), 422, "invalid")

    ask(scenario, names=("uma",))


# --- queues and claims ------------------------------------------------------------------------------------------------


def test_queues_say_how_full_they_are(ask: Ask):
    async def scenario(found: Front) -> None:
        told = (await found.ask("GET", "/queues")).json()
        by_name = {one["queue"]: one for one in told["queues"]}
        assert (by_name["trading"]["open"], by_name["trading"]["yours"]) == (2, True)
        assert by_name["brand"]["yours"] is False
        assert told["stale_s"] is not None

    ask(scenario, review("i1"), review("i2", 1), names=("ana",))


def test_a_client_sees_only_its_own_queue(ask: Ask):
    async def scenario(found: Front) -> None:
        told = (await found.ask("GET", "/queues", "carl")).json()
        assert [one["queue"] for one in told["queues"]] == ["client"]
        problem(await found.ask("GET", "/items/i1", "carl"), 404, "not_found")
        problem(await found.ask("GET", "/queues/trading/next", "carl"), 404, "not_found")
        assert (await found.ask("GET", "/items/i2", "carl")).status_code == 200

    ask(scenario, review("i1"), review("i2", 1, queues=("client",)), names=("carl",))


@pytest.mark.parametrize(("by", "status"), [("vic", 404), ("uma", 200), ("ana", 404), ("carl", 200)])
def test_an_external_clients_content_is_not_for_who_merely_looks(ask: Ask, by: str, status: int):
    async def scenario(found: Front) -> None:
        assert (await found.ask("GET", "/items/i1", by)).status_code == status

    ask(scenario, review("i1", queues=("client",)), names=(by,))


@pytest.mark.behaviour("A7")
def test_next_claims_what_is_most_pressing(ask: Ask):
    async def scenario(found: Front) -> None:
        first = (await found.ask("GET", "/queues/trading/next", "ana")).json()["items"]
        second = (await found.ask("GET", "/queues/trading/next", "ben")).json()["items"]
        third = (await found.ask("GET", "/queues/trading/next", "ben", without="i1")).json()["items"]
        assert [one["item"] for one in first + second] == ["i2", "i1"]
        assert third == []
        assert first[0]["view"] == hashlib.sha256(first[0]["card"].encode()).hexdigest()

    late, soon = NOW_MS + 3_600_000, NOW_MS + 60_000
    ask(scenario, review("i1", decide_by_ms=late), review("i2", 1, decide_by_ms=soon), names=("ana", "ben"))


@pytest.mark.behaviour("D9")
def test_next_gives_as_many_as_a_page_fetches_ahead(ask: Ask):
    async def scenario(found: Front) -> None:
        told = (await found.ask("GET", "/queues/trading/next", "ana", count=3)).json()["items"]
        assert [one["item"] for one in told] == ["i0", "i1", "i2"]
        problem(await found.ask("GET", "/queues/trading/next", "ana", count=5), 422, "invalid")

    ask(scenario, *(review(f"i{n}", n, decide_by_ms=NOW_MS + 60_000 + n) for n in range(5)), names=("ana",))


@pytest.mark.behaviour("E16")
def test_an_item_of_a_class_that_one_is_not_qualified_for_is_passed_over(ask: Ask):
    async def scenario(found: Front) -> None:
        await found.people.qualify("ana", "bid.adjust", None)
        told = (await found.ask("GET", "/queues/trading/next", "ana")).json()["items"]
        assert [one["item"] for one in told] == ["i2"]
        problem(await found.ask("POST", "/items/i1/claim", "ana"), 403, "not_qualified")

    ask(scenario, review("i1"), review("i2", 1, type="budget.reallocate"), names=("ana",))


@pytest.mark.parametrize(("queue", "status", "type_"), [("brand", 403, "role"), ("nowhere", 404, "not_found")])
def test_a_queue_of_others_gives_nothing(ask: Ask, queue: str, status: int, type_: str):
    async def scenario(found: Front) -> None:
        problem(await found.ask("GET", f"/queues/{queue}/next"), status, type_)

    ask(scenario, names=("ana",))


@pytest.mark.behaviour("A7")
def test_what_somebody_holds_nobody_else_sees_until_the_lease_is_over(ask: Ask):
    async def scenario(found: Front) -> None:
        assert (await found.ask("POST", "/items/i1/claim", "ana")).status_code == 200
        problem(await found.ask("GET", "/items/i1", "ben"), 404, "not_found")
        problem(await found.ask("POST", "/items/i1/claim", "ben"), 404, "not_found")
        found.now_ms += LEASE_MS + 1
        assert (await found.ask("POST", "/items/i1/claim", "ben")).status_code == 200

    ask(scenario, review(), names=("ana", "ben"))


def test_a_claim_that_is_given_back_is_free(ask: Ask):
    async def scenario(found: Front) -> None:
        await found.ask("POST", "/items/i1/claim", "ana")
        assert (await found.ask("DELETE", "/items/i1/claim", "ana")).status_code == 204
        assert (await found.ask("POST", "/items/i1/claim", "ben")).status_code == 200
        assert found.log.written == []

    ask(scenario, review(), names=("ana", "ben"))


def test_a_skip_of_what_was_painted_is_noted(ask: Ask):
    async def scenario(found: Front) -> None:
        _, view, receipt = await found.card("i1")
        response = await found.ask("DELETE", "/items/i1/claim", "ana", view=view, painted=receipt)
        assert response.status_code == 204, response.text
        said = claims(found)
        assert isinstance(said, Skipped)
        assert (said.item, said.by, said.how) == ("i1", "ana", "skip")

    ask(scenario, review(), names=("ana",))


@pytest.mark.parametrize("by", ["otto", "carl"])
def test_another_tenants_item_and_another_queues_are_not_there(ask: Ask, by: str):
    async def scenario(found: Front) -> None:
        for method, path in (("GET", "/items/i1"), ("POST", "/items/i1/claim")):
            problem(await found.ask(method, path, by), 404, "not_found")
        body = {"verdict": "approve", "view": VIEW, "painted": RECEIPT}
        problem(await found.ask("POST", "/items/i1/verdict", by, body), 404, "not_found")

    ask(scenario, review(), names=(by,))


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A7", "B7")
def test_a_verdict_is_signed_in_the_reviewers_name_over_what_was_shown(ask: Ask):
    async def scenario(found: Front) -> None:
        card, view, receipt = await found.card("i1")
        found.watch.at_ms += 30_000
        body = {"verdict": "approve", "view": view, "painted": receipt, "note": "as planned"}
        response = await found.ask("POST", "/items/i1/verdict", "ana", body)

        assert response.status_code == 202, response.text
        said, (record,) = claims(found), found.log.verdicts()
        assert isinstance(said, Verdict)
        assert (said.item, said.verdict, said.by, said.role, said.note) == (
            "i1",
            "approve",
            "ana",
            "trader",
            "as planned",
        )
        assert (record.shown, said.view) == (card, hashlib.sha256(card.encode()).hexdigest())
        assert said.hash == hashlib.sha256(action_bytes()).hexdigest()
        assert said.decided - said.painted == timedelta(seconds=30)
        assert response.json()["id"] == said.jti
        assert found.log.written[0][1] == home("acme", "acc-17", PARTITIONS)

    ask(scenario, review(people=1), names=("ana",))


@pytest.mark.behaviour("A9")
@pytest.mark.parametrize(("ago_ms", "dwell_s"), [(3_000, 27), (0, 30), (90_000, 0)])
def test_a_verdict_that_rested_was_decided_before_it_came_and_never_before_it_was_painted(
    ask: Ask, ago_ms: int, dwell_s: int
):
    async def scenario(found: Front) -> None:
        _, view, receipt = await found.card("i1")
        found.watch.at_ms += 30_000
        body = {"verdict": "approve", "view": view, "painted": receipt, "ago_ms": ago_ms}
        assert (await found.ask("POST", "/items/i1/verdict", "ana", body)).status_code == 202
        said = claims(found)
        assert said.decided - said.painted == timedelta(seconds=dwell_s)

    ask(scenario, review(), names=("ana",))


def test_reasons_are_the_policys_in_its_order(ask: Ask):
    async def scenario(found: Front) -> None:
        reasons = (await found.ask("GET", "/reasons", "ana")).json()["reasons"]
        assert reasons[0] == {"code": "wrong_fact", "error": "factual"}
        assert [row["code"] for row in reasons] == list(acme().policy.reasons)

    ask(scenario, review(), names=("ana",))


def _changed(value: Any, path: str = "/changes/0/after") -> dict[str, Any]:
    return {"changes": [{"path": path, "value": value}]}


@pytest.mark.parametrize(
    ("body", "outcome", "rule"),
    [(_changed("1.21"), "EXECUTE", None), (_changed("1.90"), "REVIEW", "class.auto_max_change")],
)
def test_a_change_is_tried_against_the_policy_and_nothing_is_written(ask: Ask, body: Any, outcome: str, rule: Any):
    async def scenario(found: Front) -> None:
        answer = (await found.ask("POST", "/items/i1/check", "ana", body)).json()
        assert (answer["fault"], answer["outcome"]) == (None, outcome)
        assert [row["rule"] for row in answer["reasons"]][:1] == ([rule] if rule else [])
        assert found.log.written == []

    ask(scenario, review(), names=("ana",))


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"changes": []}, "nothing is changed"),
        (_changed("1.30"), "stays what it is"),
        (_changed(1.4), "is a number; expected a number in quotes"),
        (_changed("x", "/agent/id"), "cannot be changed"),
    ],
)
def test_a_change_that_cannot_be_made_is_said_to_be_none(ask: Ask, body: Any, fault: str):
    async def scenario(found: Front) -> None:
        answer = (await found.ask("POST", "/items/i1/check", "ana", body)).json()
        assert fault in answer["fault"]
        assert (answer["outcome"], answer["reasons"]) == (None, [])

    ask(scenario, review(), names=("ana",))


def test_who_decides_cannot_be_said_in_the_body(ask: Ask):
    async def scenario(found: Front) -> None:
        problem(await found.say("i1", by="ana", reviewer="ben"), 422, "invalid")

    ask(scenario, review(), names=("ana",))


def test_an_item_that_has_changed_since_it_was_shown_is_not_judged(ask: Ask):
    async def scenario(found: Front) -> None:
        _, view, receipt = await found.card("i1")
        await found.fold(review(offset=1, score=0.9))
        body = {"verdict": "approve", "view": view, "painted": receipt}
        problem(await found.ask("POST", "/items/i1/verdict", "ana", body), 409, "changed")
        assert found.log.written == []

    ask(scenario, review(), names=("ana",))


def test_an_item_that_has_ended_is_not_judged(ask: Ask):
    async def scenario(found: Front) -> None:
        _, view, receipt = await found.card("i1")
        await found.fold(review(offset=1, state=State.EXPIRED))
        body = {"verdict": "approve", "view": view, "painted": receipt}
        problem(await found.ask("POST", "/items/i1/verdict", "ana", body), 409, "changed")

    ask(scenario, review(), names=("ana",))


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"verdict": "reject"}, "code"),
        ({"verdict": "reject", "code": "because"}, "code"),
        ({"verdict": "change", "code": "too_large"}, "changes"),
        ({"verdict": "change", "code": "too_large", "changes": [{"path": "/agent/id", "value": "x"}]}, "changes"),
        (
            {"verdict": "change", "code": "too_large", "changes": [{"path": "/changes/0/after", "value": "1.30"}]},
            "changes",
        ),
        (
            {"verdict": "change", "code": "too_large", "changes": [{"path": "/changes/0/after", "value": 1.1}]},
            "changes",
        ),
        ({"verdict": "approve", "changes": [{"path": "/changes/0/after", "value": "1.25"}]}, "changes"),
        ({"verdict": "approve", "painted": RECEIPT}, "painted"),
        ({"verdict": "approve", "note": "\x00"}, "note"),
        ({"verdict": "maybe"}, "verdict"),
    ],
)
def test_a_verdict_that_the_desk_would_refuse_is_refused_at_once(ask: Ask, more: Any, where: str):
    async def scenario(found: Front) -> None:
        response = await found.say("i1", **more)
        assert where in problem(response, 422, "invalid")["detail"]
        assert found.log.written == []

    ask(scenario, review(), names=("ana",))


@pytest.mark.behaviour("E16")
def test_a_change_names_what_it_sets(ask: Ask):
    async def scenario(found: Front) -> None:
        edits = [{"path": "/changes/0/after", "value": "1.25"}]
        assert (await found.say("i1", "change", code="too_large", changes=edits)).status_code == 202
        said = claims(found)
        assert [(edit.path, edit.value) for edit in said.changes] == [("/changes/0/after", "1.25")]

    ask(scenario, review(), names=("ana",))


def test_a_receipt_is_for_one_person_one_item_and_one_card(ask: Ask):
    async def scenario(found: Front) -> None:
        _, view, receipt = await found.card("i1", "ana")
        _, _, other = await found.card("i2", "ana")
        for wrong in (other, receipt[:-1] + ("0" if receipt[-1] != "0" else "1")):
            body = {"verdict": "approve", "view": view, "painted": wrong}
            problem(await found.ask("POST", "/items/i1/verdict", "ana", body), 422, "invalid")
        body = {"verdict": "approve", "view": view, "painted": receipt}
        problem(await found.ask("POST", "/items/i1/verdict", "ben", body), 422, "invalid")

    ask(scenario, review("i1"), review("i2", 1), names=("ana", "ben"))


def test_tier_three_wants_a_fresh_sign_in(ask: Ask):
    policy = make_policy(classes={"bid.adjust": {"tier": 3}})

    async def scenario(found: Front) -> None:
        problem(await found.say("i1"), 403, "not_fresh")
        token = await found.session("ana")
        assert (await found.say("i1", token=token)).status_code == 202
        found.now_ms += FRESH_MS + 1
        found.office.recent.clear()
        problem(await found.say("i2", token=token), 403, "not_fresh")
        assert (await found.say("i2", "reject", code="too_large", token=token)).status_code == 202

    ask(scenario, tiered("i1", 0, 3), tiered("i2", 1, 3), policy=policy, names=("ana",))


def tiered(item: str, offset: int, tier: int) -> FakeRecord:
    """Return an item of a tier, sealed anew."""
    found = review(item, offset)
    state = json.loads(found.value or b"")
    head = (found.value or b"").replace(b'"tier":1', f'"tier":{tier}'.encode())
    assert state["tier"] == 1
    return record("reviews", REVIEW, item, head, offset)


def test_what_was_just_judged_is_not_handed_out_again(ask: Ask):
    async def scenario(found: Front) -> None:
        assert (await found.say("i1")).status_code == 202
        assert (await found.ask("GET", "/queues/trading/next", "ana")).json()["items"] == []

    ask(scenario, review(), names=("ana",))


def test_who_judges_faster_than_it_is_read_back_is_given_more(ask: Ask):
    async def scenario(found: Front) -> None:
        for number in range(HELD_MAX + 2):
            (item,) = (await found.ask("GET", "/queues/trading/next", "ana")).json()["items"]
            assert item["item"] == f"i{number:02}"
            assert (await found.say(item["item"])).status_code == 202

    records = (review(f"i{n:02}", n, decide_by_ms=NOW_MS + 60_000 + n, people=1) for n in range(HELD_MAX + 2))
    ask(scenario, *records, names=("ana",))


def test_nobody_holds_more_than_they_can_look_at(ask: Ask):
    async def scenario(found: Front) -> None:
        for number in range(HELD_MAX):
            assert (await found.ask("POST", f"/items/i{number:02}/claim", "ana")).status_code == 200
        aside = [f"i{n:02}" for n in range(HELD_MAX)]
        told = await found.ask("GET", "/queues/trading/next", "ana", without=aside)
        assert told.json()["items"] == []
        assert len((await found.ask("GET", "/queues/trading/next", "ana")).json()["items"]) == 1

    records = (review(f"i{n:02}", n, people=1) for n in range(HELD_MAX + 1))
    ask(scenario, *records, names=("ana",))


def test_where_another_person_is_needed_the_claim_is_given_back(ask: Ask):
    async def scenario(found: Front) -> None:
        assert (await found.say("i1")).status_code == 202
        assert [one["item"] for one in (await found.ask("GET", "/queues/trading/next", "ben")).json()["items"]] == [
            "i1"
        ]

    ask(scenario, review(people=2), names=("ana", "ben"))


@pytest.mark.parametrize(
    ("effect", "why"),
    [("applied", None), ("waiting", None), ("conflict", None), ("late", None), ("refused", Refusal.ROLE.value)],
)
def test_what_a_verdict_did_is_read_at_the_item(ask: Ask, effect: str, why: str | None):
    async def scenario(found: Front) -> None:
        await found.say("i1", id="my-own-id-1")
        jws = found.log.verdicts()[0].jws
        await found.fold(judged(jws=jws, effect=effect, why=why))
        body = (await found.ask("GET", "/items/i1", "ana")).json()
        assert body["state"] == "judged"
        assert [(one["verdict"], one["effect"], one["why"]) for one in body["yours"]] == [("approve", effect, why)]
        assert body["yours"][0]["id"] == claims(found).jti
        assert (await found.ask("GET", "/items/i1", "ben")).json()["yours"] == []

    ask(scenario, review(), names=("ana", "ben"))


def test_the_same_id_again_is_the_same_verdict(ask: Ask):
    async def scenario(found: Front) -> None:
        _, view, receipt = await found.card("i1")
        body = {"verdict": "approve", "view": view, "painted": receipt, "id": "my-own-id-1"}
        found.log.after = UnknownOutcomeError("the answer was lost")
        problem(await found.ask("POST", "/items/i1/verdict", "ana", body), 504, "unknown_outcome")
        found.log.after = None
        again = await found.ask("POST", "/items/i1/verdict", "ana", body)

        assert again.status_code == 202
        assert claims(found, 0).jti == claims(found, 1).jti == again.json()["id"]
        assert claims(found, 0).painted == claims(found, 1).painted

    ask(scenario, review(), names=("ana",))


def test_the_same_id_again_after_the_desk_has_read_it_writes_nothing(ask: Ask):
    async def scenario(found: Front) -> None:
        _, view, receipt = await found.card("i1")
        body = {"verdict": "approve", "view": view, "painted": receipt, "id": "my-own-id-1"}
        first = await found.ask("POST", "/items/i1/verdict", "ana", body)
        jws = found.log.verdicts()[0].jws
        await found.fold(review(offset=1, state=State.APPROVED), judged(jws=jws, source="hitl.verdicts/2/7"))
        again = await found.ask("POST", "/items/i1/verdict", "ana", body)

        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        assert (again.json()["partition"], again.json()["offset"]) == (2, 7)
        assert len(found.log.written) == 1

    ask(scenario, review(), names=("ana",))


def test_two_people_who_choose_the_same_id_say_two_things(ask: Ask):
    async def scenario(found: Front) -> None:
        await found.say("i1", by="ana", id="the-same-id")
        await found.say("i1", by="ben", id="the-same-id")
        assert claims(found, 0).jti != claims(found, 1).jti

    ask(scenario, review(people=2), names=("ana", "ben"))


@pytest.mark.parametrize(
    ("error", "status", "type_"),
    [(UnreachableError("away"), 503, "unavailable"), (UnknownOutcomeError("lost"), 504, "unknown_outcome")],
)
def test_while_kafka_is_away_the_answer_says_what_is_known(ask: Ask, error: Exception, status: int, type_: str):
    async def scenario(found: Front) -> None:
        found.log.error = error
        problem(await found.say("i1"), status, type_)
        found.log.error = None
        assert (await found.say("i1")).status_code == 202

    ask(scenario, review(), names=("ana",))


def test_nothing_is_signed_while_control_is_not_read(ask: Ask):
    async def scenario(found: Front) -> None:
        found.watch.away = "control was not read lately"
        problem(await found.say("i1"), 503, "unavailable")
        assert found.log.written == []

    ask(scenario, review(), names=("ana",))


# --- nothing tells a canary -------------------------------------------------------------------------------------------

PURPOSES = (Purpose.DECIDE, Purpose.CANARY, Purpose.AUDIT, Purpose.SECOND)


def test_every_answer_about_a_planted_item_is_that_of_a_real_one(tmp_path: Path):
    async def told(purpose: Purpose) -> list[tuple[int, str]]:
        put_to = "ana" if purpose in (Purpose.CANARY, Purpose.SECOND) else None
        one = flagged("i1", flag="data_quality", purpose=purpose, for_=put_to, barred=("dana",), people=1)
        async with front(tmp_path / purpose.value, one, names=("ana",)) as found:
            answers = [
                await found.ask("GET", "/queues"),
                await found.ask("GET", "/exceptions"),
                await found.ask("GET", "/search"),
                await found.ask("GET", "/queues/trading/next"),
                await found.ask("GET", "/items/i1"),
                await found.ask("POST", "/items/i1/claim"),
                await found.say("i1", "escalate", id="the-same-id"),
                await found.ask("GET", "/queues/trading/next"),
            ]
            jws = found.log.verdicts()[0].jws
            ends = State.OPEN if purpose is Purpose.DECIDE else State.REJECTED
            await found.fold(
                review(offset=1, purpose=purpose, for_=put_to, state=ends), judged(jws=jws, purpose=purpose)
            )
            read = await found.ask("GET", "/items/i1")
            lesson = json.loads(read.text)["lesson"]
            assert (lesson is not None) == (purpose is Purpose.CANARY)  # once it is judged, and not before
            assert not any(json.loads(answer.text).get("lesson") for answer in answers)
            text = read.text.replace(f'"lesson":{json.dumps(lesson, separators=(",", ":"))}', '"lesson":null')
            return [*((answer.status_code, answer.text) for answer in answers), (read.status_code, text)]

    async def scenario() -> None:
        real, *others = [await told(purpose) for purpose in PURPOSES]
        for other in others:
            assert other == real
        assert not any(word in text for _, text in real for word in ("purpose", '"for"', '"not"', "act-1", "canary"))

    run(scenario())


def test_a_planted_item_is_there_for_one_person_only(ask: Ask):
    async def scenario(found: Front) -> None:
        problem(await found.ask("GET", "/items/i1", "ben"), 404, "not_found")
        assert (await found.ask("GET", "/queues/trading/next", "ben")).json()["items"] == []

    ask(scenario, review(purpose=Purpose.CANARY, for_="ana"), names=("ana", "ben"))


# --- batches ----------------------------------------------------------------------------------------------------------

READY = {
    "state": "READY", "queue": "trading", "size": 3, "root": "ab" * 32, "drawn": ("i1",), "good": 1, "accept": 0,
    "approvals": (NeedRow(queue="trading", people=1, decide_by="2026-11-21T08:10:00.000Z"),),
}  # fmt: skip


def ready(**parts: Any) -> FakeRecord:
    """Return a batch that waits for its release."""
    return lot(**{**READY, **parts})


async def release(found: Front, by: str = "ana", **more: Any) -> Any:
    (batch,) = (await found.ask("GET", "/batches", by)).json()["batches"]
    painted = await found.ask("POST", f"/batches/{batch['batch']}/painted", by, {"view": batch["view"]})
    body = {"view": batch["view"], "painted": painted.json()["receipt"]}
    return await found.ask("POST", f"/batches/{batch['batch']}/release", by, body, **more)


def test_a_batch_is_released_over_its_root_by_who_has_just_signed_in(ask: Ask):
    async def scenario(found: Front) -> None:
        problem(await release(found), 403, "not_fresh")
        response = await release(found, token=await found.session("ana"))
        assert response.status_code == 202, response.text
        said = claims(found)
        assert isinstance(said, BatchRelease)
        assert (said.batch, said.size, said.root, said.by) == ("acme/acc-17/b-7", 3, "ab" * 32, "ana")
        assert found.log.written[0][1] == home("acme", "acc-17", PARTITIONS)

    ask(scenario, ready(), names=("ana",))


@pytest.mark.parametrize(
    ("parts", "status", "type_"),
    [({"state": "SAMPLING"}, 409, "not_ready"), ({"not_": ("ana",)}, 403, "role")],
)
def test_a_batch_is_not_released_before_its_sample_is_judged_nor_by_who_proposed_it(
    ask: Ask, parts: Any, status: int, type_: str
):
    async def scenario(found: Front) -> None:
        problem(await release(found, token=await found.session("ana")), status, type_)

    ask(scenario, ready(**parts), names=("ana",))


def test_another_tenants_batch_is_not_there(ask: Ask):
    async def scenario(found: Front) -> None:
        assert (await found.ask("GET", "/batches", "otto")).json()["batches"] == []
        body = {"view": VIEW, "painted": RECEIPT}
        problem(await found.ask("POST", "/batches/acme/acc-17/b-7/release", "otto", body), 404, "not_found")

    ask(scenario, ready(), names=("otto",))


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_a_labeller_compares_a_pair_without_knowing_which_is_which(ask: Ask):
    async def scenario(found: Front) -> None:
        found.office.pairs.take("pairs", pair())
        shown = (await found.ask("GET", "/pairs/next", "lea")).json()["pair"]
        card = json.loads(shown["card"])
        assert {card["left"], card["right"]} == {"Run.", "Walk."}
        painted = await found.ask("POST", "/pairs/p-1/painted", "lea", {"view": shown["view"]})
        body = {"choice": "left", "view": shown["view"], "painted": painted.json()["receipt"]}
        response = await found.ask("POST", "/pairs/p-1/verdict", "lea", body)
        assert response.status_code == 202, response.text
        said = claims(found)
        assert isinstance(said, PairChoice)
        assert (said.choice, said.role, found.log.written[0][1]) == ("left", "labeller", 2)
        assert {"a": "Run.", "b": "Walk."}[said.left] == card["left"]
        assert (await found.ask("GET", "/pairs/next", "lea")).json()["pair"] is None

    ask(scenario, names=("lea",))


def test_who_is_no_labeller_compares_nothing(ask: Ask):
    async def scenario(found: Front) -> None:
        found.office.pairs.take("pairs", pair())
        problem(await found.ask("GET", "/pairs/next", "ana"), 403, "role")

    ask(scenario, names=("ana",))


def test_pairs_of_other_tenants_and_those_that_were_compared_do_not_come(ask: Ask):
    async def scenario(found: Front) -> None:
        found.office.pairs.take("pairs", pair("p-1", tenant="other"))
        found.office.pairs.take("pairs", pair("p-2"))
        found.office.pairs.take("preferences", FakeRecord(b"{}", key=b"p-2"))
        found.office.pairs.take("pairs", pair("p-2"))
        found.office.pairs.take("pairs", FakeRecord(b"no pair"))
        assert (await found.ask("GET", "/pairs/next", "lea")).json()["pair"] is None

    ask(scenario, names=("lea",))


# --- control ----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("E16")
def test_a_kill_operator_engages_a_switch_signed_by_the_console_in_their_name(ask: Ask):
    async def scenario(found: Front) -> None:
        body = {"scope": ["campaign:cmp-7"], "mode": "HALT", "reason": "wrong page"}
        response = await found.ask("POST", "/switches", "kim", body)
        assert response.status_code == 202, response.text
        (command,) = found.commands
        assert isinstance(command, Engage)
        assert (command.scope, command.mode) == (("campaign:cmp-7",), Mode.HALT)
        assert command.reason == "kim at the console: wrong page"

    ask(scenario, names=("kim",))


@pytest.mark.parametrize(
    ("by", "scope", "status", "type_"),
    [
        ("ana", ["tenant:acme"], 403, "scope"),
        ("kurt", ["campaign:cmp-7"], 403, "tenant"),
        ("kurt", ["campaign:cmp-7", "tenant:other"], 403, "tenant"),
        ("kurt", ["global:*"], 403, "tenant"),
        ("kurt", ["campaign:cmp-7", "tenant:acme"], 202, ""),
        ("kim", ["global:*"], 202, ""),
        ("kim", ["everything:yes"], 422, "invalid"),
        ("kim", ["global:no"], 422, "invalid"),
        ("kim", ["tenant: "], 422, "invalid"),
        ("kim", [], 422, "invalid"),
        ("stopper", ["tenant:acme"], 202, ""),
    ],
)
def test_who_may_stop_what(ask: Ask, by: str, scope: list[str], status: int, type_: str):
    async def scenario(found: Front) -> None:
        response = await found.ask("POST", "/switches", by, {"scope": scope, "mode": "HALT"})
        if status == 202:
            assert (response.status_code, len(found.commands)) == (202, 1)
        else:
            problem(response, status, type_)
            assert found.commands == []

    ask(scenario, names=(by,))


def heartbeat(effective: int, epoch: int = 30, **parts: Any) -> Beat:
    """Return what a control role says, that it proves everything up to `effective`."""
    said = {"seq": 1, "control": "h/control/0", "epoch": epoch, "digest": "0" * 64, "acks": {}, "effective": effective}
    return Beat(Heartbeat(**control_claims(CONTROL_KEY), **said | parts), NOW_MS, True)


def acknowledged(found: Front, name: str = "h/router/0", at_ms: int = NOW_MS, **parts: Any) -> None:
    """Let an instance have acknowledged; its lease holds where the heartbeats repeat ack 5."""
    fields = {"n": 5, "instance": name, "role": name.split("/")[1], "version": "1", "partitions": (0, 1), "epoch": 30}
    found.watch.instances.latest[name] = Acked(Ack(**fields | parts), at_ms, True)
    found.watch.instances._numbers[name] = deque([(5, at_ms)])


def test_a_switch_says_how_far_it_is_proved_and_how_long_that_took(ask: Ask):
    async def scenario(found: Front) -> None:
        for epoch in (1, 2, 3):
            found.watch.control.switches.engage(Switch(epoch, ("tenant:acme",), Mode.HALT, "ana", NOW_MS))
        found.watch.took[1] = 97
        waiting = (Waiting(instance="h/router/1", since_s=0.5),)
        for beat, states in (
            (None, ["unknown"] * 3),
            (heartbeat(1, waiting=waiting), ["EFFECTIVE", "not proved", "not proved"]),
            (
                heartbeat(2, contained=(Contained(epoch=3, instance="h/executor/0", calls=2),)),
                ["EFFECTIVE", "EFFECTIVE", "CONTAINED"],
            ),
        ):
            found.watch.beats = {} if beat is None else {"h/control/0": beat}
            told = (await found.ask("GET", "/switches", "kim")).json()
            assert [one["state"] for one in told["switches"]] == states
            assert [one["took_ms"] for one in told["switches"]] == [97, None, None]
            assert told["heard"] is (beat is not None)
            if beat is not None and beat.heartbeat.waiting:
                assert told["waiting"] == [{"instance": "h/router/1", "since_s": 0.5}]
        assert told["contained"] == [{"epoch": 3, "instance": "h/executor/0", "calls": 2}]

    ask(scenario, names=("kim",))


@pytest.mark.behaviour("E15")
def test_a_release_that_was_asked_for_says_when_another_holder_can_confirm_it(ask: Ask):
    async def scenario(found: Front) -> None:
        control = found.watch.control
        for epoch, scope in ((1, ("tenant:acme",)), (2, ("tenant:other",))):
            control.switches.engage(Switch(epoch, scope, Mode.HALT, "ana", NOW_MS))
        asked = {"aud": "c", "kid": "ana-1", "iss": "ana", "jti": "j", "iat": 1, "exp": 2}
        control.pending[7] = Pending(7, NOW_MS, ReleaseRequest(**asked, epochs=(1, 2), reason="mended"), "ana")

        (told,) = (await found.ask("GET", "/switches", "kim")).json()["requests"]
        assert (told["epoch"], told["by"], told["epochs"], told["reason"]) == (7, "ana", [1, 2], "mended")
        assert (told["not_before"], told["not_after"]) == (
            time_text(NOW_MS + RELEASE_MS_MIN), time_text(NOW_MS + CONFIRM_MS_MAX),
        )  # fmt: skip
        (told,) = (await found.ask("GET", "/switches", "kurt")).json()["requests"]
        assert told["epochs"] == [1]  # of the other tenant nobody here learns

    ask(scenario, names=("kim", "kurt"))


def test_instances_say_who_is_heard_and_whose_lease_holds(ask: Ask):
    async def scenario(found: Front) -> None:
        acknowledged(found)
        acknowledged(found, "h/executor/0", NOW_MS - 3_000, calls=2, epoch=29)
        found.watch.beats = {"h/control/0": heartbeat(30, acks={"h/router/0": 5, "h/executor/0": 5})}
        told = (await found.ask("GET", "/instances", "kim")).json()
        assert [one["instance"] for one in told["control"]] == ["h/control/0"]
        assert {one["instance"]: (one["holds"], one["calls"], one["epoch"]) for one in told["instances"]} == {
            "h/router/0": (True, 0, 30),
            "h/executor/0": (False, 2, 29),
        }
        assert told["held"] is None

        found.watch.beats = {}
        told = (await found.ask("GET", "/instances", "kim")).json()
        assert (told["heard"], [one["holds"] for one in told["instances"]]) == (False, [False, False])

    ask(scenario, names=("kim",))


@pytest.mark.parametrize("path", ["/instances", "/live"])
def test_who_decides_for_a_client_only_is_not_shown_how_everything_runs(ask: Ask, path: str):
    async def scenario(found: Front) -> None:
        problem(await found.ask("GET", path, "carl"), 403, "role")
        assert (await found.ask("GET", path, "vic")).status_code == 200
        found.watch.beats = {"h/control/0": heartbeat(0, waiting=(Waiting(instance="h/router/1", since_s=1.0),))}
        assert (await found.ask("GET", "/switches", "carl")).json()["waiting"] == []

    ask(scenario, names=("carl", "vic"))


def test_scopes_are_completed_from_what_was_seen_of_ones_own_tenants(ask: Ask):
    async def scenario(found: Front) -> None:
        records = (review(), review("i2", 1, tenant="other", changes=[change(campaign="cmp-9")]))
        found.office.seen.take(folded(*records))
        told = (await found.ask("GET", "/scopes", "kurt")).json()["scopes"]
        assert (told["campaign"], told["tenant"]) == (["cmp-204"], ["acme"])
        assert "bid.adjust" in told["type"]  # of the policy, too
        told = (await found.ask("GET", "/scopes", "kim", like="CMP-9")).json()["scopes"]
        assert (told["campaign"], told["account"], told["type"]) == (["cmp-9"], [], [])
        problem(await found.ask("GET", "/scopes", "vic"), 403, "scope")

    ask(scenario, names=("kim", "kurt", "vic"))


def test_the_live_page_is_told_points_and_the_switches_of_the_same_time(ask: Ask):
    async def scenario(found: Front) -> None:
        live = found.office.live = Live(["http://router-1:9464/metrics"])
        for number in range(3):
            live.take(NOW_MS + number * 2_000, [f'hitl_actions_total{{class="c",outcome="HOLD"}} {number * 4}\n'])
        switches = found.watch.control.switches
        long_ago_ms = NOW_MS - 3_600_000
        for epoch, scope in ((1, ("global:*",)), (2, ("tenant:other",)), (3, ("tenant:acme",))):
            switches.engage(Switch(epoch, scope, Mode.HALT, "ana", long_ago_ms))
        switches.release(1, 9, long_ago_ms + 5_000)
        told = (await found.ask("GET", "/live", "vic", after=NOW_MS)).json()

        assert told["targets"] == [{"target": "router-1:9464", "trouble": ""}]
        assert (told["at"], told["routes"]) == ([NOW_MS + 2_000, NOW_MS + 4_000], {"HOLD": [2.0, 2.0]})
        assert [(one["epoch"], one["from"], one["until"]) for one in told["switches"]] == [(3, long_ago_ms, None)]
        assert (await found.ask("GET", "/instances", "vic")).json()["held"] == 8.0

    ask(scenario, names=("vic",))


def test_switches_are_told_that_concern_ones_tenants(ask: Ask):
    async def scenario(found: Front) -> None:
        switches = found.watch.control.switches
        for epoch, scope in enumerate((("tenant:other",), ("tenant:acme", "campaign:c"), ("campaign:c",))):
            switches.engage(Switch(epoch, scope, Mode.HALT, "ana", NOW_MS))
        found.watch.effective = 1
        told = (await found.ask("GET", "/switches", "ana")).json()
        assert [(one["epoch"], one["effective"]) for one in told["switches"]] == [(1, True), (2, False)]
        assert len((await found.ask("GET", "/switches", "kim")).json()["switches"]) == 3

    ask(scenario, names=("ana", "kim"))


OPERATOR = new_signing_key("rita-1", "rita")


def signed(**parts: Any) -> str:
    """Return a request to release, signed with an operator's own key."""
    now = NOW_MS // 1000
    fields = {"aud": CLUSTER, "kid": "rita-1", "iss": "rita", "jti": "r-1", "iat": now, "exp": now + 600}
    return sign(OPERATOR, ReleaseRequest(**{**fields, "epochs": (3,), "reason": "mended", **parts})).decode()


def test_a_command_that_was_signed_elsewhere_is_passed_on_as_it_is(ask: Ask):
    async def scenario(found: Front) -> None:
        found.watch.control.keys["rita-1"] = entry(OPERATOR, "release_request")
        jws = signed()
        response = await found.ask("POST", "/commands", "ana", {"jws": jws})
        assert response.status_code == 202, response.text
        ((topic, partition, value, key, _),) = found.log.written
        assert (topic, partition, value, key) == ("control", 0, jws.encode(), b"r-1")

    ask(scenario, names=("ana",))


@pytest.mark.parametrize("change_", ["key", "cluster", "bytes", "late"])
def test_a_command_that_control_would_not_take_is_not_passed_on(ask: Ask, change_: str):
    async def scenario(found: Front) -> None:
        if change_ != "key":
            found.watch.control.keys["rita-1"] = entry(OPERATOR, "release_request")
        jws = signed(aud="another") if change_ == "cluster" else signed()
        jws = jws[:-4] + "AAAA" if change_ == "bytes" else jws
        found.watch.at_ms += 3_600_000 if change_ == "late" else 0
        problem(await found.ask("POST", "/commands", "ana", {"jws": jws}), 422, "invalid")
        assert found.log.written == []

    ask(scenario, names=("ana",))


@pytest.mark.behaviour("B7")
def test_a_service_passes_on_no_release(ask: Ask):
    async def scenario(found: Front) -> None:
        found.watch.control.keys["rita-1"] = entry(OPERATOR, "release_request")
        problem(await found.ask("POST", "/commands", "bidder-7", {"jws": signed()}), 403, "service")
        assert found.log.written == []

    ask(scenario, names=("bidder-7",))


# --- batches: who can release them, and who only looks ----------------------------------------------------------------


@pytest.mark.behaviour("E5")
@pytest.mark.parametrize(
    ("by", "parts", "why"),
    [
        ("ana", {}, None),
        ("ana", {"state": "SAMPLING"}, "its sample, and what was flagged, is judged first"),
        ("ana", {"state": "RELEASED"}, "it is over"),
        ("ana", {"not_": ("ana",)}, "another person releases it"),
        (
            "ana",
            {"approvals": (NeedRow(queue="trading", people=2, by=("ana",), decide_by=iso(NOW_MS)),)},
            "you have released",
        ),
        ("uma", {}, "you have no role that releases it; it asks trader"),
        ("vic", {}, "you have no role that releases it; it asks trader"),
    ],
)
def test_a_batch_says_whether_one_can_release_it(ask: Ask, by: str, parts: Any, why: str | None):
    async def scenario(found: Front) -> None:
        (batch,) = (await found.ask("GET", "/batches", by)).json()["batches"]
        assert batch["releasable"] is (why is None)
        assert batch["why"] == why or why in batch["why"]

    ask(scenario, ready(**parts), names=(by,))


@pytest.mark.parametrize(("by", "count"), [("vic", 0), ("uma", 1), ("ana", 0), ("carl", 1), ("otto", 0)])
def test_an_external_clients_batch_is_not_for_who_merely_looks(ask: Ask, by: str, count: int):
    async def scenario(found: Front) -> None:
        assert len((await found.ask("GET", "/batches", by)).json()["batches"]) == count

    ask(scenario, ready(queue="client"), names=(by,))


def test_a_batch_tells_how_many_have_come_and_until_when_it_gathers(ask: Ask):
    async def scenario(found: Front) -> None:
        (batch,) = (await found.ask("GET", "/batches")).json()["batches"]
        card = json.loads(batch["card"])
        assert (card["wanted"], card["seen"], card["size"]) == (9, 4, 3)
        assert card["close_at"].startswith("2026-11-21T07:10:00.140")

    ask(scenario, lot(wanted=9, size=3, beside=(5,)), names=("ana",))


@pytest.mark.behaviour("E6")
def test_a_pair_that_was_put_aside_is_not_given_again(ask: Ask):
    async def scenario(found: Front) -> None:
        found.office.pairs.take("pairs", pair("p-1"))
        found.office.pairs.take("pairs", pair("p-2"))
        told = (await found.ask("GET", "/pairs/next", "lea", without=["p-1"])).json()["pair"]
        assert told["pair"] == "p-2"
        assert (await found.ask("GET", "/pairs/next", "lea", without=["p-1", "p-2"])).json()["pair"] is None

    ask(scenario, names=("lea",))


# --- exceptions -------------------------------------------------------------------------------------------------------


async def exceptions(found: Front, by: str) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
    told = (await found.ask("GET", "/exceptions", by)).json()
    return {row["type"]: row for row in told["types"]}, told["items"]


@pytest.mark.behaviour("C4")
def test_every_exception_type_has_an_owner_a_queue_and_a_time_to_answer_and_so_has_an_unknown_one(ask: Ask):
    async def scenario(found: Front) -> None:
        types, _ = await exceptions(found, "vic")
        assert [*types] == [*acme().policy.exceptions, None]
        brand = {"queue": "brand", "owner": "brand-team", "sla_s": 4 * 3600, "next": "manager", "open": 1}
        assert brand.items() <= types["brand_flag"].items()
        assert {"queue": "triage", "owner": "ops", "sla_s": 3600, "open": 1}.items() <= types[None].items()
        assert types["data_quality"]["open"] == 0
        assert types["data_quality"]["oldest"] is None

    ask(scenario, flagged(), flagged("f2", 1, "unknown", action_id="act-2"), names=("vic",))


@pytest.mark.behaviour("C4")
def test_what_could_not_be_carried_out_is_listed_for_who_may_decide_it(ask: Ask):
    async def scenario(found: Front) -> None:
        types, (item,) = await exceptions(found, "ana")
        assert types["platform"]["open"] == 1
        known = {"item": "x1", "exception": "platform", "says": "409: campaign ended", "queue": "trading"}
        assert known.items() <= item.items()
        for nobody in ("ben", "otto", "mia", "vic"):
            assert (await exceptions(found, nobody))[1] == [], nobody
        assert "act-1" not in json.dumps(item)

    ask(scenario, raised(barred=("ben",)), names=("ana", "ben", "otto", "mia", "vic"))


def test_what_was_sent_to_people_before_it_ran_is_counted_and_not_listed(ask: Ask):
    async def scenario(found: Front) -> None:
        types, items = await exceptions(found, "ana")
        assert (types["brand_flag"]["open"], items) == (1, [])

    ask(scenario, flagged(), names=("ana",))


@pytest.mark.parametrize("state", [State.REJECTED, State.EXPIRED])
def test_an_exception_that_has_ended_counts_no_more(ask: Ask, state: State):
    async def scenario(found: Front) -> None:
        assert (await exceptions(found, "ana"))[0]["platform"]["open"] == 1
        await found.fold(raised(offset=1, state=state))
        types, items = await exceptions(found, "ana")
        assert (types["platform"]["open"], items) == (0, [])

    ask(scenario, raised(), names=("ana",))


def test_what_somebody_holds_is_not_listed_for_another(ask: Ask):
    async def scenario(found: Front) -> None:
        assert (await found.ask("POST", "/items/x1/claim", "ana")).status_code == 200
        assert len((await exceptions(found, "ana"))[1]) == 1
        assert (await exceptions(found, "ben"))[1] == []

    ask(scenario, raised(), names=("ana", "ben"))


def test_a_client_is_told_of_exceptions_of_its_own_queue_only(ask: Ask):
    async def scenario(found: Front) -> None:
        types, items = await exceptions(found, "carl")
        assert (types, items) == ({}, [])

    ask(scenario, raised(), names=("carl",))


# --- finding what was decided -----------------------------------------------------------------------------------------

FOUND = (
    result(0, action_id="act-1"),
    closed(1, NOW_MS + 1, action_id="act-2", type="budget.reallocate"),
    judged("i3", 2, NOW_MS + 2, action={"action_id": "act-3"}, by="mia"),
)


@pytest.mark.behaviour("D10")
@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({}, ["act-3", "act-2", "act-1"]),
        ({"tenant": "acme", "account": "acc-17"}, ["act-3", "act-2", "act-1"]),
        ({"campaign": "cmp-204", "reviewer": "ben"}, ["act-2"]),
        ({"action_id": "act-1"}, ["act-1"]),
        ({"reviewer": "mia"}, ["act-3"]),
        ({"account": "acc-18"}, []),
    ],
)
def test_what_was_decided_is_found_by_action_entity_and_reviewer(ask: Ask, query: Any, ids: list[str]):
    async def scenario(found: Front) -> None:
        told = (await found.ask("GET", "/search", "uma", **query)).json()
        assert ([hit["action_id"] for hit in told["hits"]], told["more"]) == (ids, False)

    ask(scenario, *FOUND, names=("uma",))


def test_a_hit_says_what_it_is_about_and_how_it_stands(ask: Ask):
    async def scenario(found: Front) -> None:
        hits = (await found.ask("GET", "/search", "uma")).json()["hits"]
        assert [(hit["type"], hit["stands"], hit["by"]) for hit in hits] == [
            ("bid.adjust", "approve", ["mia"]),
            ("budget.reallocate", "rejected", ["ben"]),
            ("bid.adjust", "executed", ["ana"]),
        ]
        assert {hit["entity"]["account"] for hit in hits} == {"acc-17"}

    ask(scenario, *FOUND, names=("uma",))


def test_a_search_that_finds_more_says_so(ask: Ask):
    async def scenario(found: Front) -> None:
        told = (await found.ask("GET", "/search", "uma", limit=2)).json()
        assert ([hit["action_id"] for hit in told["hits"]], told["more"]) == (["act-3", "act-2"], True)

    ask(scenario, *FOUND, names=("uma",))


def test_who_has_several_tenants_names_one_and_only_of_theirs(ask: Ask):
    async def scenario(found: Front) -> None:
        problem(await found.ask("GET", "/search", "kim"), 422, "invalid")
        problem(await found.ask("GET", "/search", "ana", tenant="other"), 403, "tenant")
        assert (await found.ask("GET", "/search", "kim", tenant="acme")).status_code == 200

    ask(scenario, names=("ana", "kim"))


@pytest.mark.parametrize(("by", "count"), [("ana", 0), ("vic", 0), ("uma", 1)])
def test_of_a_planted_item_only_an_auditor_finds_anything(ask: Ask, by: str, count: int):
    async def scenario(found: Front) -> None:
        assert len((await found.ask("GET", "/search", by)).json()["hits"]) == count
        assert (await found.ask("GET", "/actions/acme/~c-1", by)).status_code == (200 if count else 404)

    ended = review(state=State.APPROVED, purpose=Purpose.CANARY, action_id="~c-1")
    ask(scenario, ended, judged(offset=1, action={"action_id": "~c-1"}, purpose="canary"), names=(by,))


@pytest.mark.parametrize(("by", "stands"), [("ana", []), ("vic", [None]), ("uma", [None])])
def test_of_what_is_still_asked_a_search_tells_nobodys_judgement(ask: Ask, by: str, stands: list[Any]):
    async def scenario(found: Front) -> None:
        hits = (await found.ask("GET", "/search", by)).json()["hits"]
        assert [hit["stands"] for hit in hits] == stands
        assert all(hit["by"] == [] for hit in hits)

    ask(scenario, review(), judged(offset=1), names=(by,))


@pytest.mark.parametrize(("by", "count"), [("vic", 0), ("uma", 1), ("ana", 1)])
def test_an_external_clients_action_is_not_found_by_who_merely_looks(ask: Ask, by: str, count: int):
    async def scenario(found: Front) -> None:
        assert len((await found.ask("GET", "/search", by)).json()["hits"]) == count

    ask(scenario, review(state=State.APPROVED, queues=("client",)), result(1), names=(by,))


# --- undoing ----------------------------------------------------------------------------------------------------------

READ = {"/changes/0": "1.20"}


async def reverse(found: Front, by: str = "ana") -> Any:
    return await found.ask("POST", "/actions/acme/act-1/reverse", by, {"reason": "a slip of mine"})


@pytest.mark.behaviour("E16")
def test_what_was_executed_is_undone_by_a_proposal_in_the_persons_name(ask: Ask):
    async def scenario(found: Front) -> None:
        told = (await found.ask("GET", "/actions/acme/act-1", "ana")).json()["reversal"]
        assert (told["why"], told["known"]) == (None, False)
        assert {"before": "1.30", "after": "1.20"}.items() <= told["changes"][0].items()
        answer = await reverse(found)
        assert answer.status_code == 202, answer.text
        assert answer.json()["action_id"] == told["action_id"]
        ((topic, _, value, _, headers),) = found.log.written
        action = json.loads(value)
        assert (topic, action["action_id"], action["rationale"]) == ("actions", told["action_id"], "a slip of mine")
        assert json.loads(dict(headers)["hitl-via"])["by"] == "ana"

    ask(scenario, result(present=READ), names=("ana",))


@pytest.mark.behaviour("E16")
@pytest.mark.parametrize(
    ("made", "type_", "why"),
    [
        (result(), "irreversible", "nobody read what bid was before"),
        (result(status="failed", present=READ), "irreversible", "the platform refused it"),
        (result(status="unresolved", present=READ), "irreversible", "nobody knows whether it was carried out"),
        (closed(), "not_ready", "no result of it is known here"),
    ],
)
def test_what_cannot_be_undone_says_why(ask: Ask, made: FakeRecord, type_: str, why: str):
    async def scenario(found: Front) -> None:
        body = problem(await reverse(found), 409, type_)
        assert why in body["title"]
        told = (await found.ask("GET", "/actions/acme/act-1", "ana")).json()["reversal"]
        assert told is None if type_ == "not_ready" else why in told["why"]
        assert found.log.written == []

    ask(scenario, made, names=("ana",))


@pytest.mark.behaviour("A12")
@pytest.mark.parametrize(("by", "type_"), [("uma", "scope"), ("vic", "scope"), ("bidder-7", "service")])
def test_who_only_reads_and_who_is_no_person_undoes_nothing(ask: Ask, by: str, type_: str):
    async def scenario(found: Front) -> None:
        problem(await reverse(found, by), 403, type_)
        assert found.log.written == []

    ask(scenario, result(present=READ), names=(by,))


@pytest.mark.behaviour("A12")
@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES, ids=NAMED)
def test_an_auditor_reads_and_changes_nothing(ask: Ask, method: str, path: str, body: Any, scope: Scope | None):
    async def scenario(found: Front) -> None:
        if method != "GET" and scope is not Scope.COMMANDS:  # what was signed elsewhere is not the auditor's
            answer = await found.ask(method, path, "uma", body)
            assert answer.status_code == (204 if path == "/sessions" else 403), answer.text
        assert found.log.written == []

    ask(scenario, review(), result(1, present=READ, action_id="act-2"), names=("uma",))


def test_a_proposal_that_would_undo_it_and_is_known_is_told(ask: Ask):
    async def scenario(found: Front) -> None:
        told = (await found.ask("GET", "/actions/acme/act-1", "ana")).json()["reversal"]
        await found.fold(review("i2", 3, action_id=told["action_id"]))
        assert (await found.ask("GET", "/actions/acme/act-1", "ana")).json()["reversal"]["known"] is True

    ask(scenario, result(present=READ), names=("ana",))
