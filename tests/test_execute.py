"""The adapter's contract: what it asks for, and that `check_adapter` finds out who breaks it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hitl_stream.core.action import Action, Change, Value
from hitl_stream.execute import Adapter, Applied, Applying, Failed, NotApplied, ReadingBack, Unknown
from hitl_stream.testing import check_adapter
from support.ads import StillClock, bid
from support.kafka import within
from support.make import change, make_action

DOCS = (Path(__file__).parents[1] / "docs" / "adapters.md").read_text(encoding="utf-8")


class Desk(Adapter):
    """A platform and its adapter in one, that keeps the contract; those below break one thing each."""

    fence = True

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self.values: dict[tuple[str, Any, str], Value | None] = {}
        self.refs: dict[str, str] = {}
        self.applications: list[str] = []
        self.entered = 0

    async def __aenter__(self) -> Desk:
        self.entered += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.entered -= 1

    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        await asyncio.sleep(0)
        if idempotency_key in self.refs:
            return Applied(self.refs[idempotency_key])
        if self.fence and self.now_ms() > not_after_ms:
            return Unknown("too late")
        return self.carry_out(action, idempotency_key)

    def carry_out(self, action: Action, key: str) -> Applied:
        self.applications.append(action.action_id)
        for leg in action.changes:
            self.values[(action.tenant, leg.entity, leg.field)] = leg.after
        ref = self.refs[key] = f"ref-{len(self.applications)}"
        return Applied(ref)

    async def read_back(self, action: Action, idempotency_key: str) -> ReadingBack:
        ref = self.refs.get(idempotency_key)
        return NotApplied() if ref is None else Applied(ref)

    async def present(self, change: Change, action: Action) -> Value | None:
        return self.values.setdefault((action.tenant, change.entity, change.field), "1.20")


class ForgetsKeys(Desk):
    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        if self.now_ms() > not_after_ms:
            return Unknown("too late")
        return self.carry_out(action, idempotency_key)


class ForgetsKeysAndRefs(ForgetsKeys):
    def carry_out(self, action: Action, key: str) -> Applied:
        super().carry_out(action, key)
        self.refs[key] = "the only one"
        return Applied()


class MakesUpKeys(Desk):
    """Sends a key of its own each time, as one does who calls `uuid4` in the wrong place."""

    keys = count()

    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        answer = await super().apply(action, f"{next(self.keys)}", not_after_ms, epoch)
        self.refs[idempotency_key] = "asked"
        return Applied() if isinstance(answer, Applied) else answer


class LosesRaces(Desk):
    """Looks the key up, waits, and only then carries out."""

    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        if idempotency_key in self.refs:
            return Applied(self.refs[idempotency_key])
        await asyncio.sleep(0)
        return Unknown("too late") if self.now_ms() > not_after_ms else self.carry_out(action, idempotency_key)


class NeverKnows(Desk):
    async def read_back(self, action: Action, idempotency_key: str) -> ReadingBack:
        return NotApplied()


class AlwaysKnows(Desk):
    async def read_back(self, action: Action, idempotency_key: str) -> ReadingBack:
        return Applied()


class CarriesOutWhatItIsAsked(Desk):
    async def read_back(self, action: Action, idempotency_key: str) -> ReadingBack:
        answer = await super().read_back(action, idempotency_key)
        if isinstance(answer, NotApplied):
            self.refs[idempotency_key] = "asked"
        return answer


class SaysItIsFenced(Desk):
    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        return await super().apply(action, idempotency_key, self.now_ms(), epoch)


class CarriesOutLateAndDenies(Desk):
    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        answer = await super().apply(action, idempotency_key, not_after_ms, epoch)
        if answer == Unknown("too late"):
            self.carry_out(action, idempotency_key)
        return answer


class BelievesTheAgent(Desk):
    async def present(self, change: Change, action: Action) -> Value | None:
        return change.before


class CannotRead(Desk):
    async def present(self, change: Change, action: Action) -> Value | None:
        raise ConnectionError("no route")


class DoesNothing(Desk):
    def carry_out(self, action: Action, key: str) -> Applied:
        self.refs[key] = key
        return Applied(key)


class Refuses(Desk):
    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        return Failed(422, "no such campaign")


class Raises(Desk):
    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        raise ConnectionError("no route")


class AnswersTrue(Desk):
    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        await super().apply(action, idempotency_key, not_after_ms, epoch)
        answer: Any = True
        return answer


class ReadsBackNone(Desk):
    async def read_back(self, action: Action, idempotency_key: str) -> ReadingBack:
        answer: Any = self.refs.get(idempotency_key)
        return answer


class SwallowsTheCut(Desk):
    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        try:
            return await super().apply(action, idempotency_key, not_after_ms, epoch)
        except asyncio.CancelledError:
            return Unknown("cut")


class GoesOnAfterTheCut(Desk):
    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        try:
            return await super().apply(action, idempotency_key, not_after_ms, epoch)
        except asyncio.CancelledError:
            await asyncio.sleep(5)
            raise


BROKEN = {
    ForgetsKeys: "one key has two refs",
    ForgetsKeysAndRefs: "present of /changes/0 after the same key came again, and nothing was to change: '1.30'",
    MakesUpKeys: "present of /changes/0 after the same key came again",
    LosesRaces: "one key has two refs",
    NeverKnows: "read_back of a key that was applied: NotApplied(), expected Applied",
    AlwaysKnows: "read_back of a key that was never used: Applied(",
    CarriesOutWhatItIsAsked: "read_back of a key that was never used: Applied(",
    SaysItIsFenced: "it says `fence`, and yet carried out what was past its not_after_ms",
    CarriesOutLateAndDenies: "read_back of what was past its not_after_ms: Applied(",
    BelievesTheAgent: "present of /changes/0 after it was carried out: '1.20', expected '1.30'",
    CannotRead: "present raised ConnectionError: no route",
    DoesNothing: "present of /changes/0 after it was carried out: '1.20', expected '1.30'",
    Refuses: "apply: Failed(code=422, text='no such campaign'), expected Applied; give an action that the platform",
    Raises: "apply: Unknown(text='apply raised ConnectionError: no route'), expected Applied",
    AnswersTrue: "apply answered True, expected Applied, Failed or Unknown",
    ReadsBackNone: "read_back answered None, expected Applied, NotApplied or Unknown",
    SwallowsTheCut: "apply was cancelled and answered all the same; let CancelledError through",
    GoesOnAfterTheCut: "apply was cancelled and still runs after 1 s",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_an_adapter_that_breaks_its_contract_is_found_out(broken: type[Desk]):
    clock = StillClock()

    with pytest.raises(AssertionError) as found:
        within(check_adapter(broken(clock), bid(), now_ms=clock))

    assert BROKEN[broken] in str(found.value)


@pytest.mark.parametrize("broken", [ForgetsKeys, ForgetsKeysAndRefs, MakesUpKeys, LosesRaces])
def test_what_cannot_be_read_back_is_found_by_counting(broken: type[Desk]):
    """A post has no value that stands anywhere; the platform says how often it was made."""
    clock = StillClock()
    post = make_action(changes=..., type="post.own", entity={"account": "acc-17"}, content={"text": "A day."})
    desk = broken(clock)
    refless = Silent(desk)

    async def applied(action: Action) -> int:
        return desk.applications.count(action.action_id)

    with pytest.raises(AssertionError, match="carried out one key 2 times, expected 1"):
        within(check_adapter(refless, post, applied=applied, now_ms=clock))


class Silent(Adapter):
    """Another adapter, without its refs."""

    fence = True

    def __init__(self, other: Adapter) -> None:
        self.other = other

    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        answer = await self.other.apply(action, idempotency_key, not_after_ms, epoch)
        return Applied() if isinstance(answer, Applied) else answer

    async def read_back(self, action: Action, idempotency_key: str) -> ReadingBack:
        answer = await self.other.read_back(action, idempotency_key)
        return Applied() if isinstance(answer, Applied) else answer

    async def present(self, change: Change, action: Action) -> Value | None:
        return await self.other.present(change, action)


def test_an_adapter_that_keeps_its_contract_is_told_what_was_tried():
    clock = StillClock()
    desk = Desk(clock)
    moves = make_action(changes=[change(campaign="cmp-1"), change(campaign="cmp-2")])

    good = within(check_adapter(desk, moves, now_ms=clock))

    assert good == (
        "a key that was never used is not applied, and asking for it changes nothing",
        "present reads what stands there, and changes nothing",
        "an action is carried out",
        "a key that was applied reads back as applied",
        "what was carried out stands there",
        "the same key again changes nothing",
        "two calls at once with one key are one",
        "a call that is past its not_after_ms changes nothing",
        "a call that is cut off ends at once",
    )
    assert set(desk.values.values()) == {"1.20"}, "everything is undone"
    assert desk.entered == 0, "and closed"


def test_what_is_not_claimed_is_not_tried():
    clock = StillClock()
    desk = Desk(clock)
    desk.fence = False

    assert not [good for good in within(check_adapter(desk, bid(), now_ms=clock)) if "not_after" in good]


@pytest.mark.parametrize(("before", "after"), [(None, "1.30"), ("1.30", "1.3")])
def test_an_action_that_cannot_be_undone_is_no_good_for_trying(before: Any, after: Any):
    with pytest.raises(AssertionError, match="needs changes that can be undone"):
        within(check_adapter(Desk(StillClock()), bid(before=before, after=after)))


def test_an_adapter_that_lacks_a_method_cannot_be_made():
    class Half(Adapter):
        async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
            return Applied()

    kind: Any = Half
    with pytest.raises(TypeError, match="abstract methods present, read_back"):
        kind()


def test_an_adapter_is_not_fenced_unless_it_says_so():
    assert Adapter.fence is False


# --- docs/adapters.md -------------------------------------------------------------------------------------------------


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)


class Orders:
    """The platform that the example speaks with."""

    def __init__(self) -> None:
        self.orders: dict[str, str] = {}
        self.values: dict[tuple[str, ...], Any] = {}

    async def post(self, request: web.Request) -> web.Response:
        order = await request.json()
        if order["key"] not in self.orders:
            self.orders[order["key"]] = f"o-{len(self.orders)}"
            for leg in order["legs"]:
                self.values[order["advertiser"], leg["campaign"], leg["field"]] = leg["to"]
        return web.json_response({"order": self.orders[order["key"]]})

    async def get(self, request: web.Request) -> web.Response:
        found = self.orders.get(request.query["key"])
        return web.json_response([] if found is None else [{"order": found}])

    async def value(self, request: web.Request) -> web.Response:
        where = tuple(request.query[name] for name in ("advertiser", "campaign", "field"))
        return web.json_response({"value": self.values.get(where, "1.20")})


async def serving(scenario: Callable[[str], Awaitable[Any]]) -> Any:
    orders = Orders()
    app = web.Application()
    app.add_routes([web.post("/orders", orders.post), web.get("/orders", orders.get), web.get("/values", orders.value)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        return await scenario(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


def test_the_adapter_of_the_documentation_keeps_the_contract():
    names: dict[str, Any] = {}
    exec(blocks()[0], names)

    good = within(serving(lambda url: check_adapter(names["BidDesk"](url), bid())))

    assert "the same key again changes nothing" in good


def test_the_test_of_the_documentation_runs():
    """As a reader would run it: outside of any event loop."""
    names: dict[str, Any] = {"action": bid()}
    exec(blocks()[0], names)
    exec(blocks()[1], names)

    async def scenario(url: str) -> None:
        names["sandbox_url"] = url
        await asyncio.to_thread(names["test_my_adapter_keeps_its_contract"])

    within(serving(scenario))


def test_the_documentation_names_what_there_is():
    from hitl_stream.adapters import BUILT_IN
    from hitl_stream.adapters.http import HttpOptions

    for name in BUILT_IN:
        assert f'adapter = "{name}"' in DOCS
    options = DOCS[DOCS.index("Options: `base_url`") :]
    for name in HttpOptions.model_fields:
        assert f"`{name}`" in options.partition("\n\n")[0], name
