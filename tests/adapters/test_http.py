"""The HTTP adapter against the fake platform and other servers, over real sockets on this machine."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import stamina
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hitl_stream.adapters.http import (
    KEY_LENGTH_MAX,
    HttpAdapter,
    UnreadableError,
    _NotAcceptedError,
    body_of,
    http_options,
    settle,
    wire_key,
)
from hitl_stream.core.errors import SettingsError
from hitl_stream.dev.platform import NO_FAULTS, Faults, Place, Platform
from hitl_stream.execute import Applied, Applying, Failed, NotApplied, ReadingBack, Unknown, traceparent
from hitl_stream.testing import check_adapter
from support.ads import BID, KEY, LEASE_MS, StillClock, bid, key_of, trying, until
from support.kafka import within
from support.make import NOW_MS, change, first_line, make_action

T = TypeVar("T")
SOON = NOW_MS + LEASE_MS
HANG_S = 20.0
"""Longer than any scenario here takes: what hangs so long is ended by the adapter, or by the platform's end."""


def answering(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    scenario: Callable[[HttpAdapter], Awaitable[T]],
    **options: Any,
) -> T:
    """Run a scenario with an adapter whose every request is answered by `handler`."""

    async def run() -> T:
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", handler)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with HttpAdapter(http_options({"base_url": base_url, **options}), StillClock()) as adapter:
                return await scenario(adapter)
        finally:
            await runner.cleanup()

    return within(run())


def refused(**options: Any) -> str:
    with pytest.raises(SettingsError) as found:
        http_options(options)
    return str(found.value)


@contextmanager
def retries() -> Iterator[list[str]]:
    """Give what caused each attempt that follows another."""
    causes: list[str] = []
    before = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([lambda details: causes.append(type(details.caused_by).__name__)])
    try:
        yield causes
    finally:
        stamina.instrumentation.set_on_retry_hooks(before)


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_an_action_arrives_once_with_its_key_its_time_and_its_epoch():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> Applying:
        answer = await adapter.apply(bid(), KEY, SOON, 812)
        (call,) = ads.calls_since(0)
        assert (call.key, call.not_after_ms, call.epoch) == (wire_key(KEY), SOON, 812)
        assert (call.tenant, call.action_id, call.type, call.campaigns) == (
            "acme",
            "act-1",
            "bid.adjust",
            ("acc-17/cmp-204",),
        )
        assert ads.books.values[BID].value == "1.30"
        return answer

    assert trying(scenario) == Applied("op-1", 200, {"/changes/0": "1.30"})


def test_the_body_says_what_to_do_and_not_what_argues_for_it():
    body = json.loads(body_of(make_action(**first_line(confidence=0.9, rationale="because", flags=["ethical"]))))

    assert set(body) == {"tenant", "action_id", "type", "entity", "changes", "content", "context"}
    assert body["content"]["text"].startswith("Hello Anna")
    assert body["context"] == {"segment": "mid-saas", "company": "Acme"}


def test_the_trace_of_an_action_is_sent_along():
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    seen: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.get("traceparent"))
        return web.Response()

    async def scenario(adapter: HttpAdapter) -> None:
        for text in ("", trace, "no\r\nHeader: x"):
            traceparent.set(text)
            await adapter.apply(bid(), KEY, SOON, 0)

    answering(handler, scenario)

    assert seen == [None, trace, None]


@given(st.text(max_size=300))
def test_a_key_is_sent_in_characters_that_no_server_minds(key: str):
    sent = wire_key(key)

    assert len(sent) <= KEY_LENGTH_MAX
    assert sent[0].isalnum()
    assert set(sent) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-")


@given(st.text("a/~%F2é.", max_size=6), st.text("a/~%F2é.", max_size=6))
def test_two_keys_are_sent_as_two(one: str, other: str):
    assert (wire_key(one) == wire_key(other)) == (one == other)


@pytest.mark.parametrize(
    "key", ["acme/act-1/9f86", "a b?c#d&e", "../../counts", "..", ".", "~", "ä/ö\n\r", "x" * 300, "%2F", ""]
)
def test_a_key_reads_back_whatever_stands_in_it(key: str):
    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        before = await adapter.read_back(bid(), key)
        await adapter.apply(bid(), key, SOON, 0)
        return [before, type(await adapter.read_back(bid(), key)), ads.counts()["applied"]]

    assert trying(scenario) == [NotApplied(), Applied, 1]


@pytest.mark.parametrize("name", ["a&field=b", "a=b", "?#", "ä/../ö", "a b+c%20", "\n", '"<>'])
def test_a_place_is_found_whatever_stands_in_its_name(name: str):
    async def scenario(ads: Platform, adapter: HttpAdapter) -> object:
        ads.books.put(Place(f"t{name}", f"a{name}", f"c{name}", f"f{name}"), "7.5")
        (odd,) = bid(account=f"a{name}", campaign=f"c{name}", field=f"f{name}").changes
        return await adapter.present(odd, replace(bid(), tenant=f"t{name}"))

    assert trying(scenario) == "7.5"


# --- what answers mean ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Applied("op-7", 200)), (201, Applied("op-7", 201)), (204, Applied("op-7", 204)),
        (202, Unknown), (207, Unknown), (302, Unknown), (307, Unknown),
        (400, Failed), (401, Failed), (403, Failed), (404, Failed), (410, Failed), (412, Failed), (422, Failed),
        (408, Unknown), (409, Unknown), (425, Unknown), (429, Unknown),
        (500, Unknown), (501, Unknown), (502, Unknown), (503, Unknown), (504, Unknown),
    ],
)  # fmt: skip
def test_a_status_means_what_it_says(status: int, expected: object):
    found = settle(status, None, b'{"ref": "op-7"}')

    assert found == expected if isinstance(expected, Applied) else type(found) is expected


@pytest.mark.parametrize("status", [429, 503])
def test_not_accepted_is_told_apart_by_when_to_come_again(status: int):
    with pytest.raises(_NotAcceptedError) as found:
        settle(status, " 17 ", b"")

    assert found.value.retry_after_s == 17


@pytest.mark.parametrize("retry_after", ["Sat, 21 Nov 2026 07:10:00 GMT", "-1", "soon", "", "1.5", "9" * 40])
def test_a_time_to_come_again_that_is_no_number_of_seconds_is_none(retry_after: str):
    assert isinstance(settle(503, retry_after, b""), Unknown)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b'{"ref": 7}', b'{"present": [1]}', b"[" * 60_000])
def test_a_body_that_cannot_be_read_takes_nothing_from_the_status(body: bytes):
    assert settle(200, None, body) == Applied(None, 200)
    assert isinstance(settle(403, None, body), Failed)
    assert isinstance(settle(500, None, body), Unknown)


def test_what_the_platform_said_is_shown_in_short_and_without_tricks():
    found = settle(422, None, b"\x1b[2Jno such campaign" + b"." * 9_000)

    assert isinstance(found, Failed)
    assert found.text.startswith("\\x1b[2Jno such campaign...")
    assert len(found.text) == 500


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "answer", "read_back", "applied"),
    [
        (Faults(next=("fail",)), Unknown, NotApplied, 0),
        (Faults(next=("fail",), fail_code=409), Unknown, NotApplied, 0),
        (Faults(next=("fail",), fail_code=422), Failed, NotApplied, 0),
        (Faults(next=("drop",)), Unknown, NotApplied, 0),
        (Faults(next=("lose",)), Unknown, Applied, 1),
        (Faults(next=("hang",), hang_s=HANG_S), Unknown, NotApplied, 0),
        (Faults(next=("stall",), hang_s=HANG_S), Unknown, Applied, 1),
        (Faults(next=("busy",), retry_after_s=None), Unknown, NotApplied, 0),
        (Faults(next=("busy",), retry_after_s=None, busy_code=429), Unknown, NotApplied, 0),
    ],
)
def test_each_fault_is_told_as_what_it_is_and_nothing_is_sent_twice(
    faults: Faults, answer: type, read_back: type, applied: int
):
    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        found = await adapter.apply(bid(), KEY, SOON, 0)
        back = await adapter.read_back(bid(), KEY)
        return [type(found), type(back), ads.counts()["applied"], ads.counts()["calls"]]

    patience_s = 0.5 if faults.hang_s == HANG_S else 10

    assert trying(scenario, faults, call_s=patience_s) == [answer, read_back, applied, 1]


def test_what_is_carried_out_late_is_unknown_until_it_is():
    """The platform has the call, the adapter has lost patience; nobody calls it "not applied" meanwhile."""

    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        seen = [type(await adapter.apply(bid(), KEY, SOON, 0))]
        while (found := type(await adapter.read_back(bid(), KEY))) is not Applied:
            seen.append(found)
        return [*dict.fromkeys(seen), ads.counts()["calls"], ads.counts()["applied"]]

    assert trying(scenario, Faults(next=("late",), late_s=1.5), call_s=0.6) == [Unknown, 1, 1]


def test_a_platform_that_says_nothing_is_named_as_such():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> Applying:
        return await adapter.apply(bid(), KEY, SOON, 0)

    found = trying(scenario, Faults(next=("hang",), hang_s=HANG_S), call_s=0.2)

    assert found == Unknown("TimeoutError: no answer in time")


def test_what_was_not_carried_out_can_be_sent_again_under_the_same_key():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        answers = [type(await adapter.apply(bid(), KEY, SOON, 0)) for _ in range(4)]
        return [*answers, ads.counts()["applied"], ads.counts()["repeats"]]

    assert trying(scenario, Faults(next=("drop", "lose"))) == [Unknown, Unknown, Applied, Applied, 1, 2]


@pytest.mark.parametrize("code", [429, 503])
def test_what_was_not_accepted_is_sent_again_at_the_time_that_the_platform_says(code: Any):
    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        answer = await adapter.apply(bid(), KEY, SOON, 0)
        return [type(answer), {call.key for call in ads.calls_since(0)} == {wire_key(KEY)}, ads.counts()]

    answer, one_key, counts = trying(scenario, Faults(next=("busy", "busy"), retry_after_s=0, busy_code=code))

    assert (answer, one_key, counts["calls"], counts["applied"]) == (Applied, True, 3, 1)


def test_a_time_to_come_again_past_not_after_means_no_second_call():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        return [await adapter.apply(bid(), KEY, NOW_MS + 1_000, 0), ads.counts()["calls"]]

    answer, calls = trying(scenario, Faults(busy=1.0, retry_after_s=1))

    assert answer == Unknown("not accepted: HTTP 503; Retry-After 1 s")
    assert calls == 1


def test_a_request_is_sent_a_limited_number_of_times():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        return [type(await adapter.apply(bid(), KEY, SOON, 0)), ads.counts()["calls"], ads.counts()["applied"]]

    assert trying(scenario, Faults(busy=1.0, retry_after_s=0), attempts=3) == [Unknown, 3, 0]


def test_nothing_is_sent_once_not_after_has_come():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        return [await adapter.apply(bid(), KEY, NOW_MS, 0), ads.counts()["calls"]]

    assert trying(scenario) == [Unknown("not sent: its time was over"), 0]


def test_nothing_is_sent_again_once_not_after_has_come():
    """The clock runs while the adapter waits for its turn."""
    clock = StillClock()

    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        def overtake(details: object) -> None:
            clock.ms = SOON

        stamina.instrumentation.set_on_retry_hooks([overtake])
        return [await adapter.apply(bid(), KEY, SOON, 0), ads.counts()["calls"]]

    with retries():
        answer = trying(scenario, Faults(busy=1.0, retry_after_s=0), clock=clock)

    assert answer == [Unknown("not sent: its time was over"), 1]


def test_a_platform_that_is_not_there_is_tried_again_since_nothing_was_sent():
    async def scenario(adapter: HttpAdapter) -> Applying:
        async with adapter:
            return await adapter.apply(bid(), KEY, SOON, 0)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    adapter = HttpAdapter(http_options({"base_url": f"http://127.0.0.1:{port}", "attempts": 3}), StillClock())
    with retries() as causes:
        answer = within(scenario(adapter))

    assert isinstance(answer, Unknown)
    assert answer.text.startswith("ClientConnectorError: ")
    assert causes == ["ClientConnectorError"] * 2


def test_a_connection_that_is_made_at_the_second_attempt_is_used():
    async def scenario() -> list[object]:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        clock, ads = StillClock(), Platform(port, now_ms=StillClock())
        options = http_options({"base_url": f"http://127.0.0.1:{port}", "attempts": 10})
        async with HttpAdapter(options, clock) as adapter:
            applying = asyncio.ensure_future(adapter.apply(bid(), KEY, SOON, 0))
            await until(lambda: causes)
            async with ads:
                return [type(await applying), ads.counts()["calls"], ads.counts()["applied"]]

    with retries() as causes:
        assert within(scenario()) == [Applied, 1, 1]


def test_who_waits_for_a_free_connection_has_sent_nothing():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        first = asyncio.ensure_future(adapter.apply(bid(1), key_of(bid(1)), SOON, 0))
        await until(lambda: ads.open)
        answer = await adapter.apply(bid(2), key_of(bid(2)), SOON, 0)
        first.cancel()
        await asyncio.wait((first,))
        return [type(answer), [call.action_id for call in ads.calls_since(0)]]

    faults = Faults(next=("hang",), hang_s=HANG_S)

    assert trying(scenario, faults, connections=1, connect_s=0.2, attempts=1) == [Unknown, ["act-1"]]


def test_who_waits_for_a_free_connection_waits_no_longer_than_its_time():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        first = asyncio.ensure_future(adapter.apply(bid(1), key_of(bid(1)), SOON, 0))
        await until(lambda: ads.open)
        answer = await adapter.apply(bid(2), key_of(bid(2)), NOW_MS + 200, 0)
        await first
        return [type(answer), [call.action_id for call in ads.calls_since(0)]]

    faults = Faults(next=("hang",), hang_s=0.6)

    assert trying(scenario, faults, connections=1, connect_s=9, attempts=1) == [Unknown, ["act-1"]]


def test_a_call_that_is_cut_off_ends_at_once_and_is_not_sent_again():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        applying = asyncio.ensure_future(adapter.apply(bid(), KEY, SOON, 0))
        await until(lambda: ads.open)
        applying.cancel()
        done, _ = await asyncio.wait((applying,), timeout=1)
        return [len(done), applying.cancelled(), ads.counts()["calls"]]

    assert trying(scenario, Faults(next=("hang",), hang_s=HANG_S)) == [1, True, 1]


@pytest.mark.parametrize("behind_ms", [-1, -60_000])
def test_a_call_that_the_fence_refuses_is_asked_about_and_not_given_up(behind_ms: int):
    """The platform's clock says that it is too late; the next lease may be in time."""
    clock = StillClock(SOON + behind_ms)

    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        answer = await adapter.apply(bid(), KEY, SOON, 0)
        return [answer, await adapter.read_back(bid(), KEY), ads.counts()["refused_late"]]

    found = trying(scenario, clock=clock, platform={"now_ms": StillClock(SOON + 1)}, fence=True)

    assert found == [Unknown("refused by the fence: too_late"), NotApplied(), 1]


def test_a_call_of_an_old_epoch_is_refused_by_the_fence():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        ads.books.epoch = 816
        answers = [await adapter.apply(bid(), KEY, SOON, epoch) for epoch in (815, 816)]
        return [answers[0], type(answers[1]), ads.counts()["refused_epoch"], ads.counts()["applied"]]

    assert trying(scenario, fence=True) == [Unknown("refused by the fence: old_epoch"), Applied, 1, 1]


def test_a_redirect_is_not_followed():
    paths: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async def scenario(adapter: HttpAdapter) -> list[type]:
        return [type(await adapter.apply(bid(), KEY, SOON, 0)), type(await adapter.read_back(bid(), KEY))]

    assert answering(handler, scenario) == [Unknown, Unknown]
    assert paths == ["/actions", f"/actions/{wire_key(KEY)}"]


def test_of_an_endless_answer_only_the_status_is_used():
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        with suppress(ConnectionError):
            while True:
                await answer.write(b" " * 4_096)
        return answer

    assert answering(handler, lambda adapter: adapter.apply(bid(), KEY, SOON, 0)) == Applied(None, 200)


def test_an_answer_that_is_cut_short_is_none():
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "1000"})
        await answer.prepare(request)
        await answer.write(b'{"ref": "op-7"')
        assert request.transport is not None
        request.transport.abort()
        return answer

    assert isinstance(answering(handler, lambda adapter: adapter.apply(bid(), KEY, SOON, 0)), Unknown)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_goes_wrong_nothing_is_carried_out_twice_and_nothing_is_lost(seed: int):
    """As an executor does it: what is unknown is asked about, what is not applied is sent again under its key."""
    faults = Faults(
        fail=0.1, busy=0.1, drop=0.1, hang=0.02, late=0.05, lose=0.2, stall=0.03,
        retry_after_s=0, hang_s=0.3, late_s=0.1, reads=True,
    )  # fmt: skip

    async def carry_out(adapter: HttpAdapter, number: int) -> None:
        action = bid(number, campaign=f"cmp-{number}")
        while True:
            found: Applying | ReadingBack = await adapter.apply(action, key_of(action), SOON, 0)
            while isinstance(found, Unknown):
                found = await adapter.read_back(action, key_of(action))
            assert not isinstance(found, Failed)
            if isinstance(found, Applied):
                return

    async def scenario(ads: Platform, adapter: HttpAdapter) -> dict[str, int]:
        await asyncio.gather(*(carry_out(adapter, number) for number in range(200)))
        assert [entry.applied for entry in ads.books.actions.values()] == [1] * 200
        return ads.counts()

    counts = trying(scenario, faults, platform={"seed": seed}, call_s=0.2, read_s=0.5)

    assert (counts["applied"], counts["actions"], counts["twice"]) == (200, 200, 0)
    assert min(counts[kind] for kind in ("fail", "busy", "drop", "hang", "late", "lose", "stall")) > 0


# --- reading ----------------------------------------------------------------------------------------------------------


def test_the_value_that_stands_there_is_read():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> object:
        return await adapter.present(bid(before="9").changes[0], bid())

    assert trying(scenario) == "1.20"


def test_what_the_platform_does_not_know_is_nothing():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> object:
        return await adapter.present(bid(campaign="cmp-404").changes[0], bid())

    assert trying(scenario) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"value": 1.5}', 1.5),
        ('{"value": 3}', 3.0),
        ('{"value": true, "unit": null}', True),
        ('{"value": "paused", "as_of": "…"}', "paused"),
        ('{"value": "1.20", "unit": "EUR"}', "1.20"),
        ('{"value": null}', None),
    ],
)
def test_a_value_is_read_as_it_is(body: str, expected: object):
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=body)

    found = answering(handler, lambda adapter: adapter.present(bid().changes[0], bid()))

    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (200, '{"value": "1.20", "unit": "USD"}', "counts in 'USD', the change in 'EUR'"),
        (200, "{}", "no value"),
        (200, "1.20", "no value"),
        (200, '{"value": [1]}', "no value"),
        (500, "trouble", "HTTP 500: trouble"),
        (401, "", "HTTP 401"),
        (302, "", "HTTP 302"),
    ],
)
def test_what_cannot_be_read_is_an_error_and_never_a_value(status: int, body: str, why: str):
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    with pytest.raises(UnreadableError, match=why):
        answering(handler, lambda adapter: adapter.present(bid().changes[0], bid()))


@pytest.mark.parametrize("fault", ["drop", "hang"])
def test_a_reading_without_an_answer_is_an_error(fault: Any):
    faults = Faults(next=(fault,) * 9, hang_s=HANG_S, reads=True)

    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        with pytest.raises(UnreadableError):
            await adapter.present(bid().changes[0], bid())
        return [type(await adapter.read_back(bid(), KEY))]

    assert trying(scenario, faults, read_s=0.3) == [Unknown]


def test_a_reading_is_tried_again_while_the_platform_is_away():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> list[object]:
        found = await adapter.present(bid().changes[0], bid())
        return [found, ads.counts()["reads"]]

    assert trying(scenario, Faults(next=("busy", "busy"), reads=True)) == ["1.20", 3]
    with pytest.raises(UnreadableError, match="not accepted: HTTP 503"):
        trying(scenario, Faults(busy=1, reads=True), attempts=2)


# --- options ----------------------------------------------------------------------------------------------------------


def test_a_token_is_read_from_its_file_before_each_request(tmp_path: Path):
    seen: list[str] = []
    token = tmp_path / "token"
    token.write_text("first\n")

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response(text='{"value": "1.20"}')

    async def scenario(adapter: HttpAdapter) -> Applying:
        await adapter.apply(bid(), KEY, SOON, 0)
        token.write_text("second")
        await adapter.read_back(bid(), KEY)
        await adapter.present(bid().changes[0], bid())
        token.unlink()
        return await adapter.apply(bid(), KEY, SOON, 0)

    answer = answering(handler, scenario, token_file=str(token))

    assert seen == ["Bearer first", "Bearer second", "Bearer second"]
    assert isinstance(answer, Unknown)
    assert "cannot be read (No such file" in answer.text


@pytest.mark.parametrize("content", [None, b"", b"two words", b"two\nlines", b"\xff", b"x" * 20_000])
def test_a_token_that_cannot_be_used_stops_the_start(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "token").write_bytes(content)

    with pytest.raises(SettingsError, match=r"^adapter_options.token_file: ") as found:
        trying(lambda ads, adapter: asyncio.sleep(0), token_file=str(tmp_path / "token"))
    assert "two" not in str(found.value)


def test_a_token_can_be_given_itself_and_is_never_shown():
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response()

    options = http_options({"base_url": "http://ads", "token": "hush"})
    answering(handler, lambda adapter: adapter.read_back(bid(), KEY), token="hush")

    assert seen == ["Bearer hush"]
    assert "hush" not in f"{options} {options!r}"
    assert "hush" not in refused(base_url="http://ads", token=["hush"])
    assert "both token and token_file" in refused(base_url="http://ads", token="hush", token_file="/x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "adapter_options.base_url: Field required"),
        ({"base_url": "ads.example"}, "adapter_options.base_url: expected a URL such as"),
        ({"base_url": "ftp://ads.example"}, "adapter_options.base_url: expected a URL such as"),
        ({"base_url": "http://u:hush@ads"}, "adapter_options.base_url: expected a URL without user"),
        ({"base_url": "http://ads?x=1"}, "adapter_options.base_url: expected a URL without user"),
        (
            {"base_url": "http://ads", "call_s": "x"},
            "adapter_options.call_s: found 'x': Input should be a valid number",
        ),
        ({"base_url": "http://ads", "call_s": 30}, "adapter_options.call_s: found 30: Input should be less than or"),
        ({"base_url": "http://ads", "attempts": 0}, "adapter_options.attempts: found 0: Input should be greater"),
        (
            {"base_url": "http://ads", "fence": "maybe"},
            "adapter_options.fence: found 'maybe': Input should be a valid b",
        ),
        ({"base_url": "http://ads", "fance": True}, "adapter_options.fance: Extra inputs are not permitted"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options: dict[str, Any], message: str):
    said = refused(**options)

    assert said.startswith(message)
    assert "hush" not in said


def test_options_may_come_as_texts_from_the_environment():
    options = http_options({"base_url": "http://ads/v1/", "fence": "true", "call_s": "2.5", "connections": "8"})

    assert (options.base_url, options.fence, options.call_s, options.connections) == ("http://ads/v1", True, 2.5, 8)


def test_a_base_url_may_have_a_path():
    paths: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.path_qs)
        return web.Response(text='{"value": "1"}')

    async def run(adapter: HttpAdapter) -> None:
        options = http_options({"base_url": f"{adapter.options.base_url}/v1%2F2/"})
        async with HttpAdapter(options, StillClock()) as deeper:
            await deeper.apply(bid(), KEY, SOON, 0)
            await deeper.read_back(bid(), KEY)
            await deeper.present(make_action(changes=[change(campaign=None)]).changes[0], bid())

    answering(handler, run)

    assert paths == [
        "/v1%2F2/actions",
        "/v1%2F2/actions/acme~2Fact-1~2F9f86",
        "/v1%2F2/present?tenant=acme&account=acc-17&field=bid",
    ]


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fence", [True, False])
def test_it_keeps_the_contract_of_an_adapter(fence: bool):
    async def scenario() -> tuple[str, ...]:
        async with Platform(fence=fence) as ads:
            ads.books.put(BID, "1.20", "EUR")
            adapter = HttpAdapter(http_options({"base_url": ads.url, "fence": fence}), ads.now_ms)

            async def applied(action: Any) -> int:
                entry = ads.books.actions.get((action.tenant, action.action_id))
                return 0 if entry is None else entry.applied

            return await check_adapter(adapter, bid(), applied=applied, now_ms=ads.now_ms)

    good = within(scenario())

    assert len(good) == (9 if fence else 8)
    assert ("a call that is past its not_after_ms changes nothing" in good) is fence


def test_it_is_of_no_use_before_it_is_entered():
    adapter = HttpAdapter(http_options({"base_url": "http://ads"}), StillClock())

    with pytest.raises(RuntimeError, match="async with"):
        within(adapter.apply(bid(), KEY, SOON, 0))


def test_no_fault_means_no_fault():
    async def scenario(ads: Platform, adapter: HttpAdapter) -> object:
        for number in range(20):
            await adapter.apply(bid(number), key_of(bid(number)), SOON, 0)
        return ads.counts()["applied"]

    assert trying(scenario, NO_FAULTS) == 20
