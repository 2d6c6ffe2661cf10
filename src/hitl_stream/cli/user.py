"""`hitl user`: who may do what at the console. Accounts, their roles, tenants and qualifications, passwords and tokens.

A secret is never an argument, which every user of the host could read: a password comes from the terminal or a file,
the secret of a token or a link is printed once.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from getpass import getpass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App, Parameter
from cyclopts.types import PositiveInt
from rich.table import Table
from rich.text import Text

from hitl_stream.cli.control_words import day_text
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags, Toggle
from hitl_stream.cli.terminal import emit, err, out
from hitl_stream.console.people import (
    DAY_MS,
    LABELLER,
    LINK_MS,
    PASSWORD_LENGTH_MAX,
    ROLES,
    Account,
    Kind,
    People,
    Scope,
    Token,
    check_password,
    link_url,
    open_people,
)
from hitl_stream.core.errors import UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.settings import Settings

T = TypeVar("T")
QUALIFIED_DAYS = 90
TOKEN_DAYS = 90
STDIN = Path("-")

Name = Annotated[str, Parameter(name="NAME")]
Names = Annotated[tuple[str, ...], Parameter(negative="")]
Days = Annotated[PositiveInt, Parameter(name="--days")]
PasswordFile = Annotated[Path | None, Parameter(name="--password-file", allow_leading_hyphen=True)]


def register(app: App) -> None:
    """Add the verbs."""
    user = App(name="user", help="Say who may do what at the console: people and services, their roles and tokens.")
    for verb in (add, remove, role, tenant, qualify, password, link, token):
        user.command(verb)
    user.command(list_, name="list")
    app.command(user)


def add(
    name: Name,
    *,
    service: Toggle = False,
    role: Names = (),
    tenant: Names = (),
    every_tenant: Toggle = False,
    password_file: PasswordFile = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Make an account: `hitl user add ana --role trader --tenant acme`.

    A service never decides, releases or promotes. A name that was removed is never given again.

    Parameters
    ----------
    service
        It is no person, and gets tokens instead of a password.
    role
        viewer, kill-operator, releaser, policy-admin, auditor, labeller, or one of a queue; once for each.
    tenant
        Whose items they see; once for each.
    every_tenant
        They see those of every tenant.
    password_file
        A file with the password and nothing else, - for stdin. Not given: asked at the terminal, if there is one.
    json
        One object on stdout: {name, kind, tenants, roles, qualifications, password, tokens}.
    """
    settings = flags.load()
    _refuse_unknown_roles(settings, role)
    tenants = _tenants(tenant, every_tenant)
    if service and password_file is not None:
        raise UsageError(
            f"{escaped(name)}: a service has no password; give it a token: hitl user token {escaped(name)}"
        )
    secret = None if service else _password(password_file, needed=False)

    async def work(people: People) -> Account:
        kind = Kind.SERVICE if service else Kind.PERSON
        await people.add(name, _now_ms(), kind=kind, tenants=tenants, roles=role)
        if secret is not None:
            await people.set_password(name, secret)
        return await _found(people, name)

    account = _with(settings, work)
    _say_account(account, (), json)
    if not json and not service and not account.has_password:
        _print(f"{account.name} cannot sign in yet; run: hitl user password {account.name}")
    return 0


def remove(name: Name, *, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Take everything from an account but its name; sessions and tokens end at once.

    Keys that sign commands are not the console's: end them with `hitl keys end`.

    Parameters
    ----------
    json
        One object on stdout: {removed}.
    """
    _with(flags.load(), lambda people: people.remove(name, _now_ms()))
    if json:
        emit({"removed": name})
        return 0
    _print(f"{escaped(name)} is removed. Keys that they sign commands with go on: see hitl keys show, hitl keys end.")
    return 0


def list_(*, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """List the accounts, what each may do, until when they are qualified, and their tokens.

    Parameters
    ----------
    json
        One object on stdout: {accounts: [{name, kind, tenants, roles, qualifications, password, tokens}]}.
    """

    async def work(people: People) -> tuple[Sequence[Account], Sequence[Token]]:
        return await people.accounts(), await people.tokens()

    accounts, tokens = _with(flags.load(), work)
    if json:
        emit({"accounts": [_row(account, tokens) for account in accounts]})
        return 0
    if not accounts:
        _print("There are no accounts yet; make one: hitl user add NAME --role ROLE --tenant TENANT")
        return 0
    out.print(_table(accounts, tokens, _now_ms()))
    return 0


def role(
    name: Name, *, add: Names = (), remove: Names = (), json: Json = False, flags: SettingsFlags = NO_FLAGS
) -> int:
    """Give roles to an account, and take others away: `hitl user role ana --add senior --remove trader`.

    Parameters
    ----------
    add
        A role to give; once for each.
    remove
        A role to take away; once for each.
    json
        One object on stdout, the account, as `hitl user add` prints it.
    """
    settings = flags.load()
    if not add and not remove:
        raise UsageError("nothing to do; give --add ROLE, --remove ROLE or both")
    _refuse_unknown_roles(settings, add)
    return _changed(settings, name, json, lambda people: people.set_roles(name, add=add, remove=remove))


def tenant(
    name: Name,
    *,
    tenant: Names = (),
    every_tenant: Toggle = False,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Say of which tenants an account is, in place of what was said before.

    Parameters
    ----------
    tenant
        Whose items they see; once for each.
    every_tenant
        They see those of every tenant.
    json
        One object on stdout, the account, as `hitl user add` prints it.
    """
    tenants = _tenants(tenant, every_tenant)
    return _changed(flags.load(), name, json, lambda people: people.set_tenants(name, tenants))


def qualify(
    name: Name,
    class_: Annotated[str, Parameter(name="CLASS")],
    *,
    days: Days = QUALIFIED_DAYS,
    end: Toggle = False,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Say that a person may claim items of a class, and for how long: `hitl user qualify ana bid.adjust`.

    Parameters
    ----------
    class_
        A class of the policy, such as bid.adjust.
    days
        From now on.
    end
        They may not any more, from now on.
    json
        One object on stdout, the account, as `hitl user add` prints it.
    """
    settings = flags.load()
    _refuse_unknown(class_, "class", _of_policy(settings)[1])
    until_ms = None if end else _now_ms() + days * DAY_MS
    return _changed(settings, name, json, lambda people: people.qualify(name, class_, until_ms))


def password(name: Name, *, password_file: PasswordFile = None, flags: SettingsFlags = NO_FLAGS) -> int:
    """Give a person a new password; every session of theirs ends.

    Parameters
    ----------
    password_file
        A file with the password and nothing else, - for stdin. Not given: asked at the terminal.
    """
    settings = flags.load()
    secret = _password(password_file, needed=True)
    assert secret is not None  # it was needed
    _with(settings, lambda people: people.set_password(name, secret))
    _print(f"{escaped(name)} has a new password, and signs in with it from now on.")
    return 0


def link(
    name: Name,
    *,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Make a link that signs a person in once, within ten minutes; it is printed on stdout, and a newer one ends it.

    Parameters
    ----------
    json
        One object on stdout: {link, until}.
    """
    settings, now_ms = flags.load(), _now_ms()
    if not settings.console_port:
        raise UsageError("the console has any free port (console_port is 0); say which: --console-port PORT")
    secret = _with(settings, lambda people: people.link(name, now_ms))
    found = link_url(settings.console_port, secret)
    if json:
        emit({"link": found, "until": _day(now_ms + LINK_MS)})
        return 0
    err.print("It signs whoever opens it in, once, within ten minutes, on this machine:", markup=False, soft_wrap=True)
    _print(found)
    return 0


def token(
    name: Name,
    *,
    scope: Names = (),
    days: Days = TOKEN_DAYS,
    revoke: str | None = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Make a bearer token for the API, or end one; the secret is printed once, on stdout, and kept nowhere.

    Parameters
    ----------
    scope
        What it is for, such as actions:write; once for each. It never reaches further than the account does then.
    days
        From now on, 400 at most.
    revoke
        The id of a token of theirs to end, as `hitl user list` shows it.
    json
        One object on stdout: {token_id, secret, scopes, until}, or {revoked}.
    """
    settings = flags.load()
    if revoke is not None:
        if scope:
            raise UsageError("--revoke ends a token, --scope makes one; give one of them")
        _with(settings, lambda people: _revoke(people, name, revoke))
        emit({"revoked": revoke}) if json else _print(f"Token {escaped(revoke)} is ended.")
        return 0
    now_ms, scopes = _now_ms(), _scopes(scope)
    issued = _with(settings, lambda people: people.issue(name, scopes, now_ms + days * DAY_MS, now_ms))
    if json:
        emit({**_token_row(issued.token), "secret": issued.secret})
        return 0
    err.print(
        f"Token {issued.token.token_id} of {issued.token.account}, for {', '.join(issued.token.scopes)}, until "
        f"{_day(issued.token.until_ms)}. Its secret, which is not shown again:",
        markup=False,
        soft_wrap=True,
    )
    _print(issued.secret)
    return 0


async def _revoke(people: People, name: str, token_id: str) -> None:
    account = await _found(people, name)
    if token_id not in {one.token_id for one in await people.tokens(name)}:
        raise UsageError(f"{account.name} has no token {escaped(token_id)}; see: hitl user list")
    await people.revoke(token_id)


# --- the accounts -----------------------------------------------------------------------------------------------------


def _with(settings: Settings, work: Callable[[People], Awaitable[T]]) -> T:
    async def run() -> T:
        people = open_people(settings.people)
        try:
            return await work(people)
        finally:
            await people.close()

    return asyncio.run(run())


def _changed(settings: Settings, name: str, json: bool, change: Callable[[People], Awaitable[Account]]) -> int:
    async def work(people: People) -> tuple[Account, Sequence[Token]]:
        return await change(people), await people.tokens(name)

    account, tokens = _with(settings, work)
    _say_account(account, tokens, json)
    return 0


async def _found(people: People, name: str) -> Account:
    account = await people.account(name)
    if account is None:
        raise UsageError(f"there is no account {escaped(name)}; see: hitl user list")
    return account


# --- what is given ----------------------------------------------------------------------------------------------------


def _tenants(tenants: Sequence[str], every: bool) -> Sequence[str] | None:
    if every == bool(tenants):
        raise UsageError("say whose items they see: --tenant NAME, once for each, or --every-tenant")
    wrong = [tenant for tenant in tenants if not tenant or "/" in tenant or not tenant.isprintable()]
    if wrong:
        raise UsageError(f"{', '.join(map(repr, wrong))}: no tenant; expected a name without '/', such as acme")
    return None if every else tenants


def _scopes(words: Sequence[str]) -> list[Scope]:
    unknown = sorted(set(words) - set(Scope))
    if unknown:
        raise UsageError(f"{', '.join(map(escaped, unknown))}: no scope of a token; they are {', '.join(Scope)}")
    return [Scope(word) for word in words]


def _password(path: Path | None, *, needed: bool) -> str | None:
    found = _given(path, needed)
    if found is not None:
        check_password(found)  # before anything is written
    return found


def _given(path: Path | None, needed: bool) -> str | None:
    if path is not None:
        return _first_line(path)
    if not sys.stdin.isatty():
        if needed:
            raise UsageError("there is no terminal to ask at; give --password-file FILE, or - for stdin")
        return None
    first = getpass("Password: ")
    if first != getpass("Once more: "):
        raise UsageError("the two passwords differ; nothing was changed")
    return first


def _first_line(path: Path) -> str:
    """Read a password; what is longer than one may be is left for the accounts to refuse."""
    limit = 4 * PASSWORD_LENGTH_MAX + 2
    try:
        if path == STDIN:
            text = sys.stdin.read(limit)
        else:
            with path.open(encoding="utf-8") as file:
                text = file.read(limit)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--password-file: {path} cannot be read ({error}); expected one line of UTF-8") from None
    found = text.removesuffix("\n").removesuffix("\r")
    if "\n" in found:
        raise UsageError(f"--password-file: {path} has several lines; expected the password and nothing else")
    return found


def _refuse_unknown_roles(settings: Settings, roles: Sequence[str]) -> None:
    of_queues = _of_policy(settings)[0]
    for one in roles:
        _refuse_unknown(one, "role", of_queues and {*of_queues, *ROLES, LABELLER})


def _refuse_unknown(word: str, what: str, known: set[str]) -> None:
    """Refuse a word that no policy knows; without a policy at hand, any is taken."""
    if known and word not in known:
        close = get_close_matches(word, known, 1)
        hint = f"; did you mean {close[0]}?" if close else f"; it has {', '.join(sorted(known))}"
        raise UsageError(f"the policy has no {what} {escaped(word)!r}{hint}")


def _of_policy(settings: Settings) -> tuple[set[str], set[str]]:
    """Return the roles of the policy's queues, and its classes; nothing where no policy is set."""
    if settings.policy is None:
        return set(), set()
    from hitl_stream.wiring import load_policy  # here: it loads the roles, and most verbs do not need them

    policy = load_policy(settings).policy
    return {role for queue in policy.queues.values() for role in queue.roles}, set(policy.classes)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


# --- what is shown ----------------------------------------------------------------------------------------------------


def _say_account(account: Account, tokens: Sequence[Token], json: bool) -> None:
    if json:
        emit(_row(account, tokens))
        return
    out.print(_table([account], tokens, _now_ms()))


def _row(account: Account, tokens: Sequence[Token]) -> dict[str, Any]:
    return {
        "name": account.name,
        "kind": account.kind.value,
        "tenants": account.tenants,
        "roles": account.roles,
        "qualifications": {name: _day(until_ms) for name, until_ms in account.qualifications.items()},
        "password": account.has_password,
        "tokens": [_token_row(one) for one in tokens if one.account == account.name],
    }


def _token_row(one: Token) -> dict[str, Any]:
    return {"token_id": one.token_id, "scopes": one.scopes, "until": _day(one.until_ms)}


def _table(accounts: Sequence[Account], tokens: Sequence[Token], now_ms: int) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for title in ("name", "kind", "tenants", "roles", "qualified for", "signs in", "tokens"):
        table.add_column(title, overflow="fold")
    for account in accounts:
        own = [f"{one.token_id} ({' '.join(one.scopes)}){_end(one.until_ms, now_ms)}" for one in tokens
               if one.account == account.name]  # fmt: skip
        cells = (
            account.name,
            account.kind.value,
            "every one" if account.tenants is None else "\n".join(account.tenants),
            "\n".join(account.roles),
            "\n".join(_qualified(account.qualifications, now_ms)),
            "yes" if account.has_password else "no",
            "\n".join(own),
        )
        table.add_row(*(Text(_lines(cell) or "–") for cell in cells))
    return table


def _qualified(qualifications: Mapping[str, int], now_ms: int) -> list[str]:
    return [f"{name}{_end(until_ms, now_ms)}" for name, until_ms in qualifications.items()]


def _end(until_ms: int, now_ms: int) -> str:
    return f" until {_day(until_ms)}" if until_ms > now_ms else f", ended {_day(until_ms)}"


def _lines(text: str) -> str:
    return "\n".join(map(escaped, text.split("\n")))


def _day(ms: int) -> str:
    return day_text(datetime.fromtimestamp(ms / 1000, UTC))


def _print(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)
