"""Whoever watches a demo, as a person at its console: an account, a password, and a link that signs them in.

They may do everything but release what was stopped: that takes keys of people's own, which no console holds.
"""

from __future__ import annotations

import errno
import secrets
import socket
from importlib.util import find_spec

from msgspec import Struct

from hitl_stream.console.people import (
    AUDITOR,
    DAY_MS,
    KILL_OPERATOR,
    LABELLER,
    LINK_MS,
    VIEWER,
    link_url,
    open_people,
)
from hitl_stream.core.policy.model import Policy
from hitl_stream.dev.broker import free_ports

NAME = "you"
PORT = 8080
"""The usual one if it is free: `hitl run console` has it."""
ROLES = (VIEWER, KILL_OPERATOR, AUDITOR, LABELLER)
"""Beside those of the queues; a releaser they are not."""
NEEDS = ("fastapi", "jinja2", "uvicorn")
"""What the extra `console` brings."""
PASSWORD_BYTES = 12
INSTALL = "pip install 'hitl-stream[console]'"
LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
"""What a browser may take `localhost` for."""


class Guest(Struct, frozen=True):
    """How they get in: at `url`, by `link` until `until_ms` and once, or as `name` with `password`."""

    url: str
    link: str
    until_ms: int
    name: str
    password: str


def missing() -> str:
    """Say which module the console lacks here; an empty string: it can run."""
    return next((name for name in NEEDS if find_spec(name) is None), "")


async def invite(people: str, policy: Policy, port: int, now_ms: int) -> Guest:
    """Make the account where `people` says, for a console on that port, and return how they get in."""
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    of_queues = {role for queue in policy.queues.values() for role in queue.roles}
    accounts = open_people(people)
    try:
        await accounts.add(NAME, now_ms, tenants=None, roles={*of_queues, *ROLES})
        for name in policy.classes:
            await accounts.qualify(NAME, name, now_ms + DAY_MS)
        await accounts.set_password(NAME, password)
        secret = await accounts.link(NAME, now_ms)
    finally:
        await accounts.close()
    return Guest(f"http://localhost:{port}/", link_url(port, secret), now_ms + LINK_MS, NAME, password)


def console_port() -> int:
    """Return the usual port of a console, if nobody on this machine listens there, else a free one."""
    return PORT if all(_is_free(family, host) for family, host in LOOPBACK) else free_ports(1)[0]


def _is_free(family: socket.AddressFamily, host: str) -> bool:
    try:
        probe = socket.socket(family)
    except OSError:
        return True  # this machine has no such addresses
    with probe:
        # As a server would: what an earlier one has left does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, PORT))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
        return True
