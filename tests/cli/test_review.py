"""`hitl review`: what is judged is what was looked at, over a console of its own that listens on loopback."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.cli import batches as batches_verb
from hitl_stream.cli import review as review_verb
from hitl_stream.cli.main import run
from hitl_stream.console.app import Web
from hitl_stream.core.verdicts import Verdict
from hitl_stream.wire.desk_records import NeedRow, decode_verdict_record
from hitl_stream.wire.records import encode
from hitl_stream.wire.verdicts import Given, read_verdict
from support.console import PASSWORD, Front, front
from support.kafka import within
from support.make import NOW_MS, FakeRecord
from support.people import CLUSTER
from support.view import judged, lot, review

Hitl = Callable[..., tuple[int, str, str]]
SECONDS_MAX = 30.0


class Served:
    """A console in a thread with an event loop of its own. The desk that would answer says `effect` at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.effect: str | None = "applied"
        self.why: str | None = None
        self.next: FakeRecord | None = None
        """What the desk writes in the place of a judgement's effect."""
        self.token = self.url = ""
        self.found: Front | None = None
        self._up, self._loop = threading.Event(), asyncio.new_event_loop()
        self._over = asyncio.Event()
        self.thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)
        self.thread.start()
        assert self._up.wait(SECONDS_MAX)

    async def _serve(self) -> None:
        async with front(self.directory, review(people=1), names=("ana",)) as found:
            self.found, self.token = found, await found.token("ana")
            append = found.log.append

            async def answered(topic: str, partition: int, value: bytes, **more: Any) -> Any:
                place = await append(topic, partition, value, **more)
                if self.next is not None:
                    await found.fold(self.next)
                elif self.effect is not None:
                    jws = decode_verdict_record(value).jws
                    offset = len(found.log.written)
                    await found.fold(judged(jws=jws, effect=self.effect, why=self.why, offset=offset))
                return place

            found.log.append = answered  # type: ignore[method-assign]
            web = Web(found.app, "127.0.0.1", 0)
            await web.on_start()
            self.url = web.url
            self._up.set()
            await self._over.wait()
            await web.on_stop()

    def fold(self, *records: Any) -> None:
        """Let the console read records."""
        assert self.found is not None
        asyncio.run_coroutine_threadsafe(self.found.fold(*records), self._loop).result(SECONDS_MAX)

    def claims(self) -> list[Verdict]:
        """Return what was said, each under a good signature."""
        assert self.found is not None
        values = [encode(one) for one in self.found.log.verdicts()]
        given = [read_verdict(one, NOW_MS, self.found.watch.control.keys, CLUSTER) for one in values]
        assert all(isinstance(one, Given) for one in given), given
        return [one.claims for one in given if isinstance(one, Given) and isinstance(one.claims, Verdict)]

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.thread.join(SECONDS_MAX)
        self._loop.close()


@pytest.fixture
def console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A console with one item, and ana's token in the environment."""
    for name in [name for name in os.environ if name.startswith("HITL_")]:
        monkeypatch.delenv(name)
    served = Served(tmp_path / "console")
    monkeypatch.setenv("HITL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HITL_CONSOLE", served.url)
    monkeypatch.setenv("HITL_CONSOLE_TOKEN", served.token)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(review_verb, "EFFECT_SECONDS_MAX", 2.0)
    monkeypatch.chdir(tmp_path)
    yield served
    served.end()


@pytest.fixture
def hitl(capfd: pytest.CaptureFixture[str]) -> Hitl:
    """Run `hitl review` with these arguments; return its exit code, stdout and stderr."""

    def ask(*arguments: str) -> tuple[int, str, str]:
        code = run(["review", *arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return ask


def test_next_shows_the_card(console: Served, hitl: Hitl):
    code, out, err = hitl("next", "trading")

    assert code == 0, err
    assert "acc-17/cmp-204 bid: 1.20 → 1.30 EUR  (+0.10, +8.3%)" in out
    assert "because class.auto_max_change: saw 0.28, limit 0.10" in out
    assert "can be set: /changes/0/after=1.30" in out


def test_next_as_json_is_the_item_with_its_card(console: Served, hitl: Hitl):
    code, out, _ = hitl("next", "trading", "--json")

    assert (code, json.loads(out)["card"]["item"]) == (0, "i1")


def test_what_cannot_be_seen_in_the_agents_words_is_made_visible(console: Served, hitl: Hitl):
    console.fold(review("i2", 1, rationale="fine\u202eenif \x1b[2J", people=1))
    _, out, _ = hitl("show", "i2")

    assert "the agent says: “fine\\u202eenif \\x1b[2J”" in out


@pytest.mark.behaviour("A7", "E16")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("approve", "i1", "--note", "as planned"), ("approve", None, "as planned", [])),
        (("reject", "i1", "--code", "too_large"), ("reject", "too_large", None, [])),
        (
            ("change", "i1", "--set", "/changes/0/after=1.25", "--code", "too_large"),
            ("change", "too_large", None, [("/changes/0/after", "1.25")]),
        ),
        (("escalate", "i1"), ("escalate", None, None, [])),
    ],
)
def test_each_of_the_four_verdicts_is_signed_for_what_was_looked_at(
    console: Served, hitl: Hitl, arguments: tuple[str, ...], said: Any
):
    hitl("show", "i1")
    code, out, err = hitl(*arguments)

    assert (code, out.strip()) == (0, "Done."), err
    (claims,) = console.claims()
    edits = [(edit.path, edit.value) for edit in claims.changes]
    assert (claims.verdict, claims.code, claims.note, edits) == said
    assert claims.by == "ana"


def test_what_was_not_looked_at_is_not_judged(console: Served, hitl: Hitl):
    code, _, err = hitl("approve", "i1")

    assert code == 2
    assert "look first: hitl review show i1" in err
    assert console.claims() == []


def test_what_has_changed_since_it_was_looked_at_is_not_judged(console: Served, hitl: Hitl):
    hitl("show", "i1")
    console.fold(review("i1", 1, score=0.9, people=1))
    code, _, err = hitl("approve", "i1")

    assert code == 5
    assert "it has changed since it was shown" in err
    assert console.claims() == []


@pytest.mark.parametrize(
    ("effect", "why", "code", "told"),
    [
        ("waiting", None, 0, "another person's approval is missing"),
        ("conflict", None, 5, "somebody else had decided before"),
        ("late", None, 5, "its time was over"),
        ("refused", "too_fast", 5, "The desk refused it: too_fast."),
        (None, None, 3, "Appended; what it did is not known yet"),
    ],
)
def test_the_exit_code_says_what_the_verdict_did(
    console: Served, hitl: Hitl, effect: str | None, why: str | None, code: int, told: str
):
    console.effect, console.why = effect, why
    hitl("show", "i1")
    found, out, err = hitl("approve", "i1")

    assert found == code, err
    assert told in out


def test_a_verdict_said_twice_is_one_verdict(console: Served, hitl: Hitl):
    console.effect = None
    hitl("show", "i1")
    hitl("approve", "i1")
    hitl("approve", "i1")

    first, second = console.claims()
    assert first.jti == second.jti


def test_after_a_refusal_the_item_is_looked_at_again_and_judged_anew(console: Served, hitl: Hitl):
    console.effect, console.why = "refused", "too_fast"
    hitl("show", "i1")
    assert hitl("approve", "i1")[0] == 5
    code, _, err = hitl("approve", "i1")

    assert (code, "look first" in err) == (2, True)


def test_when_nothing_waits_the_exit_code_is_1(console: Served, hitl: Hitl):
    hitl("show", "i1")
    hitl("approve", "i1")
    code, out, _ = hitl("next", "trading")

    assert (code, out.strip()) == (1, "Nothing waits for you in trading.")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("next", "brand"), 5, "no role that decides in brand"),
        (("show", "nowhere"), 5, "there is no such item"),
        (("change", "i1", "--set", "/agent/id=x", "--code", "too_large"), 2, "a path of the card's"),
        (("reject", "i1", "--code", "because"), 2, "needs a reason that the policy knows"),
        (("next", "trading", "--console", "http://console.example"), 2, "in clear"),
        (("next", "trading", "--console", "http://127.0.0.1:1"), 4, "does it run?"),
        (("next", "trading", "--token-file", "nowhere"), 2, "cannot be read"),
    ],
)
def test_what_cannot_be_done_says_why(console: Served, hitl: Hitl, arguments: tuple[str, ...], code: int, told: str):
    hitl("show", "i1")
    found, _, err = hitl(*arguments)

    assert (found, told in " ".join(err.split())) == (code, True), err


def test_the_token_may_stand_in_a_file(console: Served, hitl: Hitl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HITL_CONSOLE_TOKEN")
    assert hitl("next", "trading")[0] == 2
    (tmp_path / "token").write_text(console.token + "\n")

    assert hitl("next", "trading", "--token-file", str(tmp_path / "token"))[0] == 0


def test_what_was_looked_at_is_readable_by_its_owner_alone(console: Served, hitl: Hitl, tmp_path: Path):
    hitl("show", "i1")

    assert (tmp_path / "state" / "review.json").stat().st_mode & 0o077 == 0


# --- signing in -------------------------------------------------------------------------------------------------------


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let a password be typed at the terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def say(password: str) -> None:
        monkeypatch.setattr(sys, "stdin", Terminal())
        monkeypatch.setattr(review_verb, "getpass", lambda prompt: password)

    return say


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the token away."""
    monkeypatch.delenv("HITL_CONSOLE_TOKEN", raising=False)


@pytest.mark.behaviour("E16")
def test_who_signed_in_needs_no_token(console: Served, hitl: Hitl, typed: Callable[[str], None], alone: None):
    assert hitl("next", "trading")[0] == 2
    typed(PASSWORD)
    code, out, err = hitl("sign-in", "ana")

    assert (code, out.startswith(f"ana is signed in to {console.url} until ")) == (0, True), err
    assert hitl("next", "trading")[0] == 0
    assert hitl("approve", "i1")[0] == 0
    assert [one.by for one in console.claims()] == ["ana"]


def test_the_secret_of_a_session_is_told_to_nobody(
    console: Served, hitl: Hitl, typed: Callable[[str], None], tmp_path: Path
):
    typed(PASSWORD)
    _, out, _ = hitl("sign-in", "ana", "--json")
    file = tmp_path / "state" / "console-session.json"

    assert file.stat().st_mode & 0o077 == 0
    assert json.loads(out).keys() == {"name", "console", "until"}
    assert json.loads(file.read_bytes())["token"] not in out


def test_signing_out_ends_the_session_there_and_forgets_it_here(
    console: Served, hitl: Hitl, typed: Callable[[str], None], alone: None, tmp_path: Path
):
    typed(PASSWORD)
    hitl("sign-in", "ana")
    file = tmp_path / "state" / "console-session.json"
    (tmp_path / "secret").write_text(json.loads(file.read_bytes())["token"])
    code, out, _ = hitl("sign-out")

    assert (code, out.strip()) == (0, f"ana is signed out of {console.url}.")
    assert not file.exists()
    assert "its time is over" in hitl("next", "trading", "--token-file", str(tmp_path / "secret"))[2]
    assert hitl("sign-out")[1].strip() == "Nobody was signed in."


def test_a_session_is_shown_to_no_other_console(console: Served, hitl: Hitl, typed: Callable[[str], None], alone: None):
    typed(PASSWORD)
    hitl("sign-in", "ana")
    code, _, err = hitl("next", "trading", "--console", "http://127.0.0.1:1")

    assert (code, "signed in to" in err) == (2, True), err


@pytest.mark.parametrize(
    ("arguments", "password", "code", "told"),
    [
        (("ana",), "not the one", 5, "name and password do not fit"),
        (("ana", "--token-file", "token"), PASSWORD, 2, "would go before who signs in"),
        (("ana", "--console", "http://console.example"), PASSWORD, 2, "in clear"),
        (("ana",), None, 2, "no terminal to ask"),
    ],
)
def test_a_sign_in_that_fails_keeps_nothing(
    console: Served, hitl: Hitl, typed: Callable[[str], None], tmp_path: Path, arguments: tuple[str, ...],
    password: str | None, code: int, told: str,
):  # fmt: skip
    if password is not None:
        typed(password)
    found, _, err = hitl("sign-in", *arguments)

    assert (found, told in " ".join(err.split())) == (code, True), err
    assert not (tmp_path / "state" / "console-session.json").exists()


# --- batches ----------------------------------------------------------------------------------------------------------

BATCH = "acme/acc-17/b-7"
READY = {
    "state": "READY", "queue": "trading", "size": 3, "root": "ab" * 32, "drawn": ("i1",), "good": 1, "accept": 0,
    "approvals": (NeedRow(queue="trading", people=1, decide_by="2026-11-21T08:10:00.000Z"),),
}  # fmt: skip


@pytest.mark.behaviour("E16")
def test_a_batch_is_released_by_who_has_just_signed_in(console: Served, hitl: Hitl, typed: Callable[[str], None]):
    console.fold(lot(BATCH, 1, **READY))
    assert BATCH in hitl("batches")[1]
    hitl("batch", BATCH)
    code, _, err = hitl("release", BATCH)
    assert (code, "Sign in: hitl review sign-in NAME" in " ".join(err.split())) == (5, True), err

    typed(PASSWORD)
    hitl("sign-in", "ana")
    assert "sample: 1 drawn, 1 good, 0 bad (at most 0)" in hitl("batch", BATCH)[1]
    console.next = lot(BATCH, 2, **READY | {"state": "RELEASED"})
    code, out, err = hitl("release", BATCH)

    assert (code, out.strip()) == (0, f"{BATCH} is RELEASED now."), err


def test_a_batch_that_was_not_looked_at_is_not_released(console: Served, hitl: Hitl):
    console.fold(lot(BATCH, 1, **READY))
    code, _, err = hitl("release", BATCH)

    assert (code, f"look first: hitl review batch {BATCH}" in " ".join(err.split())) == (2, True), err


def test_a_release_whose_effect_is_not_known_yet_says_so(
    console: Served, hitl: Hitl, typed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batches_verb, "EFFECT_SECONDS_MAX", 0.2)
    console.fold(lot(BATCH, 1, **READY))
    typed(PASSWORD)
    hitl("sign-in", "ana")
    hitl("batch", BATCH)
    console.effect = None
    code, out, err = hitl("release", BATCH)

    assert (code, "not known yet" in out) == (3, True), err


def test_a_console_that_listens_answers_over_a_socket(tmp_path: Path):
    async def scenario() -> None:
        async with front(tmp_path, names=("ana",)) as found:
            web = Web(found.app, "127.0.0.1", 0)
            await web.on_start()
            try:
                import httpx

                async with httpx.AsyncClient() as client:
                    answer = await client.get(f"{web.url}/api/v1/me")
                assert answer.status_code == 401
                assert "server" not in answer.headers
            finally:
                await web.on_stop()

    within(scenario())
