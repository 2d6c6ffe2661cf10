"""What the verbs that append a command share: whose key signs, what is known before, whether it counted or waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from hitl_stream.cli.control_words import WORDS
from hitl_stream.cli.live import Telling
from hitl_stream.core.commands import KeyEntry
from hitl_stream.core.control import CONFIRM_MS_MAX
from hitl_stream.core.errors import RefusedError, SettingsError, UsageError
from hitl_stream.core.events import Rejection
from hitl_stream.lane.commander import Appended, Commander, Make, commanding
from hitl_stream.lane.control_reader import ControlReader, reading_control
from hitl_stream.settings import Settings, kafka_client, topic_set
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.records import time_text
from hitl_stream.wire.signing import SUFFIX, SigningKey, public_jwk, read_signing_key, read_signing_keys

REASON_LENGTH_MAX = 2_000
KeyFlag = Annotated[
    str | None,
    Parameter(
        name="--key",
        help="The key that signs: its id in keys_dir, or its file. Not given: the only person's key there.",
    ),
]
Reason = Annotated[str, Parameter(name="--reason", help="Why; it stays on record.")]


def signing_key(settings: Settings, wanted: str | None) -> SigningKey:
    """Return the key that `--key` names, else the only person's key in keys_dir."""
    if wanted is not None:
        is_path = "/" in wanted or wanted.endswith(SUFFIX)
        return read_signing_key(Path(wanted) if is_path else settings.keys_dir / f"{wanted}{SUFFIX}")
    found = [key for key in read_signing_keys(settings.keys_dir).values() if key.kind == "person"]
    match found:
        case [key]:
            return key
        case []:
            raise UsageError(
                f"no person's key in {settings.keys_dir}; name one with --key FILE, or make the first: hitl keys init"
            )
    ids = ", ".join(key.key_id for key in found)
    raise UsageError(f"{settings.keys_dir} holds several persons' keys: {ids}; say which with --key ID")


def trust_of(settings: Settings) -> str:
    """Return the digest of the first keys record; refuse to go without."""
    if not settings.trust:
        raise SettingsError(
            "trust is not set, so no key on the control log can be believed; set HITL_TRUST to the digest that "
            "`hitl keys init` printed"
        )
    return settings.trust


def believed(log: ControlLog, topic: str) -> ControlLog:
    """Return the log; refuse one without the record that `trust` names."""
    if not log.control.keys:
        raise RefusedError(
            f"no record on {topic} has the digest {log.trust[:16]}… that trust names, so nothing there counts; compare "
            "HITL_TRUST with what `hitl keys init` printed for this cluster"
        )
    return log


@dataclass(frozen=True)
class Desk:
    """A connection to the control log for one verb: it reads, appends, and reads back."""

    key: SigningKey
    log: ControlLog
    """As it stood at the beginning; `append` folds on."""
    commander: Commander
    reader: ControlReader

    async def append(
        self, make: Make, say_more: Callable[[Rejection, Appended], str] = lambda why, what: ""
    ) -> Appended:
        """Append a command and read back whether it counts; raise RefusedError in plain words if it does not.

        `say_more` adds to those words.
        """
        appended = await self.commander.append(make)
        log = await self.reader.catch_up()
        why = log.rejection_at(appended.epoch)
        if why is not None:
            raise RefusedError(f"appended at {appended.epoch}, but refused: {WORDS[why]}{say_more(why, appended)}")
        return appended


@asynccontextmanager
async def at_desk(settings: Settings, key: SigningKey) -> AsyncIterator[Desk]:
    """Connect, and fold the control log to its end."""
    client, topics, trust = kafka_client(settings), topic_set(settings), trust_of(settings)
    async with (
        commanding(client, topics, key) as commander,
        reading_control(client, topics, trust, commander.audience) as reader,
    ):
        log = believed(await reader.catch_up(), topics.name("control"))
        yield Desk(key, log, commander, reader)


def foreseen(keys: Mapping[str, KeyEntry], key: SigningKey, typ: str) -> Rejection | None:
    """Say why a command of this type would be refused for its key, as far as no clock has to be believed for it."""
    entry = keys.get(key.key_id)
    if entry is None:
        return Rejection.UNKNOWN_KEY
    if entry.jwk != public_jwk(key):
        return Rejection.SIGNATURE
    if entry.holder != key.holder:
        return Rejection.ISSUER
    return None if typ in entry.types else Rejection.TYPE


@dataclass(frozen=True)
class Signed:
    """A command that counts: where it stands, and whether it waits for another holder."""

    appended: Appended
    waits: bool

    @property
    def row(self) -> dict[str, Any]:
        """Return what `--json` says of every such command."""
        epoch = self.appended.epoch
        return {
            "state": "ASKED" if self.waits else "IN FORCE",
            "epoch": epoch,
            "at": time_text(self.appended.at_ms),
            "confirm": f"hitl confirm {epoch}" if self.waits else None,
        }


async def sign_and_append(settings: Settings, signer: SigningKey, typ: str, prepare: Callable[[Desk], Make]) -> Signed:
    """Append the command that `prepare` makes after it has looked at the log; it is not asked where the key may not."""
    async with at_desk(settings, signer) as desk:
        why = foreseen(desk.log.control.keys, signer, typ)
        if why is not None:
            raise RefusedError(f"not appended, since it would be refused: {WORDS[why]}")
        appended = await desk.append(prepare(desk))
        return Signed(appended, appended.epoch in desk.log.control.pending)


def tell(signed: Signed, telling: Telling, now: str, then: str) -> None:
    """Say what holds now, or who must do what so that it will."""
    epoch, at = signed.appended.epoch, time_text(signed.appended.at_ms)
    if signed.waits:
        last = time_text(signed.appended.at_ms + CONFIRM_MS_MAX)
        telling.line(
            f"ASKED({epoch}) at {at}: nothing changes yet. {then} once another holder confirms it, until {last}: "
            f"hitl confirm {epoch}",
            "bold yellow",
        )
    else:
        telling.line(f"IN FORCE({epoch}) at {at}: {now}.", "bold green")


def checked_reason(reason: str) -> None:
    """Refuse a reason that says nothing, or too much."""
    if not reason.strip() or len(reason) > REASON_LENGTH_MAX:
        raise UsageError(f"--reason: say why, in 1 to {REASON_LENGTH_MAX} characters; it stays on record")
