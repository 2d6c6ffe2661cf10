"""The pages' shells, a browser's session, and what a browser is told without asking."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from hitl_stream.console import events
from hitl_stream.console.browser import COOKIE
from hitl_stream.console.events import IDENTIFY_S, STREAMS_MAX, Streams
from hitl_stream.console.office import Who
from hitl_stream.console.pages import PAGES
from hitl_stream.console.people import SESSION_MS, Scope
from hitl_stream.console.problems import ProblemError
from hitl_stream.core.errors import UnreachableError
from hitl_stream.core.events import Mode
from hitl_stream.core.switches import Switch
from support.console import PASSWORD, PEOPLE, Front, front, run
from support.make import NOW_MS, FakeRecord
from support.view import review

Scenario = Callable[[Front], Awaitable[Any]]
HERE = {"Origin": "http://localhost", "X-Hitl-Console": "1"}
PATHS = [page.path.replace("{queue}", "trading") for page in PAGES]


@pytest.fixture
def console(tmp_path: Path) -> Callable[..., Any]:
    """Run a scenario over a console into which records were folded."""

    def done(scenario: Scenario, *records: FakeRecord, **parts: Any) -> Any:
        async def go() -> Any:
            async with front(tmp_path, *records, **{"names": ("ana",), **parts}) as found:
                return await scenario(found)

        return run(go())

    return done


async def post(found: Front, body: Any, headers: Any = HERE, method: str = "POST") -> httpx.Response:
    return await found.client.request(method, "/session", json=body, headers=headers)


ANA = {"name": "ana", "password": PASSWORD}


# --- shells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_page_is_the_same_for_everybody_and_loads_only_what_its_nonce_names(console: Any, path: str):
    async def scenario(found: Front) -> None:
        one = await found.client.get(path, headers={"Cookie": f"{COOKIE}=x"})
        other = await found.client.get(path, headers={"Cookie": "theme=dark"})
        nonces = []
        for answer in (one, other):
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
            nonces.append(nonce)
            for part in ("default-src 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"):
                assert part in policy
            assert "unsafe" not in policy
            for tag in re.findall(r"<(?:script|link rel=\"stylesheet\")[^>]*>", answer.text):
                assert f'nonce="{nonce}"' in tag
                assert re.search(r'(?:src|href)="/static/', tag)
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=|https?://", answer.text)
        assert nonces[0] != nonces[1]
        assert one.text.replace(nonces[0], "") == other.text.replace(nonces[1], "")

    console(scenario)


def test_every_script_and_style_that_a_page_names_is_there_and_asked_for_anew(console: Any):
    async def scenario(found: Front) -> None:
        wanted = set()
        for path in PATHS:
            wanted |= set(re.findall(r'"(/static/[^"]+)"', (await found.client.get(path)).text))
        for path in wanted:
            answer = await found.client.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")

    console(scenario)


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/", "/static/nothing.js"])
def test_nothing_else_is_served(console: Any, path: str):
    async def scenario(found: Front) -> None:
        assert (await found.client.get(path)).status_code == 404

    console(scenario)


def test_nothing_is_done_on_get_to_a_page(console: Any):
    async def scenario(found: Front) -> None:
        secret = await found.session("kim")
        cookie = {"Cookie": f"{COOKIE}={secret}"}
        answer = await found.client.get("/kill?scope=global:*&mode=HALT", headers=cookie)
        assert answer.status_code == 200
        assert "global" not in answer.text
        assert found.commands == []

    console(scenario, names=("kim",))


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_a_browser_is_given_a_cookie_that_no_script_reads_and_no_other_site_sends(console: Any):
    async def scenario(found: Front) -> None:
        answer = await post(found, ANA)
        assert answer.status_code == 201
        assert answer.json() == {"name": "ana"}
        cookie = answer.headers["set-cookie"]
        assert cookie.endswith(f"; Path=/; HttpOnly; SameSite=Strict; Max-Age={SESSION_MS // 1000}")
        me = await found.client.get("/api/v1/me", headers={"X-Hitl-Console": "1", "Cookie": cookie.split(";")[0]})
        assert me.json()["name"] == "ana"

    console(scenario)


def test_over_tls_the_cookie_is_for_tls_only(console: Any):
    async def scenario(found: Front) -> None:
        answer = await post(found, ANA, HERE | {"Origin": "https://localhost"})
        assert answer.headers["set-cookie"].endswith("; Secure")

    console(scenario)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Hitl-Console": "1"},
        {"Origin": "http://localhost"},
        {"Origin": "https://evil.example", "X-Hitl-Console": "1"},
        HERE | {"Sec-Fetch-Site": "cross-site"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_no_other_site_signs_anybody_in_or_out(console: Any, headers: dict[str, str], method: str):
    async def scenario(found: Front) -> None:
        secret = await found.session("ana")
        answer = await post(found, ANA, headers | {"Cookie": f"{COOKIE}={secret}"}, method)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert await found.people.session(secret, found.now_ms) is not None

    console(scenario)


def test_a_wrong_password_gives_no_cookie(console: Any):
    async def scenario(found: Front) -> None:
        answer = await post(found, ANA | {"password": "wrong horse battery"})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers

    console(scenario)


def test_who_signs_out_has_no_session_any_more(console: Any):
    async def scenario(found: Front) -> None:
        secret = await found.session("ana")
        answer = await post(found, None, HERE | {"Cookie": f"{COOKIE}={secret}"}, "DELETE")
        assert answer.status_code == 204
        assert "Max-Age=0" in answer.headers["set-cookie"]
        assert await found.people.session(secret, found.now_ms) is None

    console(scenario)


def test_a_link_signs_in_once(console: Any):
    async def scenario(found: Front) -> None:
        body = {"link": await found.people.link("ana", found.now_ms)}
        assert (await post(found, body)).json() == {"name": "ana"}
        assert (await post(found, body)).status_code == 401

    console(scenario)


def test_a_link_is_taken_from_this_machine_only(console: Any):
    async def scenario(found: Front) -> None:
        body = {"link": await found.people.link("ana", found.now_ms)}
        away = httpx.ASGITransport(app=found.app, client=("192.0.2.7", 4711))
        async with httpx.AsyncClient(transport=away, base_url="http://localhost") as client:
            answer = await client.post("/session", json=body, headers=HERE)
        assert answer.status_code == 403
        assert answer.json()["type"] == "urn:hitl:not_local"
        assert (await post(found, body)).status_code == 201, "it is not used up by that"

    console(scenario)


# --- events -----------------------------------------------------------------------------------------------------------


class Listening:
    """A stream of events, in which time passes only when nothing happens."""

    def __init__(self, found: Front, name: str) -> None:
        self.found, self.name, self.steps = found, name, 0
        self.streams = Streams(found.office, sleep=self.sleep)
        self.then: list[Callable[[], None]] = []

    async def who(self) -> Who:
        account = await self.found.people.account(self.name)
        if account is None:
            raise ProblemError("not_signed_in", "nobody is signed in")
        return Who(account, frozenset(scope for scope in Scope if account.may_use(scope)))

    async def sleep(self, seconds: float) -> None:
        self.steps += 1
        assert self.steps < 10_000, "nothing is told any more"
        if self.then:
            self.then.pop(0)()


async def told(stream: Any) -> tuple[str, Any]:
    """Return the next event of a stream."""
    async for part in stream:
        lines = dict(line.split(": ", 1) for line in part.decode().strip().splitlines() if not line.startswith(":"))
        if "event" in lines:
            return lines["event"], json.loads(lines["data"])
    raise AssertionError("the stream ended")


def test_a_browser_is_told_of_a_switch_as_soon_as_it_is_read(console: Any):
    async def scenario(found: Front) -> None:
        listening = Listening(found, "ana")
        stream = await listening.streams.begin(listening.who)
        kind, state = await told(stream)
        assert kind == "state"
        assert state["switches"] == []
        assert [queue["queue"] for queue in state["queues"] if queue["yours"]] == ["trading"]
        switch = Switch(7, ("global:*",), Mode.HALT, "kim", NOW_MS, "stop")
        listening.then.append(lambda: found.watch.control.switches.engaged.update({7: switch}))
        _, state = await told(stream)
        assert [one["epoch"] for one in state["switches"]] == [7]
        assert listening.steps == 1, "the next look has seen it"

    console(scenario, review("i1", 1))


def test_who_was_signed_out_is_told_so_and_no_more(console: Any, monkeypatch: pytest.MonkeyPatch):
    async def scenario(found: Front) -> None:
        monkeypatch.setattr(events, "IDENTIFY_S", 0.0)
        listening = Listening(found, "ana")
        stream = await listening.streams.begin(listening.who)
        await told(stream)
        listening.name = "nobody"
        kind, _ = await told(stream)
        assert kind == "signed-out"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert listening.streams.open == 0

    assert IDENTIFY_S <= 60
    console(scenario)


def test_a_database_that_is_away_does_not_hide_a_switch(console: Any, monkeypatch: pytest.MonkeyPatch):
    async def scenario(found: Front) -> None:
        async def away(*_: Any) -> Any:
            raise UnreachableError("the database is away")

        monkeypatch.setattr(found.office.store, "stale_ms", away)
        switch = Switch(7, ("global:*",), Mode.HALT, "kim", NOW_MS, "stop")
        found.watch.control.switches.engaged[7] = switch
        listening = Listening(found, "ana")
        _, state = await told(await listening.streams.begin(listening.who))
        assert [one["epoch"] for one in state["switches"]] == [7]
        assert state["queues"] is None
        assert state["view"] == "the database is away"

    console(scenario)


def test_there_is_a_bound_on_how_many_browsers_listen(console: Any):
    async def scenario(found: Front) -> None:
        listening = Listening(found, "ana")
        listening.streams.open = STREAMS_MAX
        with pytest.raises(ProblemError, match=r"200 browsers"):
            await listening.streams.begin(listening.who)

    console(scenario)


def test_who_is_not_signed_in_is_told_nothing(console: Any):
    async def scenario(found: Front) -> None:
        assert (await found.client.get("/events")).status_code == 401

    console(scenario)


def test_everybody_is_told_of_their_own_queues_only(console: Any):
    async def scenario(found: Front) -> None:
        for name, queues in (("carl", ["client"]), ("kim", [])):
            listening = Listening(found, name)
            _, state = await told(await listening.streams.begin(listening.who))
            assert [queue["queue"] for queue in state["queues"] if queue["yours"]] == queues
            if name == "carl":
                assert len(state["queues"]) == 1

    console(scenario, names=tuple(PEOPLE))
