"""A slot: the right to be one member of a group, held by an exclusive file lock.

A static member that restarts inside its session gets its partitions back in a tenth of a second. The broker does not
fence a second process that uses the same id, so the lock does.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from hitl_stream.core.errors import UsageError

SLOTS_MAX = 64
_ILLEGAL = re.compile(r"[^a-zA-Z0-9._-]")


class Slot:
    """A held slot. `instance` names it in records (`host/role/0`), `member` in the Kafka group (`host-role-0`)."""

    def __init__(self, host: str, role: str, number: int, descriptor: int) -> None:
        self.instance = f"{host}/{role}/{number}"
        self.member = _ILLEGAL.sub("-", self.instance)
        self.number = number
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the slot back. The lock ends with the process, too."""
        os.close(self._descriptor)


def take_slot(directory: Path, host: str, role: str, wanted: int | None = None) -> Slot:
    """Take a slot of a role on this host: the wanted one, or the first that is free."""
    directory.mkdir(parents=True, exist_ok=True)
    numbers = range(SLOTS_MAX) if wanted is None else (wanted,)
    for number in numbers:
        descriptor = os.open(directory / f"{role}-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        return Slot(host, role, number, descriptor)
    which = f"slot {wanted} is" if wanted is not None else f"all {SLOTS_MAX} slots are"
    raise UsageError(
        f"{which} taken by running {role} processes on this host ({directory}); stop one, or set HITL_SLOT"
    )
