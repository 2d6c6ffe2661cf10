"""`hitl keys`: the keys that roles seal with, and those that sign commands: made, shown, and replaced."""

from __future__ import annotations

import hashlib
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.types import PositiveInt
from msgspec import structs
from rich.table import Table
from rich.text import Text

from hitl_stream.cli.appending import Desk, KeyFlag, believed, sign_and_append, signing_key, tell, trust_of
from hitl_stream.cli.control_words import WORDS, day_text, told
from hitl_stream.cli.live import Telling
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.terminal import emit, err, out
from hitl_stream.cli.topics import reading
from hitl_stream.core.commands import TYPES, Command, KeyEntry, Keys
from hitl_stream.core.control import Control
from hitl_stream.core.errors import BrokenError, RefusedError, SettingsError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.core.switches import folded
from hitl_stream.core.verdicts import VERDICT_TYPES
from hitl_stream.lane.admin import Client, cluster_id
from hitl_stream.lane.commander import Appended, Make, append
from hitl_stream.lane.control_reader import read_control
from hitl_stream.lane.reader import read, spans
from hitl_stream.settings import Settings, kafka_client, topic_set
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.signing import (
    KEY_ID,
    SUFFIX,
    Kind,
    SigningKey,
    claimed_keys,
    create_signing_key,
    key_entry,
    public_jwk,
    read_command,
    read_signing_keys,
)
from hitl_stream.wire.topics import TopicSet

PERSON_TYPES = tuple(typ for typ in TYPES if typ != "reviewer")
SERVICE_TYPES: Mapping[str, tuple[str, ...]] = {
    "control": ("heartbeat", "engage", "release_request"),
    "monitor": ("engage", "gate", "level", "reviewer"),
    "host": ("engage",),
    "console": (*VERDICT_TYPES, "engage"),
}
"""What each service signs: control its heartbeats, tripwires and drills; the monitor what tightens; a host its HALT;
the console what people say of what they were shown, and their stops."""
HOLDERS_MIN = 2
"""Of persons' keys: one asks, another confirms."""
EARLIER_S = 300
"""A first key is valid from a little before its record: the broker's clock may be behind what is known of it."""
DAY_S = 86_400
DAYS = 400
OVERLAP_DAYS = 7
_NUMBERED = re.compile(r"(.*?)-([0-9]{1,9})")

Days = Annotated[PositiveInt, Parameter(name="--days")]
Names = Annotated[tuple[str, ...], Parameter(negative="")]


def register(app: App) -> None:
    """Add the verbs."""
    keys = App(name="keys", help="Make, show and replace the keys that roles seal with and people sign with.")
    for verb in (seal, init, show, add, rotate, end):
        keys.command(verb)
    app.command(keys)


# --- seal -------------------------------------------------------------------------------------------------------------


def seal(*, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Make the keys that roles seal with, where there are none yet; existing ones stay.

    Parameters
    ----------
    json
        One object on stdout: {keys_dir, keys: [{path, mode, made}]}.
    """
    from hitl_stream.wiring import make_monitor_keys, make_router_keys  # here: no other verb of these needs the roles

    settings = flags.load()
    directory = settings.keys_dir
    before = _key_files(directory)
    try:
        make_router_keys(settings)
        make_monitor_keys(settings)
    except OSError as error:
        raise SettingsError(
            f"keys_dir: cannot write keys to {directory} ({error.strerror}); give this user a directory of its own"
        ) from None
    rows = [
        {"path": str(path), "mode": f"{stat.S_IMODE(path.stat().st_mode):04o}", "made": path not in before}
        for path in _key_files(directory)
    ]
    if json:
        emit({"keys_dir": str(directory), "keys": rows})
        return 0
    for row in rows:
        out.print(f"{'made' if row['made'] else 'kept'}  {row['path']}  {row['mode']}", markup=False, soft_wrap=True)
    if any(row["made"] for row in rows):
        out.print(
            "Copy these files to every host that runs a router, an executor, a desk, the console or the monitor; "
            "nobody else may read them.",
            soft_wrap=True,
        )
    return 0


def _key_files(directory: Path) -> list[Path]:
    from hitl_stream.wiring import MONITOR_KEYS, ROUTER_KEYS

    return sorted(path for name in {*ROUTER_KEYS, *MONITOR_KEYS} for path in directory.glob(f"{name}-*"))


# --- init -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Begun:
    """The first keys: where their record stands, its digest, and the files."""

    appended: Appended
    trust: str
    files: tuple[tuple[SigningKey, Path], ...]


def init(
    *,
    holder: Names = (),
    service: Names = ("control", "console", "monitor"),
    days: Days = DAYS,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Make the first signing keys, and the record on `control` that starts all trust: `--holder ana --holder ben`.

    Two people are needed for whatever loosens. With a third one, a lost key locks nobody out.

    Parameters
    ----------
    holder
        A person who gets a key; once for each.
    service
        A service that gets a key: control, monitor, host or console; once for each.
    days
        How long the keys are valid.
    json
        One object on stdout: {trust, epoch, until, keys: [{key_id, holder, kind, path}]}.
    """
    settings = flags.load()
    if not holder:
        raise UsageError(
            "no holder is named, and somebody must sign; name two people at least: --holder ana --holder ben"
        )
    begun = reading(begin(settings, holder, service, days))
    (until,) = {day_text(entry.until) for entry in _entries(begun.appended.command)}
    if json:
        rows = [_made_row(key, path) for key, path in begun.files]
        emit({"trust": begun.trust, "epoch": begun.appended.epoch, "until": until, "keys": rows})
    else:
        _say_what_is_next(begun, until)
    if len(holder) < HOLDERS_MIN:
        err.print(f"WARNING: {_ALONE}", style="bold red", markup=False, soft_wrap=True)
    return 0


_ALONE = (
    "with fewer than two holders nothing that is stopped could ever be released, and no policy, gate or key be "
    "changed: each of these takes two people"
)


def _check_names(holders: Sequence[str], services: Sequence[str]) -> None:
    unknown = [service for service in services if service not in SERVICE_TYPES]
    if unknown:
        raise UsageError(f"{', '.join(unknown)}: no service that signs; they are {', '.join(SERVICE_TYPES)}")
    names = (*holders, *services)
    # As the fold compares holders: Ana and ana are one, and could not confirm each other's commands.
    counts = Counter(map(folded, names))
    twice = sorted({name for name in names if counts[folded(name)] > 1})
    if twice:
        raise UsageError(f"{', '.join(twice)}: named twice; every holder, person or service, has a name of its own")
    wrong = [name for name in names if not KEY_ID.fullmatch(_key_id(name, 1))]
    if wrong:
        raise UsageError(f"{', '.join(map(repr, wrong))}: no name; expected 1 to 60 of A-Z a-z 0-9 . _ -, such as ana")


async def begin(settings: Settings, holders: Sequence[str], services: Sequence[str], days: int = DAYS) -> Begun:
    """Make the first keys, and append the record that starts all trust.

    Raises `UsageError` for names that are none, `RefusedError` where trust began already, and as an append does.
    """
    _check_names(holders, services)
    client, topics = kafka_client(settings), topic_set(settings)
    audience = await cluster_id(client)
    await _refuse_a_second_time(settings, client, topics, audience)
    keys = [_make(settings.keys_dir, name, 1, kind) for name, kind in _named(holders, services)]

    appended = await append(client, topics, keys[0], partial(_listing, keys, days))
    trust = hashlib.sha256(appended.value).hexdigest()
    why = (await read_control(client, topics, trust, audience)).rejection_at(appended.epoch)
    if why is not None:
        raise BrokenError(f"the first keys were appended at {appended.epoch}, but are refused: {WORDS[why]}")
    return Begun(appended, trust, _files(settings, keys))


async def _refuse_a_second_time(settings: Settings, client: Client, topics: TopicSet, audience: str) -> None:
    """Refuse where trust began already: by the settings, or by a record that a key of ours has signed.

    Nobody else's record is believed, or its digest shown: whoever can write to the topic could put one there.
    """
    log = await read_control(client, topics, settings.trust, audience)
    if log.control.keys:
        raise RefusedError(
            f"{topics.name('control')} has its first keys, and trust names them; to replace one: hitl keys rotate"
        )
    mine = read_signing_keys(settings.keys_dir)
    part = await spans(client, [topics.name("control")], partition=0)
    async with aclosing(read(client, part)) as records:
        async for _, _, batch in records:
            for record in batch:
                if _signed_by(mine, record.value, record.timestamp, audience):
                    digest = hashlib.sha256(record.value or b"").hexdigest()
                    raise RefusedError(
                        f"{topics.name('control')}/0/{record.offset} holds first keys, signed by one of "
                        f"{settings.keys_dir}; set HITL_TRUST={digest}, or begin anew with another keys_dir"
                    )


def _signed_by(mine: Mapping[str, SigningKey], value: bytes | None, at_ms: int, audience: str) -> bool:
    """Say whether a record holds first keys that one of these has signed."""
    listed = claimed_keys(value or b"")
    command = read_command(value, at_ms, listed, audience) if listed else None
    if not isinstance(command, Keys) or command.kid not in mine:
        return False
    return listed[command.kid].jwk == public_jwk(mine[command.kid])


def _say_what_is_next(begun: Begun, until: str) -> None:
    for key, path in begun.files:
        _print(f"{path}  {key.kind} {key.holder}")
    _print(f"The first keys stand on control at {begun.appended.epoch}, valid until {until}. Every host must trust:")
    _print(f"\n  HITL_TRUST={begun.trust}\n")
    _print("1. Set it on every host, in the environment or as `trust` in hitl.toml.")
    for number, line in enumerate(_where_to(begun.files), 2):
        _print(f"{number}. {line}")


def _where_to(files: Iterable[tuple[SigningKey, Path]]) -> Iterator[str]:
    """Yield where each key file belongs."""
    people = ", ".join(f"{path.name} to {key.holder}" for key, path in files if key.kind == "person")
    if people:
        yield f"Move each person's key to that person, and leave none here: {people}."
    for key, path in files:
        if key.kind == "service":
            where = "may HALT by a file" if key.holder == "host" else f"runs {key.holder}"
            yield f"Copy {path.name} into keys_dir of every host that {where}."


# --- show -------------------------------------------------------------------------------------------------------------


def show(*, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Show the keys that the control log lists: whose, for what, from when until when, and whether in force now.

    Parameters
    ----------
    json
        One object on stdout: {trust, epoch, holders, keys, pending}; a key is {key_id, holder, kind, types, from,
        until, in_force, file}.
    """
    settings = flags.load()
    log = reading(_folded(settings))
    control = log.control
    # A host's clock is good enough to look at; what counts is judged at append time.
    now = _moment(max(control.at_ms // 1000, int(time.time())))
    here = {path.stem for path in settings.keys_dir.glob(f"*{SUFFIX}")}
    entries = sorted(control.keys.values(), key=lambda entry: (entry.kind, entry.holder, entry.from_))
    holders = _people(entries, now)
    pending = [epoch for epoch, one in control.pending.items() if isinstance(one.command, Keys)]
    if json:
        rows = [_row(entry, now, here) for entry in entries]
        emit({"trust": log.trust, "epoch": control.epoch, "holders": holders, "keys": rows, "pending": pending})
        return 0
    out.print(_table(entries, now, here))
    for epoch in pending:
        for line in told(control, control.pending[epoch]):
            _print(line)
        _print(f"  It waits for another holder: hitl confirm {epoch}")
    if len(holders) < HOLDERS_MIN:
        err.print(f"WARNING: {_ALONE}", style="bold red", markup=False, soft_wrap=True)
    return 0


async def _folded(settings: Settings) -> ControlLog:
    client, topics, trust = kafka_client(settings), topic_set(settings), trust_of(settings)
    log = await read_control(client, topics, trust, await cluster_id(client))
    return believed(log, topics.name("control"))


def _people(entries: Iterable[KeyEntry], now: datetime) -> list[str]:
    in_force = [entry for entry in entries if entry.kind == "person" and entry.from_ <= now < entry.until]
    return sorted({folded(entry.holder): entry.holder for entry in in_force}.values())


def _row(entry: KeyEntry, now: datetime, here: set[str]) -> dict[str, Any]:
    return {
        "key_id": entry.key_id,
        "holder": entry.holder,
        "kind": entry.kind,
        "types": entry.types,
        "from": day_text(entry.from_),
        "until": day_text(entry.until),
        "in_force": entry.from_ <= now < entry.until,
        "file": entry.key_id in here,
    }


def _table(entries: Iterable[KeyEntry], now: datetime, here: set[str]) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for title in ("key", "holder", "kind", "from", "until", "now", "here", "may sign"):
        table.add_column(title, overflow="fold")
    for entry in entries:
        row = _row(entry, now, here)
        state = "in force" if row["in_force"] else "ended" if entry.until <= now else "not yet"
        cells = (entry.key_id, entry.holder, entry.kind, row["from"], row["until"], state)
        there = "file" if row["file"] else ""
        style = None if row["in_force"] else "dim"
        table.add_row(*(Text(escaped(cell)) for cell in (*cells, there, ", ".join(entry.types))), style=style)
    return table


# --- add --------------------------------------------------------------------------------------------------------------


def add(
    *,
    holder: Names = (),
    service: Names = (),
    key: KeyFlag = None,
    days: Days = DAYS,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Make keys for more holders: `hitl keys add --holder cem`. They count when another holder confirms it.

    Parameters
    ----------
    holder
        A person who gets a key; once for each.
    service
        A service that gets a key: control, monitor, host or console; once for each.
    days
        How long the keys are valid.
    json
        One object on stdout: {state, epoch, at, confirm, until, keys: [{key_id, holder, kind, path}]}.
    """
    if not holder and not service:
        raise UsageError("nobody is named who gets a key; name a person, --holder cem, or a service, --service console")
    _check_names(holder, service)
    settings = flags.load()
    signer = signing_key(settings, key)
    telling = Telling(json)
    made: list[SigningKey] = []

    def prepare(desk: Desk) -> Make:
        control = desk.log.control
        _refuse_another_kind(control, holder, service)
        for name, kind in _named(holder, service):
            made.append(_make(settings.keys_dir, name, _free(control, name), kind))
        return partial(_listing, made, days)

    signed = reading(sign_and_append(settings, signer, "keys", prepare))
    files = _files(settings, made)
    until = day_text(_entries(signed.appended.command)[0].until)
    for one, path in files:
        telling.line(f"{path}  {one.kind} {one.holder}")
    names = ", ".join(one.key_id for one in made)
    tell(signed, telling, f"{names} may sign until {until}", f"{names} may sign until {until}")
    for line in _where_to(files):
        telling.line(line)
    if json:
        emit({**signed.row, "until": until, "keys": [_made_row(one, path) for one, path in files]})
    return 0


def _refuse_another_kind(control: Control, holders: Sequence[str], services: Sequence[str]) -> None:
    """Refuse a person named as a listed service is, or the other way round: who confirms what could not be told."""
    kinds = {folded(entry.holder): entry.kind for entry in control.keys.values()}
    for name, kind in _named(holders, services):
        if kinds.get(folded(name), kind) != kind:
            raise UsageError(f"{name}: the log lists a {kinds[folded(name)]} of that name; choose another")


# --- end --------------------------------------------------------------------------------------------------------------


def end(
    *key_ids: Annotated[str, Parameter(name="KEY_ID")],
    key: KeyFlag = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """End keys that are lost, stolen, or needed no longer. They hold until another holder confirms it.

    Parameters
    ----------
    key_ids
        The keys, as `hitl keys show` lists them.
    json
        One object on stdout: {state, epoch, at, confirm, ends: [{key_id, holder, kind, until}]}.
    """
    if not key_ids:
        raise UsageError("no key is named; `hitl keys show` lists them: hitl keys end KEY_ID…")
    wanted = tuple(dict.fromkeys(key_ids))
    settings = flags.load()
    signer = signing_key(settings, key)
    telling = Telling(json)

    def prepare(desk: Desk) -> Make:
        control, now = desk.log.control, _moment(desk.commander.now_ms() // 1000)
        ending = [_in_force(control, key_id, now) for key_id in wanted]
        for line in _lost(control, ending, now):
            telling.line(line, "bold red")
        return partial(_ended, ending)

    signed = reading(sign_and_append(settings, signer, "keys", prepare))
    entries = _entries(signed.appended.command)
    names = escaped(", ".join(wanted))
    tell(signed, telling, f"{names} may sign nothing any more", f"{names} may sign nothing any more")
    if json:
        rows = [
            {"key_id": one.key_id, "holder": one.holder, "kind": one.kind, "until": day_text(one.until)}
            for one in entries
        ]
        emit({**signed.row, "ends": rows})
    return 0


def _ended(entries: Sequence[KeyEntry], **claims: Any) -> Command:
    """Return the command that ends keys when it was signed: what they have signed before counts."""
    return Keys(keys=tuple(structs.replace(one, until=_moment(claims["iat"])) for one in entries), **claims)


def _in_force(control: Control, key_id: str, now: datetime) -> KeyEntry:
    entry = _listed(control, key_id)
    if entry.until <= now:
        raise UsageError(f"{escaped(key_id)} ended at {day_text(entry.until)} already; nothing is appended")
    return entry


def _lost(control: Control, ending: Sequence[KeyEntry], now: datetime) -> Iterator[str]:
    """Refuse what would lock everybody out; yield what nobody could sign any more."""
    names = {entry.key_id for entry in ending}
    left = [one for one in control.keys.values() if one.key_id not in names and one.from_ <= now < one.until]
    people = _people(left, now)
    if any(entry.kind == "person" for entry in ending) and len(people) < HOLDERS_MIN:
        who = f"only {escaped(people[0])} would be left" if people else "nobody would be left"
        raise RefusedError(f"not appended: {who}, and {_ALONE}. First list another: hitl keys add --holder NAME")
    signs = {typ for entry in left for typ in entry.types}
    lost = dict.fromkeys(typ for entry in ending for typ in entry.types if typ not in signs)
    if lost:
        yield f"WARNING: no key in force could sign {', '.join(map(escaped, lost))} any more."


# --- rotate -----------------------------------------------------------------------------------------------------------


def rotate(
    key_id: Annotated[str | None, Parameter(name="KEY_ID")] = None,
    *,
    key: KeyFlag = None,
    days: Days = DAYS,
    overlap_days: PositiveInt = OVERLAP_DAYS,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Replace a key by a new one of the same holder. It takes effect when another holder confirms it.

    Parameters
    ----------
    key_id
        The key to replace; not given: the one that signs. A person's key replaces a service's, or one that is lost.
    days
        How long the new key is valid.
    overlap_days
        How long the old one is valid besides.
    json
        One object on stdout: {epoch, key_id, path, until, replaces, ends, confirm}.
    """
    settings = flags.load()
    signer = signing_key(settings, key)
    appended, made = reading(_rotate(settings, signer, key_id or signer.key_id, days, overlap_days))
    new, old = _entries(appended.command)
    path = settings.keys_dir / f"{made.key_id}{SUFFIX}"
    confirm = f"hitl confirm {appended.epoch}"
    if json:
        emit(
            {
                "epoch": appended.epoch,
                "key_id": new.key_id,
                "path": str(path),
                "until": day_text(new.until),
                "replaces": old.key_id,
                "ends": day_text(old.until),
                "confirm": confirm,
            }
        )
        return 0
    _print(f"{path}  {made.kind} {made.holder}")
    _print(
        f"Asked for at {appended.epoch}: {new.key_id} until {day_text(new.until)}, {old.key_id} ends at "
        f"{day_text(old.until)}."
    )
    _print(f"Nothing has changed yet. Within 24 h another holder than {signer.holder} runs:\n\n  {confirm}\n")
    return 0


async def _rotate(
    settings: Settings, signer: SigningKey, key_id: str, days: int, overlap_days: int
) -> tuple[Appended, SigningKey]:
    made: list[SigningKey] = []

    def prepare(desk: Desk) -> Make:
        control = desk.log.control
        old = _listed(control, key_id)
        name, number = _next(old)
        made.append(_make(settings.keys_dir, name, _free(control, name, number), old.kind, holder=old.holder))
        return partial(_replaced, made[0], old, days, overlap_days)

    signed = await sign_and_append(settings, signer, "keys", prepare)
    return signed.appended, made[0]


def _replaced(made: SigningKey, old: KeyEntry, days: int, overlap_days: int, **claims: Any) -> Command:
    new = key_entry(made, old.types, _moment(claims["iat"]), _moment(claims["iat"] + days * DAY_S))
    ends = min(old.until, _moment(claims["iat"] + overlap_days * DAY_S))
    return Keys(keys=(new, structs.replace(old, until=ends)), **claims)


def _next(old: KeyEntry) -> tuple[str, int]:
    """Return the name and the number of the id that follows a key's."""
    numbered = _NUMBERED.fullmatch(old.key_id)
    return (numbered[1], int(numbered[2]) + 1) if numbered else (old.key_id, 2)


# --- shared -----------------------------------------------------------------------------------------------------------


def _named(holders: Sequence[str], services: Sequence[str]) -> Iterator[tuple[str, Kind]]:
    """Yield each name with its kind, people first."""
    yield from ((name, "person") for name in holders)
    yield from ((name, "service") for name in services)


def _listing(keys: Sequence[SigningKey], days: int, **claims: Any) -> Command:
    """Return the command that lists new keys: from a little earlier, for so many days."""
    from_, until = _moment(claims["iat"] - EARLIER_S), _moment(claims["iat"] + days * DAY_S)
    return Keys(keys=tuple(key_entry(key, _types(key), from_, until) for key in keys), **claims)


def _listed(control: Control, key_id: str) -> KeyEntry:
    entry = control.keys.get(key_id)
    if entry is None:
        raise UsageError(f"the log lists no key {key_id!r}; it lists {', '.join(sorted(control.keys))}")
    return entry


def _free(control: Control, name: str, number: int = 1) -> int:
    """Return the first number from there on that makes an id which the log does not list."""
    while _key_id(name, number) in control.keys:
        number += 1
    return number


def _files(settings: Settings, keys: Iterable[SigningKey]) -> tuple[tuple[SigningKey, Path], ...]:
    return tuple((key, settings.keys_dir / f"{key.key_id}{SUFFIX}") for key in keys)


def _made_row(key: SigningKey, path: Path) -> dict[str, str]:
    return {"key_id": key.key_id, "holder": key.holder, "kind": key.kind, "path": str(path)}


def _make(directory: Path, name: str, number: int, kind: Kind, holder: str | None = None) -> SigningKey:
    try:
        return create_signing_key(directory, _key_id(name, number), holder or name, kind)
    except OSError as error:
        raise SettingsError(
            f"keys_dir: cannot write keys to {directory} ({error.strerror}); give this user a directory of its own"
        ) from None


def _key_id(name: str, number: int) -> str:
    return f"{name}-{number}"


def _types(key: SigningKey) -> tuple[str, ...]:
    return PERSON_TYPES if key.kind == "person" else SERVICE_TYPES[key.holder]


def _entries(command: Command) -> tuple[KeyEntry, ...]:
    assert isinstance(command, Keys)  # as it was made
    return command.keys


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _print(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)
