"""The file `HALT` in a host's state directory: it stops the host's processes, and latches as a switch over everything.

In this order, so that a crash anywhere leaves the host stopped:
1. `HALT` is seen: nothing leaves this process any more, whether or not the file stays.
2. The latch, `HALT.latched`, is written: a new process is stopped by it, too. It holds the id of the command to come,
   which every process of the host derives alike.
3. A signed global HALT is appended under that id, by each of them: a repeat counts for nothing.
4. Its epoch is written into the latch, and this process has applied it: from here on control holds it, and two people
   release it like any other.
5. Once `HALT` is gone, so is the latch, some seconds later.

While `HALT` stands there the host is stopped, released or not. Touched again, it is a new command, but never while its
last one still holds. Where the directory cannot be read nobody can tell, so the host is stopped until it can be.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiokafka.errors import KafkaError
from mode import Service
from msgspec import Struct, structs

from hitl_stream.core.commands import Engage
from hitl_stream.core.control import Control
from hitl_stream.core.errors import HitlError, RefusedError, SettingsError
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.core.switches import GLOBAL
from hitl_stream.lane.admin import Client, cluster_id
from hitl_stream.lane.clock import steady_ms
from hitl_stream.lane.commander import append
from hitl_stream.lane.control_reader import read_control
from hitl_stream.wire.signing import SigningKey, read_signing_keys
from hitl_stream.wire.topics import TopicSet

HOLDER = "host"
"""Whose service key signs it."""
ENGAGE = "engage"
HALT = "HALT"
LATCH = "HALT.latched"
LOOK_EVERY_MS = 250
"""A host stops well inside 2 s. Two looks at a directory cost 5 µs."""
LATCH_KEPT_MS = 5_000
"""After `HALT` is gone and control holds its command: so that every process of the host has seen the latch."""
RETRY_MS = 1_000
REFUSED_MS = 60_000
"""Each try that is refused leaves a record for ever."""
LATCH_BYTES_MAX = 4_096
NOBODYS = ""
"""For which `HALT` a latch is that cannot be understood."""

EngageHalt = Callable[[str], Awaitable[int]]
"""Appends the global HALT under the given id; returns the epoch of the switch, and raises if there is none."""


class Latch(Struct, frozen=True):
    """What stands in the latch: the command's id, which `HALT` it is for, and the epoch of its switch."""

    jti: str
    of: str
    epoch: int | None = None


class HaltFile(Service):
    """Watches for `HALT`. `halted` is asked before anything leaves the process; `control` is its own fold."""

    def __init__(
        self,
        directory: Path,
        host: str,
        control: Control,
        engage: EngageHalt,
        *,
        steady: Callable[[], int] = steady_ms,
    ) -> None:
        super().__init__()
        self.directory = directory
        self.reason = reason_of(host)
        self._control = control
        self._engage = engage
        self._steady = steady
        self._looked_ms: int | None = None
        self._here: str | None = None
        self._unreadable = ""
        self._latch: Latch | None = None
        self._written: Latch | None = None
        """The latch as it stands in the file, None where there is none that can be read."""
        self._retry_ms = 0
        self._gone_ms: int | None = None
        self._trouble = ""
        self.log = structlog.get_logger(file=str(directory / HALT))

    # --- what a guard asks --------------------------------------------------------------------------------------------

    def halted(self) -> bool:
        """Say whether nothing may leave; what it goes by is never older than `LOOK_EVERY_MS`, also after a sleep."""
        if self._looked_ms is None or self._steady() - self._looked_ms >= LOOK_EVERY_MS:
            self._look()
        return bool(self._unreadable) or self._here is not None or self._pending()

    def missing(self) -> str:
        """Say why nothing may leave, for `/readyz`; an empty string: it may."""
        if not self.halted():
            return ""
        if self._unreadable:
            return self._unreadable
        if self._pending():
            why = f" ({self._trouble})" if self._trouble else ""
            return f"{self.directory / HALT} was seen; its HALT over everything is not known to be on control yet{why}"
        return (
            f"{self.directory / HALT} stands there; its HALT over everything is on control, to be released by two "
            "people (hitl switches). Remove the file, too"
        )

    def _pending(self) -> bool:
        """Say whether what the latch asks for was never engaged, as far as this process has folded control."""
        latch = self._latch
        return latch is not None and latch.epoch not in self._control.switches.all

    # --- looking ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """See what stands in the directory. It only reads: it is called where nothing may wait."""
        self._looked_ms = self._steady()
        try:
            os.stat(self.directory)  # noqa: PTH116  a directory that is gone says nothing of the files in it
            self._here = _identity(self.directory / HALT)
            self._written = _read(self.directory / LATCH)
        except OSError as error:
            self._unreadable = (
                f"{self.directory} cannot be read ({error.strerror or error}), so nobody can tell whether {HALT} "
                "stands there; make it readable for this user"
            )
            return
        self._unreadable = ""
        if self._latch is None:
            self._latch = self._written
        if self._here is not None and self._is_new(self._here):
            self._latch = Latch(_id_of(self.reason, self._here), self._here)

    def _is_new(self, here: str) -> bool:
        latch = self._latch
        return latch is None or (latch.of != here and not self._pending() and not self._held())

    def _held(self) -> bool:
        """Say whether a switch that this host's file engaged is engaged still."""
        return any(s.source == "host" and s.reason == self.reason for s in self._control.switches.engaged.values())

    # --- its own life -------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Look, before anything else starts."""
        self._look()
        self.add_future(self._watch())

    async def _watch(self) -> None:
        was = False
        while not self.should_stop:
            await self.step()
            if self.halted() != was:
                was = not was
                self.log.critical("halted", why=self.missing()) if was else self.log.warning("no longer halted by it")
            await self.sleep(LOOK_EVERY_MS / 1000)

    async def step(self) -> None:
        """Look, and do the next thing that is due."""
        self._look()
        latch = self._latch
        if latch is None:
            return
        try:
            await self._advance(latch)
        except OSError as error:
            # Stopped all the same, by what this process remembers; a new one sees HALT itself.
            self._tell(f"{self.directory / LATCH} cannot be written ({error.strerror or error}); keep {HALT} there")

    async def _advance(self, latch: Latch) -> None:
        if latch.epoch is None:
            latch = await self._appended(latch)
        if latch.epoch is None or self._unreadable:
            return
        if self._here is not None:
            self._gone_ms = None
            if self._here != latch.of:
                latch = self._keep(structs.replace(latch, of=self._here))
        if latch != self._written:
            self._keep(latch)
        elif self._here is None and not self._pending():
            self._forget()

    async def _appended(self, latch: Latch) -> Latch:
        """Write the latch, append its command, and note the epoch of its switch."""
        trouble: OSError | None = None
        try:
            latch = self._adopt(latch)
        except OSError as error:
            trouble = error  # a full disk is no reason not to stop everything
        if latch.epoch is None and self._steady() >= self._retry_ms:
            try:
                latch = structs.replace(latch, epoch=await self._engage(latch.jti))
                self._trouble = ""
            except (HitlError, KafkaError, TimeoutError, OSError) as error:
                self._retry_ms = self._steady() + (REFUSED_MS if isinstance(error, RefusedError) else RETRY_MS)
                self._tell(str(error) or repr(error))
        self._latch = latch
        if trouble is not None:
            raise trouble
        return latch

    def _adopt(self, latch: Latch) -> Latch:
        """Write the latch, or take over one whose command another process of this host is about to append."""
        written = self._written
        if written is not None and written.of != NOBODYS and (written.of == latch.of or written.epoch is None):
            return written
        return self._keep(latch)

    def _keep(self, latch: Latch) -> Latch:
        _write(self.directory / LATCH, latch)
        self._latch = self._written = latch
        return latch

    def _forget(self) -> None:
        now = self._steady()
        if self._gone_ms is None:
            self._gone_ms = now
        elif now - self._gone_ms >= LATCH_KEPT_MS:
            (self.directory / LATCH).unlink(missing_ok=True)
            self._latch = self._written = self._gone_ms = None

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self.log.error("HALT was seen", why=trouble)


def reason_of(host: str) -> str:
    """Return the reason that a host's HALT gives."""
    return f"file {HALT} on {host}"


def engage_on(
    client: Client, topics: TopicSet, trust: str, keys_dir: Path, host: str, reason: str | None = None
) -> EngageHalt:
    """Return what appends a host's HALT with its service key, and reads back whether it is accepted.

    `reason`: another one than that its file stands there.
    """
    why = reason or reason_of(host)

    async def engage(jti: str) -> int:
        def halt(**claims: Any) -> Engage:
            claims["jti"] = jti
            return Engage(**claims, scope=(GLOBAL,), mode=Mode.HALT, reason=why, source="host")

        key = host_key(keys_dir)
        # First, since each try would leave a record for ever that counts for nothing; stopped the host is already.
        log = await read_control(client, topics, trust, await cluster_id(client))
        entry = log.control.keys.get(key.key_id)
        if entry is None or ENGAGE not in entry.types:
            raise RefusedError(f"control does not list the key {key.key_id} for engage; see hitl keys show")
        appended = await append(client, topics, key, halt)
        log = await read_control(client, topics, trust, appended.command.aud)
        refused = log.rejection_at(appended.epoch)
        if refused is None:
            return appended.epoch
        before = [epoch for epoch, switch in log.control.switches.all.items() if switch.reason == why]
        if refused is not Rejection.REPLAYED or not before:
            raise RefusedError(f"control/{appended.epoch} does not count ({refused}); see hitl keys show")
        return max(before)  # another process of this host was first

    return engage


def host_key(keys_dir: Path) -> SigningKey:
    """Return the newest service key of a host; say how to make one where there is none."""
    mine = [key for key in read_signing_keys(keys_dir).values() if key.kind == "service" and key.holder == HOLDER]
    if not mine:
        raise SettingsError(f"{keys_dir} has no service key of {HOLDER!r}, which {HALT} is signed with; see hitl keys")
    return mine[-1]


# --- files ------------------------------------------------------------------------------------------------------------


def _identity(path: Path) -> str | None:
    """Return which file stands there, as of when it was last touched; None where there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return f"{found.st_ino}/{found.st_mtime_ns}"


def _read(path: Path) -> Latch | None:
    """Return the latch that stands there; None where there is none.

    One that cannot be understood is a latch all the same, for a command that nobody has appended.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LATCH_BYTES_MAX)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(content, type=Latch)
    except ValueError:
        return Latch(_id_of(str(path), content.hex()), NOBODYS)


def _id_of(*parts: str) -> str:
    return "halt-" + hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _write(path: Path, latch: Latch) -> None:
    """Put the latch there, as a whole and for good."""
    whole = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(descriptor, msgspec.json.encode(latch))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    whole.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
