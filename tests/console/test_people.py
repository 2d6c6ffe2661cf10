"""Accounts, rights, sessions and tokens: one suite over SQLite and Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from argon2 import PasswordHasher

from hitl_stream.console.database import Tx, open_database
from hitl_stream.console.people import (
    DAY_MS,
    FAILURES_MAX,
    FAILURES_MS,
    FRESH_MS,
    LINK_MS,
    PASSWORD_LENGTH_MAX,
    PASSWORD_LENGTH_MIN,
    SCHEMA,
    SESSION_MS,
    TOKEN_DAYS_MAX,
    VERSION,
    Account,
    Kind,
    People,
    Quiz,
    Scope,
    open_people,
)
from hitl_stream.console.view import open_view
from hitl_stream.core.errors import RefusedError, SettingsError, UsageError
from support.kafka import within
from support.make import NOW_MS

T = TypeVar("T")
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "correct horse battery"  # of an account that lives as long as a test
UNTIL_MS = NOW_MS + 30 * DAY_MS


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where accounts may stand: what the setting `people` would say."""
    if request.param == "sqlite":
        return str(tmp_path / "people.db")
    return str(request.getfixturevalue("postgres"))


def ask(place: str, scenario: Callable[[People], Awaitable[T]]) -> T:
    """Open the accounts, run a scenario, close them."""

    async def run() -> T:
        people = open_people(place, QUICK)
        try:
            return await scenario(people)
        finally:
            await people.close()

    return within(run())


async def ana(people: People, *roles: str) -> Account:
    """Make a person who can sign in."""
    account = await people.add("ana", NOW_MS, tenants=["acme"], roles=roles or ["trader"])
    await people.set_password("ana", PASSWORD)
    return account


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_an_account_is_what_was_said_of_it_and_outlives_the_process(place: str):
    async def make(people: People) -> None:
        await people.add("ana", NOW_MS, tenants=["b", "a"], roles=["trader", "releaser"])
        await people.add("Sync", NOW_MS, kind=Kind.SERVICE, tenants=None, roles=["viewer"])

    ask(place, make)

    def account(name: str, kind: Kind, tenants: tuple[str, ...] | None, *roles: str) -> Account:
        return Account(name=name, kind=kind, tenants=tenants, roles=roles, qualifications={}, has_password=False)

    assert ask(place, lambda people: people.accounts()) == (
        account("ana", Kind.PERSON, ("a", "b"), "releaser", "trader"),
        account("Sync", Kind.SERVICE, None, "viewer"),
    )


@pytest.mark.parametrize("name", ["ana", "ANA"])
def test_a_name_is_given_once_whatever_its_case(place: str, name: str):
    async def scenario(people: People) -> None:
        await ana(people)
        with pytest.raises(RefusedError, match="ana has an account already; see: hitl user list"):
            await people.add(name, NOW_MS)

    ask(place, scenario)


def test_a_name_that_was_removed_is_never_given_again(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        await people.remove("ana", NOW_MS)
        assert await people.account("ana") is None
        assert await people.accounts() == ()
        with pytest.raises(RefusedError, match="ana was removed, and stands in what was signed"):
            await people.add("Ana", NOW_MS)

    ask(place, scenario)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 61, "ana\n", "ána", "a/b"])
def test_a_name_that_no_key_could_have_is_refused(place: str, name: str):
    with pytest.raises(UsageError, match="is no name; expected 1 to 60 of"):
        ask(place, lambda people: people.add(name, NOW_MS))


@pytest.mark.parametrize(
    "change",
    [
        lambda people: people.remove("eva", NOW_MS),
        lambda people: people.set_roles("eva", add=["trader"]),
        lambda people: people.set_tenants("eva", None),
        lambda people: people.qualify("eva", "bid.adjust", UNTIL_MS),
        lambda people: people.set_password("eva", PASSWORD),
        lambda people: people.issue("eva", [Scope.READ], UNTIL_MS, NOW_MS),
        lambda people: people.link("eva", NOW_MS),
    ],
    ids=["remove", "roles", "tenants", "qualify", "password", "token", "link"],
)
def test_what_is_asked_of_nobody_is_refused(place: str, change: Callable[[People], Awaitable[object]]):
    with pytest.raises(UsageError, match="there is no account eva; see: hitl user list"):
        ask(place, change)


def test_roles_are_given_and_taken(place: str):
    async def scenario(people: People) -> None:
        await ana(people, "trader", "viewer")
        changed = await people.set_roles("ana", add=["trader", "client"], remove=["viewer"])
        assert (changed.roles, changed.queue_roles) == (("client", "trader"), ("client", "trader"))
        with pytest.raises(UsageError, match="ana has no role auditor; they have client, trader"):
            await people.set_roles("ana", remove=["auditor"])

    ask(place, scenario)


def test_tenants_are_replaced(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        assert (await people.set_tenants("ana", ["b", "c"])).tenants == ("b", "c")
        assert (await people.set_tenants("ana", None)).tenants is None
        assert (await people.set_tenants("ana", [])).tenants == ()

    ask(place, scenario)


def test_only_roles_of_queues_decide():
    roles = ("auditor", "kill-operator", "policy-admin", "releaser", "trader", "viewer", "labeller")
    account = Account(
        name="a", kind=Kind.PERSON, tenants=None, roles=roles, qualifications={}, has_password=False
    )  # fmt: skip

    assert account.queue_roles == ("trader", "labeller")


@pytest.mark.behaviour("E16")
def test_a_qualification_is_for_a_class_and_ends(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        account = await people.qualify("ana", "bid.adjust", UNTIL_MS)
        assert account.is_qualified("bid.adjust", UNTIL_MS - 1)
        assert not account.is_qualified("bid.adjust", UNTIL_MS)
        assert not account.is_qualified("post.own", NOW_MS)
        assert (await people.qualify("ana", "bid.adjust", UNTIL_MS + 1)).is_qualified("bid.adjust", UNTIL_MS)
        assert not (await people.qualify("ana", "bid.adjust", None)).is_qualified("bid.adjust", NOW_MS)

    ask(place, scenario)


# --- services ---------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("B7")
@pytest.mark.parametrize("role", ["trader", "senior", "labeller", "releaser", "policy-admin"])
def test_a_service_gets_no_role_that_decides_releases_or_promotes(place: str, role: str):
    async def scenario(people: People) -> None:
        with pytest.raises(RefusedError, match=f"bot is a service, and cannot be {role}: a service never decides,"):
            await people.add("bot", NOW_MS, kind=Kind.SERVICE, roles=["viewer", role])
        assert await people.account("bot") is None
        await people.add("bot", NOW_MS, kind=Kind.SERVICE, roles=["viewer"])
        with pytest.raises(RefusedError, match="releases or promotes; it may be viewer, kill-operator, auditor"):
            await people.set_roles("bot", add=[role])

    ask(place, scenario)


@pytest.mark.behaviour("B7")
@pytest.mark.parametrize("scope", [Scope.DECIDE, Scope.RELEASE_BATCH, Scope.PAIRS])
def test_a_service_gets_no_token_that_decides(place: str, scope: Scope):
    async def scenario(people: People) -> None:
        await people.add("bot", NOW_MS, kind=Kind.SERVICE, roles=["kill-operator"])
        with pytest.raises(RefusedError, match=f"bot is a service, and gets no token for {scope}: a service never"):
            await people.issue("bot", [Scope.READ, scope], UNTIL_MS, NOW_MS)
        assert await people.tokens() == ()

    ask(place, scenario)


@pytest.mark.behaviour("B7")
def test_a_right_that_was_slipped_to_a_service_is_worth_nothing(place: str):
    """Not even somebody who writes to the table makes a service decide."""

    async def scenario(people: People) -> None:
        await people.add("bot", NOW_MS, kind=Kind.SERVICE)
        issued = await people.issue("bot", [Scope.READ], UNTIL_MS, NOW_MS)
        scopes = " ".join((Scope.READ, Scope.DECIDE))
        await people.database.write(lambda tx: tx.rows("UPDATE person_token SET scopes = ?", (scopes,)))
        await people.database.write(lambda tx: tx.rows("INSERT INTO person_role (id, role) VALUES ('bot', 'trader')"))
        bearer = await people.bearer(issued.secret, NOW_MS)
        assert bearer is not None
        assert bearer.scopes == {Scope.READ}

    ask(place, scenario)


def test_a_service_does_not_sign_in_or_qualify(place: str):
    async def scenario(people: People) -> None:
        await people.add("bot", NOW_MS, kind=Kind.SERVICE)
        with pytest.raises(RefusedError, match="bot is a service, which does not sign in; give it a token"):
            await people.set_password("bot", PASSWORD)
        with pytest.raises(RefusedError, match="bot is a service, which does not sign in; give it a token"):
            await people.link("bot", NOW_MS)
        with pytest.raises(RefusedError, match="bot is a service: a service never decides"):
            await people.qualify("bot", "bid.adjust", UNTIL_MS)

    ask(place, scenario)


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_who_knows_the_password_has_a_session_of_eight_hours(place: str):
    async def scenario(people: People) -> None:
        account = await ana(people)
        signed = await people.sign_in("Ana", PASSWORD, NOW_MS)
        assert signed is not None
        session = await people.session(signed.secret, NOW_MS + SESSION_MS - 1)
        assert session is not None
        assert (session.account.name, session.until_ms) == (account.name, NOW_MS + 8 * 3_600_000)
        ended = [await people.session(signed.secret, NOW_MS + SESSION_MS + later) for later in (0, 1)]
        assert ended == [None, None]

    ask(place, scenario)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("ana", PASSWORD.upper()), ("ana", ""), ("ana", PASSWORD + "x" * 5_000), ("eva", PASSWORD),
        ("nopass", PASSWORD), ("", PASSWORD), ("ana\0", "x"), ("bot", PASSWORD), ("ana'--", PASSWORD),
    ],
)  # fmt: skip
def test_who_does_not_know_it_has_none(place: str, name: str, password: str):
    async def scenario(people: People) -> None:
        await ana(people)
        await people.add("nopass", NOW_MS)
        await people.add("bot", NOW_MS, kind=Kind.SERVICE)
        assert await people.sign_in(name, password, NOW_MS) is None

    ask(place, scenario)


def test_too_many_wrong_passwords_close_the_account_for_a_while(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        for _ in range(FAILURES_MAX):
            assert await people.sign_in("ana", "not it", NOW_MS) is None
        assert await people.sign_in("ana", PASSWORD, NOW_MS + FAILURES_MS - 1) is None
        assert await people.sign_in("ana", PASSWORD, NOW_MS + FAILURES_MS) is not None

    ask(place, scenario)


def test_many_guesses_at_once_are_not_one(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        await asyncio.gather(*(people.sign_in("ana", "not it", NOW_MS) for _ in range(FAILURES_MAX)))
        assert await people.sign_in("ana", PASSWORD, NOW_MS) is None

    ask(place, scenario)


def test_a_good_password_makes_up_for_slips(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        for _ in range(3):
            for _ in range(FAILURES_MAX - 1):
                await people.sign_in("ana", "not it", NOW_MS)
            assert await people.sign_in("ana", PASSWORD, NOW_MS) is not None

    ask(place, scenario)


def test_a_session_is_fresh_for_five_minutes(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        signed = await people.sign_in("ana", PASSWORD, NOW_MS)
        assert signed is not None
        assert signed.session.is_fresh(NOW_MS + FRESH_MS)
        assert not signed.session.is_fresh(NOW_MS + FRESH_MS + 1)

    ask(place, scenario)


@pytest.mark.parametrize(
    "end",
    [
        lambda people, secret: people.sign_out(secret),
        lambda people, _: people.remove("ana", NOW_MS),
        lambda people, _: people.set_password("ana", PASSWORD + "2"),
    ],
    ids=["sign out", "remove", "new password"],
)
def test_a_session_ends_at_once(place: str, end: Callable[[People, str], Awaitable[object]]):
    async def scenario(people: People) -> None:
        await ana(people)
        signed = await people.sign_in("ana", PASSWORD, NOW_MS)
        assert signed is not None
        await end(people, signed.secret)
        assert await people.session(signed.secret, NOW_MS) is None

    ask(place, scenario)


def test_a_role_that_was_taken_away_is_gone_in_a_running_session(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        signed = await people.sign_in("ana", PASSWORD, NOW_MS)
        assert signed is not None
        await people.set_roles("ana", remove=["trader"])
        session = await people.session(signed.secret, NOW_MS)
        assert session is not None
        assert session.account.roles == ()

    ask(place, scenario)


@pytest.mark.parametrize("length", [PASSWORD_LENGTH_MIN - 1, PASSWORD_LENGTH_MAX + 1])
def test_a_password_that_is_too_short_or_too_long_is_refused(place: str, length: int):
    async def scenario(people: People) -> None:
        await people.add("ana", NOW_MS)
        with pytest.raises(UsageError, match=f"has {length} characters; expected 12 to 1024"):
            await people.set_password("ana", "x" * length)

    ask(place, scenario)


# --- links ------------------------------------------------------------------------------------------------------------


def test_a_link_begins_a_session_that_is_fresh(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        signed = await people.sign_in_by_link(await people.link("Ana", NOW_MS), NOW_MS + LINK_MS - 1)
        assert signed is not None
        session = await people.session(signed.secret, NOW_MS + LINK_MS)
        assert session == signed.session
        assert (session.account.name, session.begun_ms) == ("ana", NOW_MS + LINK_MS - 1)
        assert session.until_ms == session.begun_ms + SESSION_MS
        assert session.is_fresh(NOW_MS + LINK_MS)

    ask(place, scenario)


def test_a_link_works_once_even_for_many_at_once(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        secret = await people.link("ana", NOW_MS)
        found = await asyncio.gather(*(people.sign_in_by_link(secret, NOW_MS) for _ in range(8)))
        assert sum(one is not None for one in found) == 1
        assert await people.sign_in_by_link(secret, NOW_MS) is None

    ask(place, scenario)


def test_a_link_lasts_ten_minutes(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        assert LINK_MS == 10 * 60_000
        secret = await people.link("ana", NOW_MS)
        assert await people.sign_in_by_link(secret, NOW_MS + LINK_MS) is None
        assert await people.sign_in_by_link(secret, NOW_MS) is None, "an attempt uses it up"

    ask(place, scenario)


@pytest.mark.parametrize(
    "end",
    [
        lambda people: people.link("ana", NOW_MS),
        lambda people: people.set_password("ana", PASSWORD + "2"),
        lambda people: people.remove("ana", NOW_MS),
    ],
    ids=["a newer one", "new password", "remove"],
)
def test_a_link_ends_at_once(place: str, end: Callable[[People], Awaitable[object]]):
    async def scenario(people: People) -> None:
        await ana(people)
        secret = await people.link("ana", NOW_MS)
        await end(people)
        assert await people.sign_in_by_link(secret, NOW_MS) is None

    ask(place, scenario)


def test_one_persons_new_link_leaves_anothers_alone(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        await people.add("eva", NOW_MS)
        secret = await people.link("ana", NOW_MS)
        await people.link("eva", NOW_MS)
        signed = await people.sign_in_by_link(secret, NOW_MS)
        assert signed is not None
        assert signed.session.account.name == "ana"

    ask(place, scenario)


@pytest.mark.parametrize("secret", ["", "x", "\udc80", "a" * 5_000])
def test_what_is_no_link_signs_nobody_in(place: str, secret: str):
    async def scenario(people: People) -> None:
        await ana(people)
        await people.link("ana", NOW_MS)
        assert await people.sign_in_by_link(secret, NOW_MS) is None

    ask(place, scenario)


@pytest.mark.behaviour("B7")
def test_a_link_that_was_slipped_to_a_service_signs_nobody_in(place: str):
    """Not even somebody who writes to the table lets a service sign in."""

    async def scenario(people: People) -> None:
        await ana(people)
        await people.add("bot", NOW_MS, kind=Kind.SERVICE)
        secret = await people.link("ana", NOW_MS)
        await people.database.write(lambda tx: tx.rows("UPDATE person_link SET id = 'bot'"))
        assert await people.sign_in_by_link(secret, NOW_MS) is None

    ask(place, scenario)


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_a_token_is_good_for_its_scopes_until_its_end(place: str):
    async def scenario(people: People) -> None:
        await people.add("bot", NOW_MS, kind=Kind.SERVICE)
        issued = await people.issue("bot", [Scope.READ, Scope.PROPOSE], UNTIL_MS, NOW_MS)
        bearer = await people.bearer(issued.secret, UNTIL_MS - 1)
        assert bearer is not None
        assert (bearer.account.name, bearer.scopes) == ("bot", {Scope.READ, Scope.PROPOSE})
        assert [await people.bearer(issued.secret, UNTIL_MS + later) for later in (0, 1)] == [None, None]
        assert await people.bearer(issued.secret + "x", NOW_MS) is None
        assert await people.bearer(issued.token.token_id, NOW_MS) is None

    ask(place, scenario)


def test_a_token_never_reaches_further_than_its_account_does_now(place: str):
    async def scenario(people: People) -> None:
        await ana(people, "trader", "kill-operator")
        issued = await people.issue("ana", [Scope.DECIDE, Scope.ENGAGE, Scope.READ], UNTIL_MS, NOW_MS)
        await people.set_roles("ana", remove=["trader"])
        bearer = await people.bearer(issued.secret, NOW_MS)
        assert bearer is not None
        assert bearer.scopes == {Scope.ENGAGE, Scope.READ}

    ask(place, scenario)


@pytest.mark.parametrize("scope", [Scope.DECIDE, Scope.ENGAGE])
def test_a_token_beyond_the_account_is_refused(place: str, scope: Scope):
    async def scenario(people: People) -> None:
        await people.add("uma", NOW_MS, roles=["auditor"])
        with pytest.raises(
            RefusedError, match=f"uma lacks the role for {scope}; they have auditor: see hitl user role"
        ):
            await people.issue("uma", [scope], UNTIL_MS, NOW_MS)

    ask(place, scenario)


@pytest.mark.parametrize("until_ms", [NOW_MS, NOW_MS - 1, NOW_MS + TOKEN_DAYS_MAX * DAY_MS + 1])
def test_a_token_has_an_end(place: str, until_ms: int):
    async def scenario(people: People) -> None:
        await ana(people)
        with pytest.raises(UsageError, match="a token lasts 1 to 400 days"):
            await people.issue("ana", [Scope.READ], until_ms, NOW_MS)

    ask(place, scenario)


@pytest.mark.parametrize(
    "end",
    [lambda people, token: people.revoke(token), lambda people, _: people.remove("ana", NOW_MS)],
    ids=["revoke", "remove"],
)
def test_a_token_ends_at_once(place: str, end: Callable[[People, str], Awaitable[object]]):
    async def scenario(people: People) -> None:
        await ana(people)
        issued = await people.issue("ana", [Scope.READ], UNTIL_MS, NOW_MS)
        assert await people.tokens("ana") == (issued.token,)
        await end(people, issued.token.token_id)
        assert await people.bearer(issued.secret, NOW_MS) is None
        assert await people.tokens() == ()

    ask(place, scenario)


def test_a_token_that_is_not_there_is_not_revoked(place: str):
    with pytest.raises(UsageError, match="there is no token t-7"):
        ask(place, lambda people: people.revoke("t-7"))


def test_no_secret_is_kept(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        issued = await people.issue("ana", [Scope.READ], UNTIL_MS, NOW_MS)
        signed = await people.sign_in("ana", PASSWORD, NOW_MS)
        assert signed is not None
        link = await people.link("ana", NOW_MS)
        tables = ("person", "person_token", "person_session", "person_link")
        kept = [await people.database.read(lambda tx, name=name: tx.rows(f"SELECT * FROM {name}")) for name in tables]
        assert [secret for secret in (PASSWORD, issued.secret, signed.secret, link) if secret in repr(kept)] == []
        assert "$argon2id$" in repr(kept)
        assert len({len(issued.secret), len(signed.secret), len(link)}) == 1
        assert len(issued.secret) >= 43  # 256 bits, six a character

    ask(place, scenario)


# --- the store --------------------------------------------------------------------------------------------------------


def test_a_rebuild_of_the_view_leaves_accounts_alone(place: str):
    """Also where both stand in one database."""

    async def rebuild() -> None:
        store = open_view(place)
        await store.rebuild()
        await store.close()

    ask(place, ana)
    within(rebuild())

    assert [one.name for one in ask(place, lambda people: people.accounts())] == ["ana"]


@pytest.mark.parametrize("version", [VERSION + 1, 0])
def test_accounts_of_another_version_are_refused_and_never_dropped(place: str, version: int):
    async def set_version() -> None:
        database = open_database(place)
        await database.write(lambda tx: tx.rows("UPDATE people_version SET version = ?", (version,)))
        await database.close()

    ask(place, ana)
    within(set_version())

    with pytest.raises(SettingsError, match=f"tables of version {version}, this hitl knows {VERSION}"):
        ask(place, lambda people: people.accounts())


def test_accounts_from_before_there_were_links_are_kept(place: str):
    async def make() -> None:
        database = open_database(place)
        await database.write(_version_one)
        await database.close()

    within(make())

    async def scenario(people: People) -> None:
        assert [one.name for one in await people.accounts()] == ["old"]
        assert await people.sign_in_by_link(await people.link("old", NOW_MS), NOW_MS) is not None

    ask(place, scenario)
    assert [one.name for one in ask(place, lambda people: people.accounts())] == ["old"]


def _version_one(tx: Tx) -> None:
    tx.rows("CREATE TABLE people_version (one INTEGER PRIMARY KEY, version BIGINT NOT NULL)")
    tx.rows("INSERT INTO people_version (one, version) VALUES (1, 1)")
    for statement in SCHEMA:
        if "person_link" not in statement and "person_quiz" not in statement:
            tx.rows(statement)
    tx.rows(
        "INSERT INTO person (id, name, kind, every_tenant, failures, failed_ms, added_ms)"
        " VALUES ('old', 'old', 'person', 0, 0, 0, 1)"
    )


# --- quizzes ----------------------------------------------------------------------------------------------------------


def test_an_open_quiz_goes_on_and_each_question_takes_one_answer(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        first = await people.begin_quiz("ana", "bid.adjust", Quiz("q1", NOW_MS, "[1, 2]", "", 0), NOW_MS - 10)
        again = await people.begin_quiz("ana", "bid.adjust", Quiz("q2", NOW_MS + 1, "[3]", "", 0), NOW_MS - 10)
        assert first == again
        assert again.quiz == "q1"

        assert await people.answer_quiz("ana", "bid.adjust", "q1", 0, "a")
        assert not await people.answer_quiz("ana", "bid.adjust", "q1", 0, "o")
        assert not await people.answer_quiz("ana", "bid.adjust", "q1", 2, "o")
        assert not await people.answer_quiz("ana", "bid.adjust", "q2", 1, "o")
        assert await people.answer_quiz("ana", "bid.adjust", "q1", 1, "o")
        kept = await people.quiz("ana", "bid.adjust")
        assert kept is not None
        assert kept.answers == "ao"
        assert await people.quiz("ana", "budget.reallocate") is None

    ask(place, scenario)


def test_a_quiz_that_is_over_is_begun_anew_and_goes_with_its_account(place: str):
    async def scenario(people: People) -> None:
        await ana(people)
        await people.begin_quiz("ana", "bid.adjust", Quiz("q1", NOW_MS, "[1]", "", 0), 0)
        await people.end_quiz("ana", "bid.adjust", "q1", NOW_MS + 5)
        kept = await people.quiz("ana", "bid.adjust")
        assert kept is not None
        assert (kept.questions, kept.answers, kept.failed_ms) == ("", "", NOW_MS + 5)
        assert not await people.answer_quiz("ana", "bid.adjust", "q1", 0, "a")

        assert (await people.begin_quiz("ana", "bid.adjust", Quiz("q2", NOW_MS, "[2]", "", 0), 0)).quiz == "q2"
        await people.remove("ana", NOW_MS)
        assert await people.quiz("ana", "bid.adjust") is None

    ask(place, scenario)
