"""Who may do what at the console: accounts, their rights, sessions and tokens, in a store that no rebuild touches.

Rules:
- An account is a person or a service. A service never decides, releases or promotes, whatever anybody grants it.
- A name stands in signed verdicts for ever: one that was removed is never given to somebody else.
- Passwords are kept as argon2id; the secrets of sessions, links and tokens, 256 bits each, as their SHA-256.
- A link signs one person in, once, within `LINK_MS`; a newer one ends it.
- A session lasts `SESSION_MS` at most, and each request asks anew what its account may do: a right that was taken away
  is gone at once.

Times are milliseconds since 1970; the caller says what time it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from msgspec import Struct

from hitl_stream.console.database import Database, Row, Tables, Tx, open_database
from hitl_stream.core.errors import RefusedError, SettingsError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.core.switches import folded

T = TypeVar("T")
VERSION = 3
SECRET_BYTES = 32
SESSION_MS = 8 * 3_600_000
"""A working day; then a person signs in again, and whoever found the browser open does not."""
FRESH_MS = 5 * 60_000
"""Tier 3 and a release want a sign-in that is no older."""
LINK_MS = 10 * 60_000
"""Long enough to walk to a browser."""
PASSWORD_LENGTH_MIN = 12
PASSWORD_LENGTH_MAX = 1_024
"""Longer ones would only keep the hash busy."""
FAILURES_MAX = 10
FAILURES_MS = 15 * 60_000
"""So many wrong passwords in so long a time, and the account takes none until the time is over."""
TOKEN_DAYS_MAX = 400
DAY_MS = 86_400_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,59}")
"""As the holders of keys are named."""
ROLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


class Kind(StrEnum):
    """What an account is."""

    PERSON = "person"
    SERVICE = "service"


VIEWER, KILL_OPERATOR, RELEASER, POLICY_ADMIN, AUDITOR = ROLES = (
    "viewer",
    "kill-operator",
    "releaser",
    "policy-admin",
    "auditor",
)
"""Every other role is a queue's: whoever has it decides there."""
LABELLER = "labeller"
"""A role of people who compare outputs; they decide about nothing that runs, and yet only people do it."""
SERVICE_ROLES = (VIEWER, KILL_OPERATOR, AUDITOR)
"""A service may look, and may stop what runs; it may not loosen anything."""


class Scope(StrEnum):
    """What a token is for; it never reaches further than its account."""

    PROPOSE = "actions:write"
    READ = "actions:read"
    QUEUES = "queues:read"
    DECIDE = "items:decide"
    RELEASE_BATCH = "batches:release"
    PAIRS = "pairs:judge"
    SWITCHES = "switches:read"
    ENGAGE = "switches:engage"
    COMMANDS = "commands:write"
    FEEDBACK = "feedback:read"


DECIDING = frozenset({Scope.DECIDE, Scope.RELEASE_BATCH, Scope.PAIRS})
NEEDS_ROLE: Mapping[Scope, str] = {Scope.ENGAGE: KILL_OPERATOR}
"""Which role an account needs besides for a scope; for the deciding ones it is any queue's."""


class Account(Struct, frozen=True, kw_only=True):
    """Somebody who may do something. `tenants` None: every one. `qualifications`: until when, by class."""

    name: str
    kind: Kind
    tenants: tuple[str, ...] | None
    roles: tuple[str, ...]
    qualifications: Mapping[str, int]
    has_password: bool

    @property
    def queue_roles(self) -> tuple[str, ...]:
        """Return the roles in which they decide."""
        return tuple(role for role in self.roles if role not in ROLES)

    def has(self, role: str) -> bool:
        """Say whether they have a role."""
        return role in self.roles

    def is_qualified(self, class_: str, now_ms: int) -> bool:
        """Say whether they may claim items of a class now."""
        return self.qualifications.get(class_, 0) > now_ms

    def may_use(self, scope: Scope) -> bool:
        """Say whether a token of theirs may be for that."""
        if scope in DECIDING:
            return self.kind is Kind.PERSON and bool(self.queue_roles)
        if scope is Scope.PROPOSE and self.kind is Kind.PERSON:
            return not self.roles or not set(self.roles) <= {VIEWER, AUDITOR}  # who only reads proposes nothing
        return NEEDS_ROLE.get(scope) is None or self.has(NEEDS_ROLE[scope])


class Session(Struct, frozen=True):
    """A person who has signed in."""

    account: Account
    begun_ms: int
    until_ms: int

    def is_fresh(self, now_ms: int) -> bool:
        """Say whether they signed in a moment ago, as tier 3 and a release want."""
        return now_ms - self.begun_ms <= FRESH_MS


class SignedIn(Struct, frozen=True):
    """A session and its secret, which is told once."""

    secret: str
    session: Session


class Token(Struct, frozen=True):
    """A bearer token, without its secret."""

    token_id: str
    account: str
    scopes: tuple[Scope, ...]
    until_ms: int


class Issued(Struct, frozen=True):
    """A token and its secret, which is told once."""

    secret: str
    token: Token


class Quiz(Struct, frozen=True):
    """A quiz that somebody takes, or has failed: `questions` are as the console wrote them, `answers` one letter each.

    Without questions none is open; `failed_ms`: when the last one was failed, 0: none was.
    """

    quiz: str
    begun_ms: int
    questions: str
    answers: str
    failed_ms: int


class Bearer(Struct, frozen=True):
    """Who showed a token, and what it is good for by now."""

    account: Account
    scopes: frozenset[Scope]


LINKS = "CREATE TABLE person_link (id TEXT PRIMARY KEY, digest TEXT NOT NULL UNIQUE, until_ms BIGINT NOT NULL)"
QUIZZES = """CREATE TABLE person_quiz (id TEXT, class TEXT, quiz TEXT NOT NULL, begun_ms BIGINT NOT NULL,
    questions TEXT NOT NULL, answers TEXT NOT NULL, failed_ms BIGINT NOT NULL, PRIMARY KEY (id, class))"""
SCHEMA = (
    """CREATE TABLE person (id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, every_tenant INTEGER NOT NULL,
        password TEXT, failures INTEGER NOT NULL, failed_ms BIGINT NOT NULL, added_ms BIGINT NOT NULL,
        removed_ms BIGINT)""",
    """CREATE TABLE person_tenant (id TEXT, tenant TEXT, PRIMARY KEY (id, tenant))""",
    """CREATE TABLE person_role (id TEXT, role TEXT, PRIMARY KEY (id, role))""",
    """CREATE TABLE person_qualification (id TEXT, class TEXT, until_ms BIGINT NOT NULL, PRIMARY KEY (id, class))""",
    """CREATE TABLE person_session (digest TEXT PRIMARY KEY, id TEXT NOT NULL, begun_ms BIGINT NOT NULL,
        until_ms BIGINT NOT NULL)""",
    LINKS,
    QUIZZES,
    """CREATE TABLE person_token (digest TEXT PRIMARY KEY, token_id TEXT NOT NULL UNIQUE, id TEXT NOT NULL,
        scopes TEXT NOT NULL, until_ms BIGINT NOT NULL)""",
)
UPGRADES: Mapping[int, tuple[str, ...]] = {1: (LINKS,), 2: (QUIZZES,)}
"""What makes the next version's tables of those of a version: accounts are kept, whatever hitl learns."""
_OF_ACCOUNT = (
    "person_tenant", "person_role", "person_qualification", "person_session", "person_link", "person_token",
    "person_quiz",
)  # fmt: skip


def open_people(place: str | Path, hasher: PasswordHasher | None = None) -> People:
    """Open the accounts that the setting `people` names."""
    return People(open_database(place, durable=True), hasher)


class People(Tables):
    """The accounts. Tables are made with the first use. What is refused raises `RefusedError` or `UsageError`."""

    def __init__(self, database: Database, hasher: PasswordHasher | None = None) -> None:
        super().__init__(database, prepare)
        self._hasher = hasher or PasswordHasher()
        self._nobody = ""
        """What a password is compared with where there is none: an answer takes as long for a name that is unknown."""

    # --- accounts ---

    async def add(
        self,
        name: str,
        now_ms: int,
        *,
        kind: Kind = Kind.PERSON,
        tenants: Collection[str] | None = (),
        roles: Collection[str] = (),
    ) -> Account:
        """Make an account; `tenants` None: of every tenant."""
        if not NAME.fullmatch(name):
            raise UsageError(f"{escaped(name)!r} is no name; expected 1 to 60 of A-Z a-z 0-9 . _ @ -, such as ana")
        _check_roles(kind, name, roles)

        def work(tx: Tx) -> Account:
            tx.alone("people")
            known = tx.rows("SELECT name, removed_ms FROM person WHERE id = ?", (folded(name),))
            if known and known[0][1] is not None:
                raise RefusedError(
                    f"{known[0][0]} was removed, and stands in what was signed; choose a name that nobody had"
                )
            if known:
                raise RefusedError(f"{known[0][0]} has an account already; see: hitl user list")
            tx.rows(
                "INSERT INTO person (id, name, kind, every_tenant, failures, failed_ms, added_ms)"
                " VALUES (?, ?, ?, ?, 0, 0, ?)",
                (folded(name), name, kind.value, int(tenants is None), now_ms),
            )
            _put(tx, "person_tenant", folded(name), tenants or ())
            _put(tx, "person_role", folded(name), roles)
            return _known(tx, name)

        return await self._write(work)

    async def remove(self, name: str, now_ms: int) -> None:
        """Take away everything from an account but its name; its sessions and tokens end now."""

        def work(tx: Tx) -> None:
            key = folded(_known(tx, name).name)
            for table in _OF_ACCOUNT:
                tx.rows(f"DELETE FROM {table} WHERE id = ?", (key,))
            tx.rows("UPDATE person SET removed_ms = ?, password = NULL, every_tenant = 0 WHERE id = ?", (now_ms, key))

        await self._write(work)

    async def accounts(self) -> tuple[Account, ...]:
        """Return every account, by name."""

        def work(tx: Tx) -> tuple[Account, ...]:
            names = tx.rows("SELECT name FROM person WHERE removed_ms IS NULL ORDER BY id")
            return tuple(_known(tx, name) for (name,) in names)

        return await self._read(work)

    async def account(self, name: str) -> Account | None:
        """Return one account."""
        return await self._read(lambda tx: _account(tx, folded(name)))

    async def set_roles(self, name: str, *, add: Collection[str] = (), remove: Collection[str] = ()) -> Account:
        """Give roles and take others away."""

        def work(tx: Tx) -> Account:
            tx.alone("people")
            known = _known(tx, name)
            _check_roles(known.kind, known.name, add)
            unknown = sorted(set(remove) - set(known.roles))
            if unknown:
                raise UsageError(f"{known.name} has no role {', '.join(unknown)}; they have {_listed(known.roles)}")
            for role in remove:
                tx.rows("DELETE FROM person_role WHERE id = ? AND role = ?", (folded(name), role))
            _put(tx, "person_role", folded(name), set(add) - (set(known.roles) - set(remove)))
            return _known(tx, name)

        return await self._write(work)

    async def set_tenants(self, name: str, tenants: Collection[str] | None) -> Account:
        """Say of which tenants an account is; None: of every one."""

        def work(tx: Tx) -> Account:
            tx.alone("people")
            key = folded(_known(tx, name).name)
            tx.rows("DELETE FROM person_tenant WHERE id = ?", (key,))
            _put(tx, "person_tenant", key, tenants or ())
            tx.rows("UPDATE person SET every_tenant = ? WHERE id = ?", (int(tenants is None), key))
            return _known(tx, name)

        return await self._write(work)

    async def qualify(self, name: str, class_: str, until_ms: int | None) -> Account:
        """Say until when a person may claim items of a class; None: not any more."""

        def work(tx: Tx) -> Account:
            tx.alone("people")
            known = _known(tx, name)
            if known.kind is Kind.SERVICE:
                raise RefusedError(f"{known.name} is a service: {NEVER}, so that it qualifies for no class")
            tx.rows("DELETE FROM person_qualification WHERE id = ? AND class = ?", (folded(name), class_))
            if until_ms is not None:
                sql = "INSERT INTO person_qualification (id, class, until_ms) VALUES (?, ?, ?)"
                tx.rows(sql, (folded(name), class_, until_ms))
            return _known(tx, name)

        return await self._write(work)

    # --- quizzes ---

    async def quiz(self, name: str, class_: str) -> Quiz | None:
        """Return how somebody's quiz of a class stands."""
        return await self._read(lambda tx: _quiz(tx, folded(name), class_))

    async def begin_quiz(self, name: str, class_: str, quiz: Quiz, since_ms: int) -> Quiz:
        """Keep a quiz that begins now, and return the one that counts: an open one of after `since_ms` goes on."""

        def work(tx: Tx) -> Quiz:
            tx.alone("people")
            key = folded(_known(tx, name).name)
            open_ = _quiz(tx, key, class_)
            if open_ is not None and open_.questions and open_.begun_ms > since_ms:
                return open_
            tx.rows("DELETE FROM person_quiz WHERE id = ? AND class = ?", (key, class_))
            tx.rows(
                "INSERT INTO person_quiz (id, class, quiz, begun_ms, questions, answers, failed_ms)"
                " VALUES (?, ?, ?, ?, ?, '', 0)",
                (key, class_, quiz.quiz, quiz.begun_ms, quiz.questions),
            )
            return quiz

        return await self._write(work)

    async def answer_quiz(self, name: str, class_: str, quiz: str, at: int, letter: str) -> bool:
        """Keep the answer to question `at`; False: it was answered before, or the quiz is another by now."""
        sql = (
            "UPDATE person_quiz SET answers = answers || ? WHERE id = ? AND class = ? AND quiz = ?"
            " AND LENGTH(answers) = ? AND questions <> '' RETURNING quiz"
        )
        return bool(await self._write(lambda tx: tx.rows(sql, (letter, folded(name), class_, quiz, at))))

    async def end_quiz(self, name: str, class_: str, quiz: str, failed_ms: int) -> None:
        """Forget the questions of a quiz that is over; `failed_ms` 0: it was passed."""
        sql = (
            "UPDATE person_quiz SET questions = '', answers = '', failed_ms = ?"
            " WHERE id = ? AND class = ? AND quiz = ? AND questions <> ''"
        )
        await self._write(lambda tx: tx.rows(sql, (failed_ms, folded(name), class_, quiz)))

    # --- signing in ---

    async def set_password(self, name: str, password: str) -> None:
        """Give a person a password; every session and link that began with an older one ends."""
        check_password(password)
        hashed = await asyncio.to_thread(self._hasher.hash, password)

        def work(tx: Tx) -> None:
            known = _known(tx, name)
            if known.kind is Kind.SERVICE:
                raise RefusedError(
                    f"{known.name} is a service, which does not sign in; give it a token: hitl user token"
                )
            tx.rows("UPDATE person SET password = ?, failures = 0 WHERE id = ?", (hashed, folded(name)))
            for table in ("person_session", "person_link"):
                tx.rows(f"DELETE FROM {table} WHERE id = ?", (folded(name),))

        await self._write(work)

    async def sign_in(self, name: str, password: str, now_ms: int) -> SignedIn | None:
        """Begin a session. None: name and password do not fit, or there were too many that did not."""
        key = folded(name)
        self._nobody = self._nobody or await asyncio.to_thread(self._hasher.hash, _secret())
        hashed = await self._write(lambda tx: _password(tx, key, now_ms))
        fits = await asyncio.to_thread(self._fits, hashed or self._nobody, password[: PASSWORD_LENGTH_MAX + 1])
        if hashed is None or not fits:
            return None
        secret = _secret()

        def work(tx: Tx) -> SignedIn | None:
            # Between the two somebody may have changed the password, or removed the account.
            if tx.rows("SELECT password FROM person WHERE id = ?", (key,)) != [(hashed,)]:
                return None
            tx.rows("UPDATE person SET failures = 0 WHERE id = ?", (key,))
            return _begin(tx, secret, _known(tx, name), now_ms)

        return await self._write(work)

    async def link(self, name: str, now_ms: int) -> str:
        """Make a secret that signs a person in once, within `LINK_MS`; one that was made before ends."""
        secret = _secret()

        def work(tx: Tx) -> str:
            tx.alone("people")
            known = _known(tx, name)
            if known.kind is Kind.SERVICE:
                raise RefusedError(
                    f"{known.name} is a service, which does not sign in; give it a token: hitl user token"
                )
            key = folded(known.name)
            tx.rows("DELETE FROM person_link WHERE id = ?", (key,))
            values = (key, _digest(secret), now_ms + LINK_MS)
            tx.rows("INSERT INTO person_link (id, digest, until_ms) VALUES (?, ?, ?)", values)
            return secret

        return await self._write(work)

    async def sign_in_by_link(self, secret: str, now_ms: int) -> SignedIn | None:
        """Begin a session with a link's secret, and use it up. None: there is none, or its time is over."""
        begun = _secret()

        def work(tx: Tx) -> SignedIn | None:
            # Taken and read in one statement: of two who come at once, one finds it.
            taken = tx.rows("DELETE FROM person_link WHERE digest = ? RETURNING id, until_ms", (_digest(secret),))
            for key, until_ms in taken:
                account = _account(tx, key)
                if account is not None and account.kind is Kind.PERSON and now_ms < until_ms:
                    return _begin(tx, begun, account, now_ms)
            return None

        return await self._write(work)

    async def session(self, secret: str, now_ms: int) -> Session | None:
        """Return whose session a secret is, if it still lasts."""

        def work(tx: Tx) -> Session | None:
            sql = "SELECT id, begun_ms, until_ms FROM person_session WHERE digest = ? AND until_ms > ?"
            for key, begun_ms, until_ms in tx.rows(sql, (_digest(secret), now_ms)):
                account = _account(tx, key)
                return None if account is None else Session(account, begun_ms, until_ms)
            return None

        return await self._read(work)

    async def sign_out(self, secret: str) -> None:
        """End a session."""
        await self._write(lambda tx: tx.rows("DELETE FROM person_session WHERE digest = ?", (_digest(secret),)))

    def _fits(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False

    # --- tokens ---

    async def issue(self, name: str, scopes: Collection[Scope], until_ms: int, now_ms: int) -> Issued:
        """Make a token; its secret is in what is returned, and nowhere else."""
        if not scopes:
            raise UsageError(f"a token without a scope is good for nothing; the scopes are {_listed(Scope)}")
        if not now_ms < until_ms <= now_ms + TOKEN_DAYS_MAX * DAY_MS:
            raise UsageError(f"a token lasts 1 to {TOKEN_DAYS_MAX} days")
        secret, token_id = _secret(), f"t-{secrets.token_hex(6)}"

        def work(tx: Tx) -> Issued:
            known = _known(tx, name)
            _check_scopes(known, scopes)
            token = Token(token_id, known.name, tuple(sorted(scopes)), until_ms)
            tx.rows(
                "INSERT INTO person_token (digest, token_id, id, scopes, until_ms) VALUES (?, ?, ?, ?, ?)",
                (_digest(secret), token_id, folded(name), " ".join(token.scopes), until_ms),
            )
            return Issued(secret, token)

        return await self._write(work)

    async def tokens(self, name: str | None = None) -> tuple[Token, ...]:
        """Return the tokens of an account, or of all."""
        where, values = ("", ()) if name is None else (" WHERE t.id = ?", (folded(name),))
        sql = (
            "SELECT t.token_id, p.name, t.scopes, t.until_ms FROM person_token t JOIN person p ON p.id = t.id"
            f"{where} ORDER BY p.id, t.token_id"
        )
        found = await self._read(lambda tx: tx.rows(sql, values))
        return tuple(Token(token_id, owner, _scopes(text), until) for token_id, owner, text, until in found)

    async def revoke(self, token_id: str) -> None:
        """End a token."""
        sql = "DELETE FROM person_token WHERE token_id = ? RETURNING token_id"
        if not await self._write(lambda tx: tx.rows(sql, (token_id,))):
            raise UsageError(f"there is no token {escaped(token_id)}; see: hitl user list")

    async def bearer(self, secret: str, now_ms: int) -> Bearer | None:
        """Return who shows a token, with those of its scopes that the account has the rights for by now."""

        def work(tx: Tx) -> Bearer | None:
            sql = "SELECT id, scopes FROM person_token WHERE digest = ? AND until_ms > ?"
            for key, text in tx.rows(sql, (_digest(secret), now_ms)):
                account = _account(tx, key)
                if account is not None:
                    return Bearer(account, frozenset(scope for scope in _scopes(text) if account.may_use(scope)))
            return None

        return await self._read(work)


def prepare(tx: Tx) -> None:
    """Make the tables where there are none; raise `SettingsError` where they are of another version."""
    tx.alone("people")
    tx.rows("CREATE TABLE IF NOT EXISTS people_version (one INTEGER PRIMARY KEY, version BIGINT NOT NULL)")
    found = tx.rows("SELECT version FROM people_version")
    if not found:
        for statement in SCHEMA:
            tx.rows(statement)
        tx.rows("INSERT INTO people_version (one, version) VALUES (1, ?)", (VERSION,))
        return
    version = found[0][0]
    while version in UPGRADES:
        for statement in UPGRADES[version]:
            tx.rows(statement)
        version += 1
        tx.rows("UPDATE people_version SET version = ?", (version,))
    if version != VERSION:
        raise SettingsError(
            f"people: the accounts have tables of version {version}, this hitl knows {VERSION}; start the hitl "
            "that wrote them: accounts cannot be read anew from anywhere"
        )


def link_url(port: int, secret: str) -> str:
    """Return the address of a link for a browser on the console's own machine.

    The secret is behind `#`: a browser sends it to nobody, and no log has it.
    """
    return f"http://localhost:{port}/link#{secret}"


# --- rights -----------------------------------------------------------------------------------------------------------

NEVER = "a service never decides, releases or promotes"


def check_password(password: str) -> None:
    """Raise `UsageError` for a password that would not be taken."""
    if not PASSWORD_LENGTH_MIN <= len(password) <= PASSWORD_LENGTH_MAX:
        raise UsageError(
            f"the password has {len(password)} characters; expected {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX}"
        )


def _check_roles(kind: Kind, name: str, roles: Collection[str]) -> None:
    """Refuse what is no role, and what no service may have."""
    for role in roles:
        if not ROLE.fullmatch(role):
            raise UsageError(
                f"{escaped(role)!r} is no role; they are {_listed(ROLES)}, {LABELLER}, and those of queues"
            )
    wrong = sorted(set(roles) - set(SERVICE_ROLES))
    if kind is Kind.SERVICE and wrong:
        raise RefusedError(
            f"{name} is a service, and cannot be {_listed(wrong)}: {NEVER}; it may be {_listed(SERVICE_ROLES)}"
        )


def _check_scopes(account: Account, scopes: Collection[Scope]) -> None:
    wrong = sorted(scope for scope in scopes if not account.may_use(scope))
    if not wrong:
        return
    if account.kind is Kind.SERVICE and DECIDING & set(wrong):
        raise RefusedError(f"{account.name} is a service, and gets no token for {_listed(wrong)}: {NEVER}")
    raise RefusedError(
        f"{account.name} lacks the role for {_listed(wrong)}; they have {_listed(account.roles)}: see hitl user role"
    )


# --- rows -------------------------------------------------------------------------------------------------------------


def _known(tx: Tx, name: str) -> Account:
    found = _account(tx, folded(name))
    if found is None:
        raise UsageError(f"there is no account {escaped(name)}; see: hitl user list")
    return found


def _account(tx: Tx, key: str) -> Account | None:
    sql = "SELECT name, kind, every_tenant, password FROM person WHERE id = ? AND removed_ms IS NULL"
    rows = tx.rows(sql, (key,))
    if not rows:
        return None
    name, kind, every, password = rows[0]
    tenants = _column(tx, "SELECT tenant FROM person_tenant WHERE id = ? ORDER BY tenant", key)
    qualified = tx.rows("SELECT class, until_ms FROM person_qualification WHERE id = ? ORDER BY class", (key,))
    return Account(
        name=name,
        kind=Kind(kind),
        tenants=None if every else tenants,
        roles=_column(tx, "SELECT role FROM person_role WHERE id = ? ORDER BY role", key),
        qualifications=dict(map(_pair, qualified)),
        has_password=password is not None,
    )


def _pair(row: Row) -> tuple[str, int]:
    return str(row[0]), int(row[1])


def _quiz(tx: Tx, key: str, class_: str) -> Quiz | None:
    sql = "SELECT quiz, begun_ms, questions, answers, failed_ms FROM person_quiz WHERE id = ? AND class = ?"
    rows = tx.rows(sql, (key, class_))
    return Quiz(*rows[0]) if rows else None


def _column(tx: Tx, sql: str, key: str) -> tuple[str, ...]:
    return tuple(value for (value,) in tx.rows(sql, (key,)))


def _put(tx: Tx, table: str, key: str, values: Iterable[str]) -> None:
    column = table.removeprefix("person_")
    tx.many(f"INSERT INTO {table} (id, {column}) VALUES (?, ?)", [(key, value) for value in sorted(set(values))])


def _password(tx: Tx, key: str, now_ms: int) -> str | None:
    """Return the hash that a password must fit, and count the attempt; None: there is none, or it takes none now.

    An attempt counts before it is judged: many at once are not one.
    """
    sql = f"SELECT password, failures, failed_ms FROM person WHERE id = ? AND removed_ms IS NULL{tx.lock}"
    rows = tx.rows(sql, (key,))
    if not rows or rows[0][0] is None:
        return None
    hashed, failures, failed_ms = rows[0]
    if now_ms - failed_ms >= FAILURES_MS:
        failures, failed_ms = 0, now_ms
    if failures >= FAILURES_MAX:
        return None
    tx.rows("UPDATE person SET failures = ?, failed_ms = ? WHERE id = ?", (failures + 1, failed_ms, key))
    return str(hashed)


def _begin(tx: Tx, secret: str, account: Account, now_ms: int) -> SignedIn:
    """Begin a session of somebody who has shown who they are."""
    tx.rows("DELETE FROM person_session WHERE until_ms <= ?", (now_ms,))
    values = (_digest(secret), folded(account.name), now_ms, now_ms + SESSION_MS)
    tx.rows("INSERT INTO person_session (digest, id, begun_ms, until_ms) VALUES (?, ?, ?, ?)", values)
    return SignedIn(secret, Session(account, now_ms, now_ms + SESSION_MS))


def _scopes(text: str) -> tuple[Scope, ...]:
    known = set(Scope)
    return tuple(Scope(scope) for scope in text.split() if scope in known)


def _secret() -> str:
    return secrets.token_urlsafe(SECRET_BYTES)


def _digest(secret: str) -> str:
    """Return what is kept of a secret. It has 256 random bits: a slow hash would add nothing."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"
