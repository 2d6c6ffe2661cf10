"""A Postgres for tests: the one that HITL_TEST_POSTGRES names, else a private one from this machine's own programs.

A test gets a DSN with a schema of its own. Without a server a test is skipped and says why; where CI=true promises one,
it fails.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

GIVEN = "HITL_TEST_POSTGRES"
PROGRAMS = Path("/usr/lib/postgresql")
"""Where Debian keeps them, a directory for each version."""
USERS = ("postgres", "nobody")
"""Who runs the server where we are root, which it refuses to be."""
START_SECONDS_MAX = 60
SETTINGS = "-c listen_addresses='' -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
"""Nobody but this machine can reach it, and nothing in it needs to outlive the tests."""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """DSN of a server."""
    given = os.environ.get(GIVEN)
    if given:
        yield given
        return
    programs = find()
    if programs is None:
        reason = f"no Postgres: {GIVEN} is not set, and there is no initdb in PATH or {PROGRAMS}/*/bin"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true, and yet {reason}")
        pytest.skip(reason)
    with cluster(programs) as dsn:
        yield dsn


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """DSN of a schema that no other test knows."""
    with schema(postgres_server) as dsn:
        yield dsn


@contextmanager
def schema(server: str) -> Iterator[str]:
    """Give a DSN whose tables stand in a new schema, which is dropped afterwards."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
        try:
            yield _with_schema(server, name)
        finally:
            connection.execute(f"DROP SCHEMA {name} CASCADE".encode())


def _with_schema(server: str, name: str) -> str:
    if "://" not in server:
        return f"{server} options=-csearch_path={name}"
    return f"{server}{'&' if '?' in server else '?'}options={quote(f'-csearch_path={name}')}"


def find() -> Path | None:
    """Return the directory of initdb and pg_ctl, or None."""
    debian = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = str(debian[-1]) if debian else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@contextmanager
def cluster(programs: Path) -> Iterator[str]:
    """Run a server of our own, reached by a socket in a directory that goes away with it."""
    who = _who()
    directory = Path(tempfile.mkdtemp(prefix="hpg-", dir="/tmp"))
    if who:
        shutil.chown(directory, who["user"], who["group"])
    data, log = directory / "data", directory / "log"

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs / program, *arguments],
            cwd=directory, capture_output=True, text=True, timeout=START_SECONDS_MAX, check=False,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, stdin=subprocess.DEVNULL, **who,
        )  # fmt: skip
        if done.returncode:
            said = log.read_text() if log.exists() else ""
            raise AssertionError(f"{program} ended with {done.returncode}: {done.stdout}{done.stderr}{said}")

    try:
        run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")
        # Its own output goes to a file: a server that keeps our pipe open would never let us go on.
        run("pg_ctl", "-D", str(data), "-w", "-l", str(log), "-o", f"{SETTINGS} -k {directory}", "start")
        try:
            yield f"postgresql:///postgres?host={directory}&user=postgres"
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _who() -> dict[str, Any]:
    """Return the options of a process that may run a server: ourselves, or somebody who is not root."""
    if os.geteuid() != 0:
        return {}
    for name in USERS:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}
    raise AssertionError(f"Postgres does not run as root, and there is none of {', '.join(USERS)}")
