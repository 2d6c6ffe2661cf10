"""The fake ad platform: it applies a key once, refuses what is late, fails as told, and counts what really happened."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.adapters.http import HttpAdapter, UnreadableError, body_of, http_options, wire_key
from hitl_stream.core.action import Action
from hitl_stream.core.errors import UsageError
from hitl_stream.dev import platform as module
from hitl_stream.dev.platform import (
    COUNTS,
    KINDS,
    NO_FAULTS,
    Faults,
    Place,
    Platform,
    claiming_adapter,
    exact,
    main,
    wall_ms,
)
from hitl_stream.execute import Applied, NotApplied, Unknown
from support.ads import BID, LEASE_MS, StillClock, bid, until
from support.kafka import within
from support.make import NOW_MS, change, make_action

T = TypeVar("T")
SOON = NOW_MS + LEASE_MS
HANG_S = 20.0


class Answer(NamedTuple):
    """What came back. `status` 0: the connection was cut."""

    status: int
    data: Any = None
    headers: Any = None


class Client:
    """Speaks with a platform as anybody would, without our adapter."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        try:
            async with self._session.request(method, path, **options) as answer:
                return Answer(answer.status, json.loads(await answer.read()), answer.headers)
        except aiohttp.ClientConnectionError:
            return Answer(0)

    async def act(
        self, action: Action, key: str = "k", not_after_ms: int | None = SOON, epoch: int | None = 0
    ) -> Answer:
        headers = {"Idempotency-Key": key}
        if not_after_ms is not None:
            headers["Hitl-Not-After"] = str(not_after_ms)
        if epoch is not None:
            headers["Hitl-Epoch"] = str(epoch)
        return await self.ask("POST", "/actions", data=body_of(action), headers=headers)

    async def counts(self) -> dict[str, int]:
        counts: dict[str, int] = (await self.ask("GET", "/counts")).data
        return counts


def asked(scenario: Callable[[Platform, Client], Awaitable[T]], **options: Any) -> T:
    """Run a scenario with a platform whose clock stands still, and a client."""

    async def run() -> T:
        async with (
            Platform(**{"now_ms": StillClock(), **options}) as ads,
            # A cut connection is not asked again by itself, so that calls can be counted.
            aiohttp.ClientSession(ads.url, connector=aiohttp.TCPConnector(force_close=True)) as session,
        ):
            return await scenario(ads, Client(session))

    return within(run())


def values(ads: Platform) -> dict[str, object]:
    return {f"{place.campaign}.{place.field}": standing.value for place, standing in ads.books.values.items()}


# --- carrying out -----------------------------------------------------------------------------------------------------


def test_an_action_changes_the_values_it_names():
    move = make_action(
        type="budget.reallocate",
        changes=[
            change("100.00", "72.00", campaign="cmp-1", field="daily_budget"),
            change("50.00", "78.00", campaign="cmp-2", field="daily_budget"),
        ],
    )

    async def scenario(ads: Platform, client: Client) -> list[object]:
        return [(await client.act(move)).data, values(ads)]

    answer, standing = asked(scenario)

    assert answer == {"ref": "op-1", "present": {"/changes/0": "72.00", "/changes/1": "78.00"}}
    assert standing == {"cmp-1.daily_budget": "72.00", "cmp-2.daily_budget": "78.00"}


def test_an_action_without_changes_is_carried_out_too():
    post = make_action(changes=..., type="post.own", entity={"account": "acc-17"}, content={"text": "A day."})

    async def scenario(ads: Platform, client: Client) -> list[object]:
        return [(await client.act(post)).data, (await client.counts())["applied"]]

    assert asked(scenario) == [{"ref": "op-1", "present": {}}, 1]


def test_the_same_key_again_gets_the_first_answer_and_changes_nothing():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        first = await client.act(bid())
        ads.books.put(BID, "9.99")
        again = [await client.act(bid()) for _ in range(2)]
        ledger = (await client.ask("GET", "/ledger")).data
        return [
            [one.data for one in again] == [first.data] * 2,
            values(ads),
            (await client.counts())["repeats"],
            ledger["repeats"],
        ]

    assert asked(scenario) == [True, {"cmp-204.bid": "9.99"}, 2, {"k": 2}]


def test_many_calls_at_once_with_one_key_are_one():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        answers = await asyncio.gather(*(client.act(bid()) for _ in range(20)))
        return [{answer.status for answer in answers}, (await client.counts())["applied"]]

    assert asked(scenario) == [{200}, 1]


def test_a_key_that_comes_with_another_body_is_refused():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        await client.act(bid(after="1.30"))
        answer = await client.act(bid(after="1.40"))
        return [answer.status, answer.data["error"], values(ads), (await client.counts())["key_reused"]]

    assert asked(scenario) == [422, "key_reused", {"cmp-204.bid": "1.30"}, 1]


def test_an_action_that_is_carried_out_under_two_keys_is_found_out():
    """The ledger counts by tenant and action id, so a key that was made up anew cannot hide it."""

    async def scenario(ads: Platform, client: Client) -> list[object]:
        for key in ("k1", "k2"):
            await client.act(bid(1), key)
        await client.act(bid(2), "k3")
        ledger = (await client.ask("GET", "/ledger")).data
        return [ledger["twice"], [(one["action_id"], one["keys"]) for one in ledger["actions"]], await client.counts()]

    twice, entries, counts = asked(scenario)

    assert twice == ["acme/act-1"]
    assert entries == [("act-1", ["k1", "k2"]), ("act-2", ["k3"])]
    assert (counts["applied"], counts["actions"], counts["twice"]) == (3, 2, 1)


def test_one_action_id_of_two_tenants_is_two_actions():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        for tenant in ("acme", "globex"):
            await client.act(make_action(tenant=tenant), f"{tenant}-k")
        return (await client.ask("GET", "/ledger")).data["twice"]

    assert asked(scenario) == []


def test_a_write_over_another_value_than_claimed_is_counted():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        await client.act(bid(1, "1.20", "1.30"), "k1")
        await client.act(bid(2, "1.3", "1.40"), "k2")
        await client.act(bid(3, "1.30", "1.50"), "k3")
        return (await client.counts())["overwritten"]

    assert asked(scenario) == 1


def test_the_order_in_which_actions_were_carried_out_is_kept():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        for number in (3, 1, 2):
            await client.act(bid(number), f"k{number}")
        return [(one["action_id"], one["order"]) for one in (await client.ask("GET", "/ledger")).data["actions"]]

    assert asked(scenario) == [("act-3", [1]), ("act-1", [2]), ("act-2", [3])]


@pytest.mark.parametrize(
    ("headers", "body", "error"),
    [
        ({}, body_of(bid()), "key_missing"),
        ({"Idempotency-Key": "k"}, b"", "malformed"),
        ({"Idempotency-Key": "k"}, b"{", "malformed"),
        ({"Idempotency-Key": "k"}, b'{"tenant": "a", "action_id": "", "type": "x"}', "malformed"),
        ({"Idempotency-Key": "k", "Hitl-Not-After": "soon"}, body_of(bid()), "malformed"),
        ({"Idempotency-Key": "k", "Hitl-Epoch": "1.5"}, body_of(bid()), "malformed"),
    ],
)
def test_what_is_not_understood_changes_nothing(headers: dict[str, str], body: bytes, error: str):
    async def scenario(ads: Platform, client: Client) -> list[object]:
        answer = await client.ask("POST", "/actions", data=body, headers=headers)
        return [answer.status, answer.data["error"], values(ads), (await client.counts())["malformed"]]

    assert asked(scenario) == [400, error, {}, 1]


def test_a_change_in_another_unit_is_refused_whole():
    changes = [change(campaign="cmp-1"), change(campaign="cmp-2")]

    async def scenario(ads: Platform, client: Client) -> list[object]:
        ads.books.put(Place("acme", "acc-17", "cmp-2", "bid"), "1.20", "USD")
        return [(await client.act(make_action(changes=changes))).status, values(ads)]

    assert asked(scenario) == [422, {"cmp-2.bid": "1.20"}]


def test_nothing_may_be_forgotten_so_there_is_an_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "ACTIONS_MAX", 2)

    async def scenario(ads: Platform, client: Client) -> list[object]:
        statuses = [(await client.act(bid(number), f"k{number}")).status for number in (1, 2, 3, 1)]
        return [statuses, (await client.counts())["full"]]

    assert asked(scenario) == [[200, 200, 507, 200], 1]


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9))
def test_a_number_is_kept_exactly(number: Any):
    assert exact(str(number)) == str(number)
    assert float(exact(float(number))) == float(number)
    assert "e" not in str(exact(float(number))).lower()


# --- the fence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late_ms", "status"), [(-1, 200), (0, 200), (1, 403), (60_000, 403)])
def test_a_call_after_its_time_is_refused(late_ms: int, status: int):
    async def scenario(ads: Platform, client: Client) -> list[object]:
        answer = await client.act(bid(), not_after_ms=NOW_MS - late_ms)
        return [answer.status, (await client.counts())["refused_late"], bool(values(ads))]

    assert asked(scenario) == [status, int(status == 403), status == 200]


def test_what_would_take_effect_after_its_time_is_refused_though_it_arrived_in_time():
    clock = StillClock()

    async def scenario(ads: Platform, client: Client) -> list[object]:
        acting = asyncio.ensure_future(client.act(bid()))
        await until(lambda: ads.books.keys)
        under_way = (await client.ask("GET", "/actions/k")).status
        clock.ms = SOON + 1
        answer = await acting
        return [under_way, answer.status, answer.data["error"], values(ads), (await client.counts())["refused_late"]]

    found = asked(scenario, now_ms=clock, faults=Faults(next=("late",), late_s=0.2))

    assert found == [409, 403, "too_late", {}, 1]


@pytest.mark.parametrize(("epoch", "status"), [(811, 403), (812, 200), (813, 200), (None, 403)])
def test_a_call_of_an_epoch_before_the_one_it_was_told_of_is_refused(epoch: int | None, status: int):
    async def scenario(ads: Platform, client: Client) -> list[object]:
        await client.ask("PUT", "/fence", json={"epoch": 812})
        lower = await client.ask("PUT", "/fence", json={"epoch": 3})
        answer = await client.act(bid(), epoch=epoch)
        return [lower.data, answer.status, (await client.counts())["refused_epoch"]]

    assert asked(scenario) == [{"epoch": 812}, status, int(status == 403)]


def test_without_a_fence_nothing_is_refused():
    async def scenario(ads: Platform, client: Client) -> int:
        await client.ask("PUT", "/fence", json={"epoch": 812})
        return (await client.act(bid(), not_after_ms=0, epoch=1)).status

    assert asked(scenario, fence=False) == 200


def test_what_was_applied_in_time_is_still_answered_later():
    clock = StillClock()

    async def scenario(ads: Platform, client: Client) -> list[int]:
        first = await client.act(bid())
        clock.ms = SOON + 1
        return [first.status, (await client.act(bid())).status, (await client.counts())["repeats"]]

    assert asked(scenario, now_ms=clock) == [200, 200, 1]


# --- reading ----------------------------------------------------------------------------------------------------------

WHERE = {"tenant": "acme", "account": "acc-17", "campaign": "cmp-204", "field": "bid"}


def test_a_field_that_was_never_heard_of_is_unknown_here():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        answer = await client.ask("GET", "/present", params={**WHERE, "claimed": "1.20"})
        return [answer.status, answer.data, values(ads), (await client.counts())["reads_unknown"]]

    assert asked(scenario) == [404, {"error": "unknown_here"}, {}, 1]


def test_values_can_be_set():
    rows = [{**WHERE, "value": "1.20", "unit": "EUR"}, {"tenant": "acme", "field": "paused", "value": True}]

    async def scenario(ads: Platform, client: Client) -> list[object]:
        said = await client.ask("PUT", "/present", json=rows)
        bid_of = await client.ask("GET", "/present", params=WHERE)
        paused = await client.ask("GET", "/present", params={"tenant": "acme", "field": "paused"})
        return [said.data, bid_of.data, paused.data]

    assert asked(scenario) == [{"set": 2}, {"value": "1.20", "unit": "EUR"}, {"value": True, "unit": None}]


def test_values_can_be_invented_at_the_first_reading():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        return [(await client.ask("GET", "/present", params=WHERE)).data["value"] for _ in range(2)]

    invented = iter([1.25, 9.0])

    assert asked(scenario, provider=lambda place: next(invented) if place == BID else None) == ["1.25", "1.25"]


def test_the_first_claim_is_adopted_where_that_is_wanted_and_no_later_one():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        adapter = claiming_adapter(ads.now_ms, base_url=ads.url)
        async with adapter:
            return [await adapter.present(bid(before=before).changes[0], bid()) for before in ("1.20", "7.00")]

    assert asked(scenario, adopt=True) == ["1.20", "1.20"]
    assert asked(scenario, adopt=False) == [None, None]


def test_the_adapter_for_real_platforms_claims_nothing():
    async def scenario(ads: Platform, client: Client) -> object:
        async with HttpAdapter(http_options({"base_url": ads.url}), ads.now_ms) as adapter:
            return await adapter.present(bid().changes[0], bid())

    assert asked(scenario, adopt=True) is None


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "status", "applied"),
    [
        (Faults(fail=1), 500, 0),
        (Faults(fail=1, fail_code=422), 422, 0),
        (Faults(busy=1), 503, 0),
        (Faults(busy=1, busy_code=429), 429, 0),
        (Faults(drop=1), 0, 0),
        (Faults(hang=1, hang_s=0.01), 500, 0),
        (Faults(late=1, late_s=0.01), 200, 1),
        (Faults(lose=1), 0, 1),
        (Faults(stall=1, hang_s=0.01), 200, 1),
    ],
)
def test_each_fault_does_what_it_says(faults: Faults, status: int, applied: int):
    async def scenario(ads: Platform, client: Client) -> list[object]:
        answer = await client.act(bid())
        counts = await client.counts()
        back = (await client.ask("GET", "/actions/k")).status
        return [answer.status, counts["applied"], back, sum(counts[kind] for kind in KINDS)]

    assert asked(scenario, faults=faults) == [status, applied, 200 if applied else 404, 1]


@pytest.mark.parametrize(("after", "header"), [(7, "7"), (None, None)])
def test_a_busy_platform_says_when_to_come_again_or_does_not(after: int | None, header: str | None):
    async def scenario(ads: Platform, client: Client) -> object:
        return (await client.act(bid())).headers.get("Retry-After")

    assert asked(scenario, faults=Faults(busy=1, retry_after_s=after)) == header


def test_faults_change_while_it_runs():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        await client.ask("PUT", "/faults", json={"next": ["drop", "none", "lose"], "fail": 1})
        statuses = [(await client.act(bid(n), f"k{n}")).status for n in range(4)]
        left = (await client.ask("GET", "/faults")).data
        await client.ask("PUT", "/faults", json={})
        return [statuses, left["next"], left["fail"], (await client.act(bid(9), "k9")).status]

    assert asked(scenario) == [[0, 200, 0, 500], [], 1, 200]


@pytest.mark.parametrize("body", ['{"fial": 1}', '{"fail": 2}', '{"fail": 0.6, "lose": 0.6}', '{"next": ["x"]}', "[]"])
def test_faults_that_make_no_sense_are_refused_and_change_nothing(body: str):
    async def scenario(ads: Platform, client: Client) -> list[object]:
        answer = await client.ask("PUT", "/faults", data=body)
        return [answer.status, ads.faults]

    assert asked(scenario) == [400, NO_FAULTS]


def test_a_seed_decides_which_calls_meet_which_faults():
    faults = Faults(fail=0.2, busy=0.2, drop=0.2, lose=0.2)

    def outcomes(seed: int, order: range) -> dict[str, str | None]:
        async def scenario(ads: Platform, client: Client) -> dict[str, str | None]:
            for number in order:
                await client.act(bid(number), f"k{number}")
            return {call.key: call.fault for call in ads.calls_since(0)}

        return asked(scenario, seed=seed, faults=faults)

    first = outcomes(7, range(40))

    assert outcomes(7, range(39, -1, -1)) == first
    assert outcomes(8, range(40)) != first
    assert set(first.values()) == {None, "fail", "busy", "drop", "lose"}


def test_faults_come_about_as_often_as_they_are_asked_for():
    lots = [number / 10_000 for number in range(10_000)]
    drawn = [Faults(fail=0.1, late=0.25, stall=0.65).drawn(lot) for lot in lots]

    assert [round(drawn.count(kind) / 10_000, 3) for kind in ("fail", "late", "stall")] == [0.1, 0.25, 0.65]
    assert {NO_FAULTS.drawn(lot) for lot in lots} == {None}


def test_readings_meet_faults_only_where_that_is_wanted():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        ads.books.put(BID, "1.20")
        return [(await client.ask("GET", path, params=WHERE)).status for path in ("/present", "/actions/k")]

    assert asked(scenario, faults=Faults(fail=1)) == [200, 404]
    assert asked(scenario, faults=Faults(fail=1, reads=True)) == [500, 500]
    assert asked(scenario, faults=Faults(lose=1, reads=True)) == [0, 0]
    assert asked(scenario, faults=Faults(late=1, late_s=0.01, reads=True)) == [200, 404]


def test_more_open_calls_than_it_can_hold_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "OPEN_MAX", 1)

    async def scenario(ads: Platform, client: Client) -> int:
        hanging = asyncio.ensure_future(client.act(bid(1), "k1"))
        await until(lambda: ads.open)
        ads.faults = NO_FAULTS
        answer = await client.act(bid(2), "k2")
        hanging.cancel()
        return answer.status

    assert asked(scenario, faults=Faults(hang=1, hang_s=HANG_S)) == 503


# --- what tests ask ---------------------------------------------------------------------------------------------------


def test_calls_that_began_after_a_moment_can_be_told():
    clock = StillClock()

    async def scenario(ads: Platform, client: Client) -> list[object]:
        for number in (1, 2, 3):
            await client.act(bid(number), f"k{number}", not_after_ms=None)
            clock.ms += 10
        after = (await client.ask("GET", "/calls", params={"since": NOW_MS + 10})).data
        everything = (await client.ask("GET", "/calls")).data
        return [after["calls"], len(everything["calls"]), everything["dropped"], everything["now_ms"]]

    (call,), every, dropped, now_ms = asked(scenario, now_ms=clock)

    assert (every, dropped, now_ms) == (3, 0, NOW_MS + 30)
    assert call == {
        "n": 3,
        "begin_ms": NOW_MS + 20,
        "end_ms": NOW_MS + 20,
        "applied_ms": NOW_MS + 20,
        "key": "k3",
        "not_after_ms": None,
        "epoch": 0,
        "tenant": "acme",
        "action_id": "act-3",
        "type": "bid.adjust",
        "campaigns": ["acc-17/cmp-204"],
        "fault": None,
        "outcome": "applied",
        "status": 200,
    }


def test_a_call_that_is_open_has_no_end_yet():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        hanging = asyncio.ensure_future(client.act(bid()))
        await until(lambda: ads.open)
        (call,) = (await client.ask("GET", "/calls")).data["calls"]
        hanging.cancel()
        return [call["end_ms"], call["outcome"], (await client.counts())["open"]]

    assert asked(scenario, faults=Faults(hang=1, hang_s=HANG_S)) == [None, "hang", 1]


def test_what_came_of_each_call_is_told():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        ads.faults = Faults(next=("none", "none", "none", "none", "drop", "lose"))
        await client.act(bid(1), "k1")
        await client.act(bid(1), "k1")
        await client.act(bid(2), "k1")
        await client.act(bid(3), "k3", not_after_ms=0)
        await client.act(bid(4), "k4")
        await client.act(bid(5), "k5")
        return [(call.outcome, call.fault, call.applied_ms is not None) for call in ads.calls_since(0)]

    assert asked(scenario) == [
        ("applied", None, True),
        ("repeat", None, False),
        ("key_reused", None, False),
        ("too_late", None, False),
        ("drop", "drop", False),
        ("applied", "lose", True),
    ]


def test_calls_beyond_what_is_kept_are_said_to_be_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CALLS_MAX", 2)

    async def scenario(ads: Platform, client: Client) -> list[object]:
        for number in range(5):
            await client.act(bid(number), f"k{number}")
        found = (await client.ask("GET", "/calls")).data
        return [[call["n"] for call in found["calls"]], found["dropped"]]

    assert asked(scenario) == [[4, 5], 3]


def test_a_moment_that_is_none_is_refused():
    async def scenario(ads: Platform, client: Client) -> int:
        return (await client.ask("GET", "/calls", params={"since": "yesterday"})).status

    assert asked(scenario) == 400


def test_every_count_is_there_from_the_start():
    async def scenario(ads: Platform, client: Client) -> dict[str, int]:
        return await client.counts()

    counts = asked(scenario)

    assert {counts[name] for name in COUNTS} == {0}
    assert counts["now_ms"] == NOW_MS


def test_a_reset_forgets_everything():
    async def scenario(ads: Platform, client: Client) -> list[object]:
        ads.faults = Faults(next=("none", "drop"))
        await client.act(bid())
        await client.ask("PUT", "/fence", json={"epoch": 9})
        await client.ask("POST", "/reset")
        counts = await client.counts()
        return [counts["applied"], counts["epoch"], values(ads), (await client.act(bid())).data["ref"]]

    assert asked(scenario) == [0, -1, {}, "op-1"]


# --- start and end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hang", "stall", "late"])
def test_what_hangs_is_cut_at_the_end(kind: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "STOP_S", 600)

    async def scenario() -> list[object]:
        faults = Faults(next=(kind,), hang_s=600, late_s=600)
        async with aiohttp.ClientSession() as session:
            async with Platform(faults=faults, now_ms=StillClock()) as ads:
                client = Client(session)
                options = {"data": body_of(bid()), "headers": {"Idempotency-Key": "k"}}
                hanging = asyncio.ensure_future(client.ask("POST", f"{ads.url}/actions", **options))
                await until(lambda: ads.open)
            return [(await hanging).status, ads.open]

    status, still_open = within(scenario())

    assert status in (0, 503)
    assert still_open == 0


def test_a_port_that_is_taken_is_named():
    async def scenario() -> None:
        async with Platform() as ads, Platform(ads.port):
            pass

    with pytest.raises(UsageError, match=r"cannot listen on 127\.0\.0\.1:\d+ \(.*\); choose another port, 0 for any"):
        within(scenario())


def test_it_can_be_started_again_with_what_it_knows():
    async def scenario() -> list[object]:
        ads = Platform(now_ms=StillClock())
        options = http_options({"base_url": "http://127.0.0.1:1", "attempts": 1})
        found: list[object] = []
        for _ in range(2):
            async with ads, HttpAdapter(options.model_copy(update={"base_url": ads.url}), StillClock()) as adapter:
                found.append(type(await adapter.apply(bid(), "k", SOON, 0)))
        return [*found, ads.counts()["applied"]]

    assert within(scenario()) == [Applied, Applied, 1]


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run one in a process of its own; give it and its address."""
    command = [sys.executable, "-m", "hitl_stream.dev.platform", *arguments]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        yield running, running.stdout.readline().strip()
    finally:
        running.send_signal(signal.SIGCONT)
        running.kill()
        running.wait()
        running.stdout.close()


def test_a_process_of_its_own_says_where_it_is_and_ends_on_a_signal():
    with process("--port", "0", "--seed", "7", "--adopt", "--faults", '{"hang": 1, "hang_s": 600}') as (running, url):

        async def scenario() -> list[object]:
            async with HttpAdapter(http_options({"base_url": url, "call_s": 0.3}), wall_ms) as adapter:
                answer = await adapter.apply(bid(), "k", wall_ms() + 60_000, 0)
                running.send_signal(signal.SIGTERM)
                return [type(answer), await asyncio.to_thread(running.wait, 10)]

        assert within(scenario()) == [Unknown, 0]


def test_a_call_that_waits_in_a_stopped_process_does_no_harm_once_it_goes_on():
    """The executor has long given it up, and its lease is over, when the platform comes to read it."""
    with process() as (running, url):

        async def scenario() -> list[object]:
            options = http_options({"base_url": url, "call_s": 0.5, "read_s": 2, "attempts": 1, "fence": True})
            async with HttpAdapter(options, wall_ms) as adapter:
                await adapter.apply(bid(1), "k1", wall_ms() + 60_000, 0)
                os.kill(running.pid, signal.SIGSTOP)
                answer = await adapter.apply(bid(2, "1.30", "1.40"), "k2", wall_ms() + 1_000, 0)
                with pytest.raises(UnreadableError):
                    await adapter.present(bid().changes[0], bid())
                os.kill(running.pid, signal.SIGCONT)
                async with aiohttp.ClientSession(url) as session:
                    client = Client(session)
                    await until_async(lambda: _arrived(client, 2))
                    counts = await client.counts()
                back = await adapter.read_back(bid(2), "k2")
                value = await adapter.present(bid().changes[0], bid())
                return [type(answer), back, value, counts["applied"], counts["refused_late"]]

        assert within(scenario()) == [Unknown, NotApplied(), "1.30", 1, 1]


async def _arrived(client: Client, calls: int) -> bool:
    return (await client.counts())["calls"] == calls


async def until_async(reached: Callable[[], Awaitable[bool]]) -> None:
    while not await reached():  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--faults", "{"], "--faults: "),
        (["--faults", '{"fial": 1}'], "expected a JSON object with any of fail, busy, drop"),
        (["--faults", '{"fail": 1, "lose": 1}'], "the probabilities add up to 2, expected 1 at most"),
    ],
)
def test_what_cannot_be_started_says_why(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_clock_is_that_of_the_machine():
    assert abs(wall_ms() - time.time() * 1_000) < 1_000


def test_a_key_is_found_under_the_name_that_the_adapter_gives_it():
    async def scenario(ads: Platform, client: Client) -> int:
        key = wire_key("acme/act-1/9f86")
        await client.act(bid(), key)
        return (await client.ask("GET", f"/actions/{key}")).status

    assert asked(scenario) == 200
