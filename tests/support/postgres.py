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
from dataclasses import dataclass
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
    with cluster(required(f"{GIVEN} is not set, and ")) as server:
        yield server.dsn


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


def required(before: str = "") -> Path:
    """Return where Postgres's programs are; else skip the test, or fail it where CI=true promises them."""
    found = find()
    if found is None:
        reason = f"no Postgres: {before}there is no initdb in PATH or {PROGRAMS}/*/bin"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true, and yet {reason}")
        pytest.skip(reason)
    return found


def find() -> Path | None:
    """Return the directory of initdb and pg_ctl, or None."""
    debian = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = str(debian[-1]) if debian else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@dataclass(frozen=True)
class Cluster:
    """A server of our own, reached by a socket in its directory."""

    programs: Path
    directory: Path

    @property
    def dsn(self) -> str:
        """Return where clients connect."""
        return f"postgresql:///postgres?host={self.directory}&user=postgres"

    def start(self) -> None:
        """Return once it answers; after `stop` what was written is still there."""
        # Its own output goes to a file: a server that keeps our pipe open would never let us go on.
        log, options = str(self.directory / "log"), f"{SETTINGS} -k {self.directory}"
        self.run("pg_ctl", "-D", str(self._data), "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """End it in the middle of whatever it does."""
        self.run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def make(self) -> None:
        """Write the files of an empty database."""
        self.run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync",
                 "--locale=C")  # fmt: skip

    def run(self, program: str, *arguments: str) -> None:
        """Run one of its programs; fail with what it and the server said."""
        done = subprocess.run(
            [self.programs / program, *arguments],
            cwd=self.directory, capture_output=True, text=True, timeout=START_SECONDS_MAX, check=False,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, stdin=subprocess.DEVNULL, **_who(),
        )  # fmt: skip
        if done.returncode:
            log = self.directory / "log"
            said = log.read_text() if log.exists() else ""
            raise AssertionError(f"{program} ended with {done.returncode}: {done.stdout}{done.stderr}{said}")

    @property
    def _data(self) -> Path:
        return self.directory / "data"


@contextmanager
def cluster(programs: Path) -> Iterator[Cluster]:
    """Run a server of our own, whose directory goes away with it."""
    directory = Path(tempfile.mkdtemp(prefix="hpg-", dir="/tmp"))
    found = Cluster(programs, directory)
    who = _who()
    try:
        if who:
            shutil.chown(directory, who["user"], who["group"])
        found.make()
        found.start()
        try:
            yield found
        finally:
            found.stop()
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
