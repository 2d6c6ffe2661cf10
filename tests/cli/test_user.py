"""`hitl user`: accounts from the command line."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.cli.main import run
from hitl_stream.console.people import People, open_people
from support.cli import POLICY
from support.kafka import within

PASSWORD = "correct horse battery"
ANA = ("user", "add", "ana", "--role", "trader", "--tenant", "acme")
BOT = ("user", "add", "bot", "--service", "--tenant", "acme")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from this machine's settings and terminal."""
    for name in [name for name in os.environ if name.startswith("HITL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HITL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))


Hitl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hitl(capfd: pytest.CaptureFixture[str]) -> Hitl:
    """Run a command; return its exit code, stdout and stderr, each on one line where it was wrapped."""

    def ask(*arguments: str) -> tuple[int, str, str]:
        code = run([*arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return ask


def answer(hitl: Hitl, *arguments: str) -> dict[str, Any]:
    """Run a command with --json and return its object."""
    code, out, err = hitl(*arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def signs_in(tmp_path: Path, name: str, password: str) -> bool:
    """Say whether name and password fit."""

    async def work() -> bool:
        people: People = open_people(str(tmp_path / "state" / "people.db"))
        try:
            return await people.sign_in(name, password, 1) is not None
        finally:
            await people.close()

    return within(work())


def link_works(tmp_path: Path, secret: str) -> str | None:
    """Return who a link's secret signs in."""

    async def work() -> str | None:
        people = open_people(str(tmp_path / "state" / "people.db"))
        try:
            signed = await people.sign_in_by_link(secret, time.time_ns() // 1_000_000)
            return signed and signed.session.account.name
        finally:
            await people.close()

    return within(work())


def test_an_account_is_made_and_listed(hitl: Hitl):
    assert answer(hitl, *ANA, "--role", "releaser") == {
        "name": "ana", "kind": "person", "tenants": ["acme"], "roles": ["releaser", "trader"], "qualifications": {},
        "password": False, "tokens": [],
    }  # fmt: skip
    assert answer(hitl, *BOT)["kind"] == "service"
    assert [row["name"] for row in answer(hitl, "user", "list")["accounts"]] == ["ana", "bot"]


def test_people_read_a_table(hitl: Hitl):
    assert "hitl user add NAME" in hitl("user", "list")[1]
    _, out, _ = hitl(*ANA)
    assert "ana cannot sign in yet; run: hitl user password ana" in out
    hitl("user", "qualify", "ana", "bid.adjust")

    line = hitl("user", "list")[1].splitlines()[1]

    assert line.split()[:4] == ["ana", "person", "acme", "trader"]
    assert "bid.adjust until 20" in line


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_password_comes_from_a_file(hitl: Hitl, tmp_path: Path, ending: str):
    (tmp_path / "secret").write_bytes((PASSWORD + ending).encode())

    assert answer(hitl, *ANA, "--password-file", "secret")["password"] is True
    assert signs_in(tmp_path, "ana", PASSWORD)


def test_a_password_comes_from_stdin_and_replaces_the_one_before(
    hitl: Hitl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hitl(*ANA)
    for secret in (PASSWORD, PASSWORD + "2"):
        monkeypatch.setattr("sys.stdin", io.StringIO(secret + "\n"))
        assert hitl("user", "password", "ana", "--password-file", "-")[0] == 0

    assert [signs_in(tmp_path, "ana", PASSWORD), signs_in(tmp_path, "ana", PASSWORD + "2")] == [False, True]


def test_a_password_is_asked_twice_at_a_terminal(hitl: Hitl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    said = iter([PASSWORD, PASSWORD + "x", PASSWORD, PASSWORD])
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("hitl_stream.cli.user.getpass", lambda _: next(said))

    code, _, err = hitl(*ANA)
    assert (code, "the two passwords differ; nothing was changed" in err) == (2, True)
    assert answer(hitl, "user", "list")["accounts"] == []
    assert hitl(*ANA)[0] == 0
    assert signs_in(tmp_path, "ana", PASSWORD)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"short", "the password has 5 characters; expected 12 to 1024"),
        (b"x" * 9_000, "characters; expected 12 to 1024"),
        (b"one line\nand another\n", "has several lines; expected the password and nothing else"),
        (b"\xff\xfe", "cannot be read"),
        (None, "No such file"),
    ],
)
def test_a_password_that_cannot_be_used_makes_no_account(
    hitl: Hitl, tmp_path: Path, content: bytes | None, message: str
):
    if content is not None:
        (tmp_path / "secret").write_bytes(content)

    code, _, err = hitl(*ANA, "--password-file", "secret")

    assert (code, message in err) == (2, True), err
    assert answer(hitl, "user", "list")["accounts"] == []


def test_roles_tenants_and_qualifications_change(hitl: Hitl):
    hitl(*ANA)

    assert answer(hitl, "user", "role", "ana", "--add", "senior", "--remove", "trader")["roles"] == ["senior"]
    assert answer(hitl, "user", "tenant", "ana", "--every-tenant")["tenants"] is None
    assert answer(hitl, "user", "tenant", "ana", "--tenant", "b")["tenants"] == ["b"]
    assert list(answer(hitl, "user", "qualify", "ana", "bid.adjust", "--days", "9")["qualifications"]) == ["bid.adjust"]
    assert answer(hitl, "user", "qualify", "ana", "bid.adjust", "--end")["qualifications"] == {}


def test_a_token_is_told_once_and_can_be_ended(hitl: Hitl):
    hitl(*BOT)

    made = answer(hitl, "user", "token", "bot", "--scope", "actions:write", "--scope", "actions:read", "--days", "7")
    (row,) = answer(hitl, "user", "list")["accounts"][0]["tokens"]

    assert row == {name: value for name, value in made.items() if name != "secret"}
    assert row["scopes"] == ["actions:read", "actions:write"]
    assert made["secret"] not in hitl("user", "list")[1]
    assert answer(hitl, "user", "token", "bot", "--revoke", made["token_id"]) == {"revoked": made["token_id"]}
    assert answer(hitl, "user", "list")["accounts"][0]["tokens"] == []


def test_only_the_secret_of_a_token_is_on_stdout(hitl: Hitl):
    hitl(*BOT)

    _, out, err = hitl("user", "token", "bot", "--scope", "actions:write")

    assert len(out.split()) == 1
    assert out.strip() not in err
    assert "which is not shown again" in err


def test_a_token_of_another_account_is_not_ended(hitl: Hitl):
    hitl(*BOT)
    hitl(*ANA)
    made = answer(hitl, "user", "token", "bot", "--scope", "actions:read")

    code, _, err = hitl("user", "token", "ana", "--revoke", made["token_id"])

    assert (code, "ana has no token" in err) == (2, True)


def test_a_link_signs_its_person_in_once(hitl: Hitl, tmp_path: Path):
    hitl(*ANA)

    code, out, err = hitl("user", "link", "ana", "--console-port", "8099")

    address, _, secret = out.strip().partition("#")
    assert (code, address) == (0, "http://localhost:8099/link")
    assert "once, within ten minutes" in err
    assert secret not in err
    assert [link_works(tmp_path, secret), link_works(tmp_path, secret)] == ["ana", None]


def test_a_link_as_json_says_until_when(hitl: Hitl):
    hitl(*ANA)

    found = answer(hitl, "user", "link", "ana")

    assert found["link"].startswith("http://localhost:8080/link#")
    assert found["until"].endswith("Z")


def test_an_account_is_removed_for_ever(hitl: Hitl):
    hitl(*ANA)

    assert "see hitl keys show, hitl keys end" in hitl("user", "remove", "ana")[1]
    assert hitl(*ANA)[0] == 5


@pytest.mark.behaviour("B7")
@pytest.mark.parametrize(
    "arguments",
    [
        ("user", "add", "bot2", "--service", "--tenant", "acme", "--role", "trader"),
        ("user", "role", "bot", "--add", "releaser"),
        ("user", "role", "bot", "--add", "policy-admin"),
        ("user", "qualify", "bot", "bid.adjust"),
        ("user", "token", "bot", "--scope", "items:decide"),
    ],
)
def test_a_service_is_refused_what_only_people_may_with_the_reason(hitl: Hitl, arguments: tuple[str, ...]):
    hitl(*BOT)

    code, _, err = hitl(*arguments)

    assert (code, "a service never decides, releases or promotes" in err) == (5, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("user", "add", "ana", "--role", "trader"), "say whose items they see: --tenant NAME"),
        ((*ANA, "--every-tenant"), "say whose items they see"),
        (("user", "add", "ana", "--tenant", "a/b"), "'a/b': no tenant"),
        (("user", "add", "a b", "--tenant", "a"), "is no name"),
        (("user", "add", "bot", "--service", "--tenant", "a", "--password-file", "x"), "a service has no password"),
        (("user", "role", "ana"), "nothing to do; give --add ROLE"),
        (("user", "remove", "eva"), "there is no account eva"),
        (("user", "password", "ana"), "there is no terminal to ask at; give --password-file FILE"),
        (("user", "token", "ana"), "a token without a scope is good for nothing; the scopes are actions:write"),
        (("user", "token", "ana", "--scope", "all"), "all: no scope of a token; they are actions:write, "),
        (("user", "token", "ana", "--scope", "actions:read", "--days", "401"), "a token lasts 1 to 400 days"),
        (("user", "token", "ana", "--scope", "actions:read", "--revoke", "t-1"), "give one of them"),
        (("user", "qualify", "ana", "bid.adjust", "--days", "0"), "--days"),
        (("user", "link", "eva"), "there is no account eva"),
        (("user", "link", "ben", "--console-port", "0"), "say which: --console-port PORT"),
    ],
)
def test_what_cannot_be_used_is_said_with_what_to_do(hitl: Hitl, arguments: tuple[str, ...], message: str):
    hitl("user", "add", "ben", "--tenant", "acme")

    code, _, err = hitl(*arguments)

    assert (code, message in err) == (2, True), err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("user", "add", "ana", "--tenant", "a", "--role", "trder"),
            "the policy has no role 'trder'; did you mean trader?",
        ),
        (("user", "role", "ben", "--add", "zzz"), "the policy has no role 'zzz'; it has auditor, "),
        (("user", "qualify", "ben", "bid.adjst"), "the policy has no class 'bid.adjst'; did you mean bid.adjust?"),
    ],
)
def test_with_a_policy_at_hand_a_slip_is_noticed(hitl: Hitl, arguments: tuple[str, ...], message: str):
    hitl("user", "add", "ben", "--tenant", "acme")

    code, _, err = hitl(*arguments, "--policy", str(POLICY))

    assert (code, message in err) == (2, True), err
    assert hitl("user", "role", "ben", "--add", "labeller", "--add", "viewer", "--policy", str(POLICY))[0] == 0


def test_accounts_stand_where_the_setting_says(hitl: Hitl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "where").write_text(str(tmp_path / "elsewhere.db") + "\n")
    monkeypatch.setenv("HITL_PEOPLE_FILE", str(tmp_path / "where"))

    hitl(*ANA)

    assert (tmp_path / "elsewhere.db").exists()
    assert [row["name"] for row in answer(hitl, "user", "list")["accounts"]] == ["ana"]
    monkeypatch.delenv("HITL_PEOPLE_FILE")
    assert answer(hitl, "user", "list", "--people", str(tmp_path / "third.db"))["accounts"] == []


def test_a_server_that_is_not_there_ends_with_its_own_code(hitl: Hitl):
    code, _, err = hitl("user", "list", "--people", "postgresql:///x?host=/nowhere")

    assert (code, "Postgres: connection is bad" in err) == (4, True)
