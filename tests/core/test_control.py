"""The fold of the control log: whatever loosens takes two people, whatever tightens takes one, and a refusal is nothing."""  # noqa: E501 - the first line says it all

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hitl_stream.core.action import Agent
from hitl_stream.core.commands import (
    TYPES,
    AnyCommand,
    Command,
    Confirm,
    Engage,
    Farewell,
    GateChange,
    Heartbeat,
    KeyEntry,
    Keys,
    LevelChange,
    Pin,
    PolicyChange,
    ReleaseRequest,
    ReviewerChange,
    milliseconds,
    type_of,
)
from hitl_stream.core.control import (
    CONFIRM_MS_MAX,
    KEPT_MS,
    NOTHING,
    PENDING_MAX,
    PINS_MAX,
    RELEASE_MS_MIN,
    SEEN_MIN,
    Control,
)
from hitl_stream.core.errors import BrokenError
from hitl_stream.core.events import Mode, Rejection
from support.make import NOW_MS

NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)
DAY = timedelta(days=1)
OPERATOR = ("engage", "release_request", "confirm")
ADMIN = ("policy", "gate", "level", "pin", "keys", "confirm")
AGENT = Agent("sdr-1", "4")
DIGEST = "3c" * 32
MINUTE = 60_000


def entry(key_id: str, holder: str = "", kind: Any = "person", **parts: Any) -> KeyEntry:
    given = {"types": TYPES, "from_": NOW - DAY, "until": NOW + 365 * DAY, "jwk": {"x": key_id}}
    return KeyEntry(key_id=key_id, holder=holder or key_id.rpartition("-")[0], kind=kind, **{**given, **parts})


ENTRIES = (
    entry("ana-1"),
    entry("ana-2"),
    entry("ana-3", holder=" ANA"),
    entry("bob-1"),
    entry("op-1", types=OPERATOR),
    entry("admin-1", types=ADMIN),
    entry("monitor-1", kind="service"),
    entry("control-1", kind="service"),
)


class Log:
    """A control log that is written command by command; `at_ms` is the broker's clock."""

    def __init__(self, *entries: KeyEntry) -> None:
        self.control = Control()
        self.at_ms = NOW_MS
        self.folded: list[tuple[int, int, bytes, Command | Rejection]] = []
        assert self.say(Keys, keys=entries or ENTRIES) is None

    def say(self, kind: type[Command], by: str = "ana-1", wait_ms: int = 1_000, **parts: Any) -> Rejection | None:
        """Append a command `wait_ms` after the one before."""
        return self.fold(self.command(kind, by, **parts), wait_ms)

    def fold(self, read: Command | Rejection, wait_ms: int = 1_000) -> Rejection | None:
        self.at_ms += wait_ms
        epoch = self.control.epoch + 1
        record = epoch, self.at_ms, str(read).encode(), read
        self.folded.append(record)
        return self.control.fold(*record)

    def command(self, kind: type[Command], by: str = "ana-1", **parts: Any) -> Any:
        holder = by.rpartition("-")[0]
        seconds = self.at_ms // 1000
        claims = {"aud": "c", "kid": by, "iss": holder, "jti": f"j{len(self.folded)}", "iat": seconds}
        return kind(**{**claims, "exp": seconds + 900, **DEFAULTS.get(kind, {}), **parts})

    def engage(self, *scope: str, by: str = "ana-1", **parts: Any) -> int:
        assert self.say(Engage, by, scope=scope or ("campaign:c",), **parts) is None
        return self.control.epoch

    def ask(self, kind: type[Command], by: str = "ana-1", **parts: Any) -> int:
        """Append a command that must wait for a second holder; return its epoch."""
        assert self.say(kind, by, **parts) is None
        assert self.control.epoch in self.control.pending, "it did not wait"
        return self.control.epoch

    def confirm(self, of: int, by: str = "bob-1", wait_ms: int = RELEASE_MS_MIN) -> Rejection | None:
        return self.say(Confirm, by, wait_ms, of=of)


DEFAULTS: dict[type[Command], dict[str, Any]] = {
    Engage: {"scope": ("campaign:c",), "mode": Mode.HALT},
    ReleaseRequest: {"reason": "mended"},
    PolicyChange: {"text": "policy: p", "digest": DIGEST, "reason": "r"},
    GateChange: {"gate": "g", "definition": "a1", "state": "removed", "agent": AGENT},
    LevelChange: {"class_": "bid.adjust", "level": 2, "reason": "r"},
    ReviewerChange: {"person": "p-1", "level": 3, "reason": "r"},
    Pin: {"scope": (), "field": "bid", "direction": "down", "until": NOW + DAY, "reason": "r"},
    Farewell: {"instance": "h/executor/0", "reason": "r"},
    Keys: {"keys": (entry("dan-1"),)},
}


def shown(control: Control) -> dict[str, Any]:
    """Return everything that a fold says, but how far it has come."""
    said = dict(vars(control))
    for name in ("epoch", "digest", "at_ms", "switches", "_seen", "_sweep_at"):
        del said[name]
    return {**said, "all": dict(control.switches.all), "engaged": dict(control.switches.engaged)}


def copied(found: dict[str, Any]) -> dict[str, Any]:
    return {name: dict(part) if isinstance(part, dict) else part for name, part in found.items()}


@pytest.fixture
def log() -> Log:
    return Log()


# --- release ----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("E15")
def test_engaging_takes_one_person_and_releasing_takes_two_and_a_minute(log: Log) -> None:
    epoch = log.engage("campaign:c")
    control = log.control
    assert list(control.switches.engaged) == [epoch]
    assert (control.decided_at, control.engaged_at) == (epoch, epoch)
    asked = log.ask(ReleaseRequest, epochs=(epoch,))
    assert list(control.switches.engaged) == [epoch]
    assert log.confirm(asked) is None
    assert not control.switches.engaged
    switch = control.switches.all[epoch]
    assert (switch.released, switch.released_ms) == (control.epoch, log.at_ms)
    assert (control.decided_at, control.released_at) == (control.epoch, control.epoch)
    assert not control.pending


@pytest.mark.parametrize(
    ("by", "why"),
    [
        ("ana-1", Rejection.SAME_HOLDER),
        ("ana-2", Rejection.SAME_HOLDER),
        ("ana-3", Rejection.SAME_HOLDER),
        ("monitor-1", Rejection.SERVICE),
        ("nobody-1", Rejection.SERVICE),
        ("admin-1", Rejection.TYPE),
    ],
)
def test_a_release_is_confirmed_by_another_holder_of_a_persons_key_who_may_ask_for_it_himself(
    log: Log, by: str, why: Rejection
) -> None:
    epoch = log.engage()
    asked = log.ask(ReleaseRequest, epochs=(epoch,))
    assert log.confirm(asked, by) is why
    assert list(log.control.switches.engaged) == [epoch]
    assert log.confirm(asked, "op-1") is None
    assert not log.control.switches.engaged


@pytest.mark.parametrize(
    ("wait_ms", "why"),
    [
        (0, Rejection.TOO_SOON),
        (RELEASE_MS_MIN - 1, Rejection.TOO_SOON),
        (RELEASE_MS_MIN, None),
        (CONFIRM_MS_MAX, None),
        (CONFIRM_MS_MAX + 1, Rejection.TOO_LATE),
    ],
)
def test_a_release_is_confirmed_between_a_minute_and_a_day_later(log: Log, wait_ms: int, why: Rejection | None) -> None:
    epoch = log.engage()
    asked = log.ask(ReleaseRequest, epochs=(epoch,))
    assert log.confirm(asked, wait_ms=wait_ms) is why
    assert (epoch in log.control.switches.engaged) is (why is not None)


def test_a_clock_that_runs_backwards_shortens_no_wait(log: Log) -> None:
    epoch = log.engage()
    newest = log.at_ms
    log.at_ms -= 2 * 60 * MINUTE
    asked = log.ask(ReleaseRequest, epochs=(epoch,))
    log.at_ms = newest
    assert log.confirm(asked, wait_ms=RELEASE_MS_MIN - 1) is Rejection.TOO_SOON
    assert log.confirm(asked, wait_ms=1) is None


def test_a_release_names_epochs_that_are_engaged(log: Log) -> None:
    epoch = log.engage()
    assert log.say(ReleaseRequest, epochs=(epoch, 99)) is Rejection.UNKNOWN
    assert log.say(ReleaseRequest, epochs=(0,)) is Rejection.UNKNOWN
    assert not log.control.pending


def test_a_release_lifts_what_it_names_once_and_nothing_else(log: Log) -> None:
    first, second, third = log.engage(), log.engage(), log.engage()
    asked = log.ask(ReleaseRequest, epochs=(first, first, second))
    assert log.confirm(asked) is None
    assert list(log.control.switches.engaged) == [third]
    assert log.confirm(asked) is Rejection.UNKNOWN


def test_what_is_engaged_after_the_request_is_not_released_by_it(log: Log) -> None:
    asked = log.ask(ReleaseRequest, epochs=(log.engage("campaign:c"),))
    again = log.engage("campaign:c")
    assert log.confirm(asked) is None
    assert list(log.control.switches.engaged) == [again]


def test_a_second_request_for_what_is_released_by_then_releases_nothing(log: Log) -> None:
    epoch = log.engage()
    one, two = log.ask(ReleaseRequest, epochs=(epoch,)), log.ask(ReleaseRequest, "bob-1", epochs=(epoch,))
    assert log.confirm(one) is None
    released_at = log.control.released_at
    assert log.confirm(two, "ana-1") is Rejection.UNKNOWN
    assert log.control.released_at == released_at


def test_only_what_waits_can_be_confirmed(log: Log) -> None:
    epoch = log.engage()
    for of in (epoch, log.control.epoch + 1, 10_000):
        assert log.confirm(of) is Rejection.UNKNOWN


def test_a_confirmation_that_was_refused_cannot_be_played_again_when_what_it_names_has_come(log: Log) -> None:
    """Who holds one key must not get the second signature out of a slip of the pen."""
    epoch = log.engage()
    slip = log.command(Confirm, "bob-1", of=log.control.epoch + 2, exp=4_000_000_000)
    assert log.fold(slip) is Rejection.UNKNOWN
    asked = log.ask(ReleaseRequest, epochs=(epoch,))
    assert slip.of == asked
    assert log.fold(slip, RELEASE_MS_MIN) is Rejection.REPLAYED
    assert epoch in log.control.switches.engaged


def test_a_confirmation_that_came_too_soon_is_given_anew_not_played_again(log: Log) -> None:
    asked = log.ask(ReleaseRequest, epochs=(log.engage(),))
    early = log.command(Confirm, "bob-1", of=asked)
    assert log.fold(early) is Rejection.TOO_SOON
    assert log.fold(early, RELEASE_MS_MIN) is Rejection.REPLAYED
    assert log.confirm(asked) is None


# --- services ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["person", "tripwire", "host", "drill"])
@pytest.mark.parametrize(
    ("scope", "drill"),
    [
        (("tenant:drill",), True),
        (("tenant:drill", "campaign:c"), True),
        (("tenant:drill", "tenant:acme"), False),
        (("tenant:drill", "brand:x"), False),
        (("Tenant: Drill",), True),
        (("tenant:drill\u200b",), False),
        (("tenant:drill", "campaign:\u200b"), False),
        (("tenant:acme",), False),
        (("tenant:drills",), False),
        ((), False),
    ],
)
def test_a_service_releases_nothing_but_a_drill_of_the_drills_own_tenant(
    log: Log, source: str, scope: tuple[str, ...], drill: bool
) -> None:
    assert log.say(Engage, "control-1", scope=scope, source=source) is None
    epoch = log.control.epoch
    found = log.say(ReleaseRequest, "control-1", epochs=(epoch,))
    released = source == "drill" and drill
    assert found is (None if released else Rejection.SERVICE)
    assert (epoch in log.control.switches.engaged) is not released
    assert not log.control.pending


def test_a_service_does_not_release_a_drill_together_with_something_else(log: Log) -> None:
    drill = log.engage("tenant:drill", by="control-1", source="drill")
    real = log.engage("tenant:acme")
    assert log.say(ReleaseRequest, "control-1", epochs=(drill, real)) is Rejection.SERVICE
    assert len(log.control.switches.engaged) == 2


def test_a_person_releases_a_drill_like_anything_else(log: Log) -> None:
    log.ask(ReleaseRequest, epochs=(log.engage("tenant:drill", source="drill"),))
    assert log.control.switches.engaged


@pytest.mark.parametrize(
    ("kind", "parts", "why"),
    [
        (PolicyChange, {}, Rejection.SERVICE),
        (Keys, {}, Rejection.SERVICE),
        (GateChange, {"state": "removed"}, Rejection.SERVICE),
        (GateChange, {"state": "observe"}, Rejection.SERVICE),
        (GateChange, {"state": "enforce"}, None),
        (LevelChange, {"level": 1}, None),
        (Pin, {}, Rejection.SERVICE),
        (Farewell, {}, Rejection.SERVICE),
        (ReviewerChange, {}, None),
        (Engage, {}, None),
    ],
)
def test_a_service_tightens_and_never_loosens(log: Log, kind: Any, parts: Any, why: Rejection | None) -> None:
    assert log.say(kind, "monitor-1", **parts) is why
    assert not log.control.pending


def test_a_service_raises_no_level(log: Log) -> None:
    assert log.say(LevelChange, "monitor-1", level=2) is None
    assert log.say(LevelChange, "monitor-1", level=3) is Rejection.SERVICE
    assert log.control.levels == {"bid.adjust": 2}


def test_nobody_decides_himself_how_closely_he_is_watched(log: Log) -> None:
    assert log.say(ReviewerChange, "ana-1", level=0) is Rejection.TYPE
    assert log.say(ReviewerChange, "monitor-1", level=3) is None
    assert log.control.reviewers["p-1"].command.level == 3


def test_a_heartbeat_is_no_command(log: Log) -> None:
    beat = log.command(Heartbeat, "control-1", seq=1, control="c", epoch=1, digest=DIGEST, acks={}, effective=1)
    assert log.fold(beat) is Rejection.TYPE


# --- keys -------------------------------------------------------------------------------------------------------------


def test_the_first_keys_record_stands_by_itself_and_every_other_takes_two(log: Log) -> None:
    assert set(log.control.keys) == {each.key_id for each in ENTRIES}
    asked = log.ask(Keys)
    assert "dan-1" not in log.control.keys
    assert log.confirm(asked, wait_ms=0) is None
    assert log.control.keys["dan-1"].holder == "dan"


def test_a_key_that_is_not_listed_is_neither_a_persons_nor_a_services(log: Log) -> None:
    """None gets here, as its signature is refused; if one did, it would loosen nothing."""
    drill = log.engage("tenant:drill", source="drill")
    assert log.say(ReleaseRequest, "nobody-1", epochs=(drill,)) is Rejection.SERVICE
    assert log.say(ReviewerChange, "nobody-1", level=0) is Rejection.TYPE
    assert log.say(PolicyChange, "nobody-1") is Rejection.SERVICE


def test_a_key_is_ended_by_an_entry_that_replaces_it(log: Log) -> None:
    asked = log.ask(Keys, keys=(entry("ana-1", until=NOW),))
    assert log.confirm(asked) is None
    assert log.control.keys["ana-1"].until == NOW


@pytest.mark.parametrize(
    "ended",
    [
        entry("ana-1", until=NOW),
        entry("ana-1", from_=NOW + DAY),
        entry("ana-1", types=("engage",)),
    ],
)
def test_what_was_asked_for_with_a_key_that_ended_since_is_not_confirmed(log: Log, ended: KeyEntry) -> None:
    """Its holder, or whoever stole it, could not ask for it any more."""
    epoch = log.engage()
    asked = log.ask(ReleaseRequest, "ana-1", epochs=(epoch,))
    assert log.confirm(log.ask(Keys, "bob-1", keys=(ended,)), "ana-2") is None
    assert log.confirm(asked) is Rejection.KEY_TIME
    assert epoch in log.control.switches.engaged


def test_a_key_that_runs_out_between_request_and_confirmation_is_no_first_holder(log: Log) -> None:
    log = Log(entry("ana-1", until=NOW + timedelta(minutes=2)), entry("bob-1"))
    epoch = log.engage(by="bob-1")
    asked = log.ask(ReleaseRequest, epochs=(epoch,))
    assert log.confirm(asked, wait_ms=3 * MINUTE) is Rejection.KEY_TIME


def test_a_key_may_be_replaced_by_its_holders_next_one_under_the_same_id(log: Log) -> None:
    epoch = log.engage()
    asked = log.ask(ReleaseRequest, epochs=(epoch,))
    assert log.confirm(log.ask(Keys, "bob-1", keys=(entry("ana-1", jwk={"x": "other"}),)), "ana-2") is None
    assert log.confirm(asked) is None


@pytest.mark.parametrize(
    "entries",
    [
        (entry("bob-1", holder="ana"),),
        (entry("bob-1", holder="ana", jwk={"x": "new"}),),
        (entry("monitor-1", kind="person"),),
        (entry("eve-1", jwk={"x": "ana-1"}),),
        (entry("eve-1", jwk={"x": "monitor-1"}),),
        (entry("eve-1", holder="monitor", jwk={"x": "monitor-1"}),),
        (entry("eve-1", jwk={"x": "new"}), entry("dan-1", jwk={"x": "new"})),
        (entry("eve-1"), entry("eve-1", holder="dan")),
    ],
)
def test_no_key_changes_hands_and_none_stands_for_two_holders(log: Log, entries: tuple[KeyEntry, ...]) -> None:
    """Else one person could be two."""
    before = dict(log.control.keys)
    assert log.say(Keys, keys=entries) is Rejection.INVALID
    assert log.control.keys == before
    assert not log.control.pending
    assert Control().fold(0, NOW_MS, b"", log.command(Keys, keys=(*ENTRIES, *entries))) is Rejection.INVALID


def test_two_requests_that_are_good_alone_do_not_make_one_key_stand_for_two(log: Log) -> None:
    one = log.ask(Keys, keys=(entry("eve-1", jwk={"x": "new"}),))
    two = log.ask(Keys, keys=(entry("dan-1", jwk={"x": "new"}),))
    assert log.confirm(one) is None
    assert log.confirm(two) is Rejection.INVALID
    assert "dan-1" not in log.control.keys


# --- policy, levels, gates, pins --------------------------------------------------------------------------------------


def test_a_policy_takes_two_people(log: Log) -> None:
    asked = log.ask(PolicyChange)
    assert log.control.policy is None
    assert log.confirm(asked, "op-1") is Rejection.TYPE
    assert log.confirm(asked, "admin-1", wait_ms=0) is None
    policy = log.control.policy
    assert policy is not None
    assert (policy.epoch, policy.text, policy.digest) == (log.control.epoch, "policy: p", DIGEST)
    assert log.control.rules_at == log.control.decided_at == log.control.epoch


@pytest.mark.behaviour("E2")
def test_a_level_falls_at_once_and_rises_one_step_with_two_people(log: Log) -> None:
    levels = log.control.levels
    assert log.say(LevelChange, level=1) is None
    assert levels == {"bid.adjust": 1}
    for level in (3, 4):
        assert log.say(LevelChange, level=level) is Rejection.INVALID
    for level in (2, 3, 4):
        asked = log.ask(LevelChange, level=level)
        assert levels == {"bid.adjust": level - 1}
        assert log.confirm(asked, wait_ms=0) is None
        assert levels == {"bid.adjust": level}
    assert log.say(LevelChange, level=1) is None
    assert levels == {"bid.adjust": 1}


@pytest.mark.behaviour("E2")
@pytest.mark.parametrize("level", [1, 2])
def test_a_level_that_is_lowered_or_stated_again_ends_what_waits_to_raise_it(log: Log, level: int) -> None:
    assert log.say(LevelChange, level=2) is None
    asked, other = log.ask(LevelChange, level=3), log.ask(PolicyChange)
    assert log.say(LevelChange, "monitor-1", level=level) is None
    assert log.confirm(asked) is Rejection.UNKNOWN
    assert log.control.levels == {"bid.adjust": level}
    assert log.confirm(other) is None


def test_a_gate_put_back_ends_what_waits_to_remove_it(log: Log) -> None:
    """The errors that put it back are newer than the evidence of the request."""
    asked = log.ask(GateChange)
    assert log.say(GateChange, "monitor-1", state="enforce") is None
    assert log.confirm(asked) is Rejection.UNKNOWN
    assert log.control.gates["g", AGENT].command.state == "enforce"


def test_of_two_policies_that_wait_only_one_comes_into_force(log: Log) -> None:
    """The other was held against the policy before."""
    one, two = log.ask(PolicyChange, text="one"), log.ask(PolicyChange, text="two")
    assert log.confirm(two) is None
    assert log.confirm(one) is Rejection.UNKNOWN
    assert log.control.policy is not None
    assert log.control.policy.text == "two"


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"state": "removed", "agent": None}, Rejection.INVALID),
        ({"state": "removed", "agent": Agent("sdr-1")}, Rejection.INVALID),
        ({"state": "removed"}, None),
        ({"state": "observe", "agent": None}, None),
    ],
)
def test_loosening_a_gate_takes_two_and_a_removal_names_a_version(
    log: Log, parts: dict[str, Any], why: Rejection | None
) -> None:
    assert log.say(GateChange, **parts) is why
    assert not log.control.gates
    assert len(log.control.pending) == (why is None)


def test_gates_are_kept_by_agent_until_a_record_speaks_of_all(log: Log) -> None:
    gates = log.control.gates
    for agent in (AGENT, Agent("sdr-2", "1")):
        assert log.confirm(log.ask(GateChange, agent=agent)) is None
    assert log.confirm(log.ask(GateChange, gate="other")) is None
    assert {key: said.command.state for key, said in gates.items()} == {
        ("g", AGENT): "removed", ("g", Agent("sdr-2", "1")): "removed", ("other", AGENT): "removed"
    }  # fmt: skip
    assert log.say(GateChange, "monitor-1", state="enforce") is None
    assert gates["g", AGENT].command.state == "enforce"
    assert gates["g", Agent("sdr-2", "1")].command.state == "removed"
    assert log.say(GateChange, "monitor-1", state="enforce", agent=None) is None
    assert set(log.control.gates) == {("g", None), ("other", AGENT)}


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({}, None),
        ({"direction": None, "range": ("1", "2")}, None),
        ({"direction": None, "range": (None, "2")}, None),
        ({"direction": "up", "range": ("2", "2")}, None),
        ({"direction": None}, Rejection.INVALID),
        ({"direction": None, "range": (None, None)}, Rejection.INVALID),
        ({"range": ("2", "1")}, Rejection.INVALID),
        ({"range": ("one", None)}, Rejection.INVALID),
        ({"range": ("1_000", None)}, Rejection.INVALID),
        ({"range": ("NaN", None)}, Rejection.INVALID),
    ],
)
def test_a_pin_holds_at_once_if_it_decides_anything(log: Log, parts: dict[str, Any], why: Rejection | None) -> None:
    assert log.say(Pin, **parts) is why
    assert list(log.control.pins) == ([log.control.epoch] if why is None else [])
    assert (log.control.rules_at == log.control.epoch) is (why is None)


def test_pins_are_forgotten_a_day_after_their_end(log: Log) -> None:
    assert log.say(Pin, until=NOW) is None
    first = log.control.epoch
    assert log.say(Pin, wait_ms=KEPT_MS - 10_000) is None
    assert first in log.control.pins
    assert log.say(Pin, wait_ms=20_000) is None
    assert first not in log.control.pins
    assert len(log.control.pins) == 2


def test_one_holders_pins_are_limited_and_leave_room_for_others(log: Log) -> None:
    for _ in range(PINS_MAX):
        assert log.say(Pin, wait_ms=0) is None
    assert log.say(Pin) is Rejection.FULL
    assert log.say(Pin, "bob-1") is None
    assert len(log.control.pins) == PINS_MAX + 1


def test_one_holders_flood_of_requests_is_bounded_and_pushes_nobody_elses_out(log: Log) -> None:
    epoch = log.engage()
    theirs = log.ask(ReleaseRequest, "bob-1", epochs=(epoch,))
    for number in range(PENDING_MAX):
        log.ask(PolicyChange, ("ana-1", "ana-2", "ana-3")[number % 3])
    for by in ("ana-1", "ana-2", "ana-3"):
        assert log.say(PolicyChange, by) is Rejection.FULL
    assert len(log.control.pending) == PENDING_MAX + 1
    assert log.engage("tenant:acme")
    assert log.confirm(theirs, "ana-2") is None
    log.at_ms += CONFIRM_MS_MAX
    log.ask(PolicyChange)
    assert len(log.control.pending) == 1


def test_a_farewell_is_kept_by_instance(log: Log) -> None:
    assert log.say(Farewell) is None
    assert log.say(Farewell, "bob-1") is None
    assert log.control.farewells == {"h/executor/0": log.control.epoch}


# --- repeats ----------------------------------------------------------------------------------------------------------


def test_a_repeat_counts_for_nothing(log: Log) -> None:
    command = log.command(Engage)
    assert log.fold(command) is None
    assert log.fold(command) is Rejection.REPLAYED
    assert len(log.control.switches.all) == 1


def test_two_holders_may_have_had_the_same_idea_of_an_id(log: Log) -> None:
    assert log.say(Engage, jti="same") is None
    assert log.say(Engage, "bob-1", jti="same") is None


def test_ids_are_forgotten_only_a_day_after_they_are_worth_anything(log: Log) -> None:
    """The clock of a broker may be hours ahead and come back; what was forgotten meanwhile could be played again."""
    command = log.command(Engage)
    assert log.fold(command) is None
    log.at_ms += KEPT_MS // 2
    for _ in range(3 * SEEN_MIN):
        log.engage()
    assert len(log.control._seen) > SEEN_MIN
    log.at_ms = NOW_MS + 10_000
    assert log.fold(command) is Rejection.REPLAYED
    log.at_ms += 2 * KEPT_MS
    for _ in range(6 * SEEN_MIN):
        log.engage()
        log.at_ms += KEPT_MS // 1_000
    assert len(log.control._seen) < 3 * SEEN_MIN


# --- the fold ---------------------------------------------------------------------------------------------------------


def test_the_digest_is_that_of_records_md(log: Log) -> None:
    control, digest = Control(), NOTHING
    for epoch, at_ms, value, read in [*log.folded, (1, NOW_MS, b"\xff", Rejection.MALFORMED)]:
        found = control.fold(epoch, at_ms, value, read)
        accepted = b"\1" if found is None else b"\0"
        digest = hashlib.sha256(digest + accepted + hashlib.sha256(value).digest()).digest()
        assert control.digest == digest


@pytest.mark.parametrize("epoch", [0, -1])
def test_a_record_that_does_not_follow_stops_the_reader(log: Log, epoch: int) -> None:
    with pytest.raises(BrokenError, match="came after 0"):
        log.control.fold(epoch, NOW_MS, b"", Rejection.MALFORMED)


def test_offsets_may_have_gaps(log: Log) -> None:
    assert log.control.fold(7, NOW_MS, b"", log.command(Engage)) is None
    assert list(log.control.switches.engaged) == [7]


WHO = st.sampled_from(["ana-1", "bob-1"] * 4 + [each.key_id for each in ENTRIES] + ["nobody-1"])
PLACE = st.integers(0, 25)
STEPS = st.one_of(
    st.tuples(st.just(Engage), st.fixed_dictionaries({
        "scope": st.sampled_from([("campaign:c",), ("tenant:drill",), (), ("brand:x",)]),
        "source": st.sampled_from(["person", "drill"]), "mode": st.sampled_from(list(Mode))})),
    *[st.tuples(st.just(ReleaseRequest), st.fixed_dictionaries({"epochs": st.lists(PLACE, min_size=1, max_size=3).map(
        tuple)}))] * 3,
    *[st.tuples(st.just(Confirm), st.fixed_dictionaries({"of": PLACE}))] * 5,
    st.tuples(st.just(PolicyChange), st.just({})),
    st.tuples(st.just(GateChange), st.fixed_dictionaries({
        "state": st.sampled_from(["observe", "enforce", "removed"]), "agent": st.sampled_from([None, AGENT])})),
    st.tuples(st.just(LevelChange), st.fixed_dictionaries({"level": st.integers(1, 4)})),
    st.tuples(st.just(ReviewerChange), st.just({})),
    st.tuples(st.just(Pin), st.fixed_dictionaries({"direction": st.sampled_from([None, "up"])})),
    st.tuples(st.just(Keys), st.fixed_dictionaries({"keys": st.sampled_from([
        (entry("dan-1"),), (entry("ana-1", until=NOW),), (entry("eve-1", jwk={"x": "ana-1"}),)])})),
    st.tuples(st.just(Farewell), st.just({})),
    st.tuples(st.just(Rejection.SIGNATURE), st.just({})),
)  # fmt: skip
WAITS = st.sampled_from([RELEASE_MS_MIN] * 6 + [-RELEASE_MS_MIN, 0, 1, CONFIRM_MS_MAX])
REPEATS = st.integers(0, 9).map(lambda one: one == 9)
STORIES = st.lists(st.tuples(STEPS, WHO, WAITS, REPEATS), min_size=5, max_size=25)


def aimed(control: Control, parts: dict[str, Any]) -> dict[str, Any]:
    """Let most numbers name something that is there."""
    waiting, engaged = list(control.pending), list(control.switches.engaged)
    if "of" in parts and waiting and parts["of"] < 20:
        return {**parts, "of": waiting[parts["of"] % len(waiting)]}
    if "epochs" in parts and engaged and parts["epochs"][0] < 20:
        return {**parts, "epochs": tuple(engaged[one % len(engaged)] for one in parts["epochs"])}
    return parts


def told(story: list[Any]) -> tuple[Log, list[Rejection | None]]:
    log, found = Log(), []
    for (kind, parts), by, wait_ms, repeat in story:
        if isinstance(kind, Rejection):
            read: Any = kind
        elif repeat and isinstance(log.folded[-1][3], Command):
            read = log.folded[-1][3]
        else:
            read = log.command(kind, by, **aimed(log.control, parts))
        found.append(log.fold(read, wait_ms))
    return log, found


@given(STORIES)
@settings(deadline=None)
def test_the_fold_is_a_function_of_the_records_alone_and_so_is_every_prefix(story: list[Any]) -> None:
    log, _ = told(story)
    one, two = Control(), Control()
    for record in log.folded:
        assert one.fold(*record) == two.fold(*record)
        assert (one.digest, one.epoch, one.at_ms) == (two.digest, two.epoch, two.at_ms)
        assert shown(one) == shown(two)
    assert (shown(one), one.digest) == (shown(log.control), log.control.digest)


@given(STORIES)
@settings(deadline=None)
def test_a_refused_record_changes_nothing_but_epoch_and_digest(story: list[Any]) -> None:
    log, _ = told(story)
    control = Control()
    for record in log.folded:
        before, digest = copied(shown(control)), control.digest
        if control.fold(*record) is not None:
            assert shown(control) == before
        assert control.digest != digest
        assert control.epoch == record[0]


@pytest.mark.behaviour("E15")
@given(STORIES)
@settings(deadline=None, max_examples=300)
def test_nothing_loosens_without_two_holders(story: list[Any]) -> None:
    """Switches, levels, gates, policy, keys: what changed for the looser changed by another holder's confirmation."""
    log, _ = told(story)
    control = Control()
    for record in log.folded:
        engaged, levels, keys = set(control.switches.engaged), dict(control.levels), dict(control.keys)
        gates, policy = dict(control.gates), control.policy
        pending = dict(control.pending)
        control.fold(*record)
        command = record[3]
        looser = (
            any(control.levels.get(name, 4) > level for name, level in levels.items())
            or control.policy != policy
            or (bool(keys) and control.keys != keys)
            or any(gates.get(key) != said and said.command.state != "enforce" for key, said in control.gates.items())
        )
        drill = isinstance(command, ReleaseRequest) and command.kid in ("control-1", "monitor-1")
        gone = engaged - set(control.switches.engaged)
        if drill:
            assert {control.switches.all[one].source for one in gone} <= {"drill"}
        elif gone or looser:
            assert isinstance(command, Confirm)
            first, second = pending[command.of], keys[command.kid]
            assert second.kind == "person"
            assert second.holder.strip().lower() != first.holder.strip().lower()
            assert type_of(first.command) in second.types


# --- what a command may say -------------------------------------------------------------------------------------------

CLAIMS = {"aud": "c", "kid": "k", "iss": "ana", "jti": "j", "iat": 1, "exp": 2}


def readable(**parts: Any) -> bool:
    try:
        msgspec.json.decode(msgspec.json.encode({**CLAIMS, **parts}), type=AnyCommand)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("reason", "good"), [("mended", True), (" x ", True), ("", False), (" \n\t", False), ("x" * 2_001, False)]
)
def test_a_release_demands_a_reason(reason: str, good: bool) -> None:
    assert readable(typ="release_request", epochs=[1], reason=reason) is good


@pytest.mark.parametrize(
    ("parts", "good"),
    [
        ({"typ": "engage", "scope": [], "mode": "HALT"}, True),
        ({"typ": "engage", "scope": ["campaign:c"] * 101, "mode": "HALT"}, False),
        ({"typ": "engage", "scope": ["x" * 501], "mode": "HALT"}, False),
        ({"typ": "engage", "scope": [], "mode": "halt"}, False),
        ({"typ": "engage", "scope": [], "mode": "HALT", "source": "robot"}, False),
        ({"typ": "release_request", "epochs": [], "reason": "r"}, False),
        ({"typ": "release_request", "epochs": [-1], "reason": "r"}, False),
        ({"typ": "level", "class": "c", "level": 5, "reason": "r"}, False),
        ({"typ": "level", "class": "c", "level": 1, "reason": ""}, False),
        ({"typ": "pin", "scope": [], "field": "f", "until": "2026-11-21T00:00:00", "reason": "r"}, False),
        ({"typ": "disengage", "scope": []}, False),
    ],
)
def test_a_command_says_what_its_type_may(parts: dict[str, Any], good: bool) -> None:
    assert readable(**parts) is good


def test_every_command_type_has_its_name_in_the_list_that_keys_choose_from() -> None:
    assert {type_of(kind) for kind in AnyCommand.__args__} == set(TYPES)


@pytest.mark.parametrize("text", ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_any_time_can_be_counted(text: str) -> None:
    moment = msgspec.json.decode(f'"{text}"', type=datetime)
    assert milliseconds(moment) == milliseconds(moment - timedelta(0))


def test_milliseconds_are_cut_not_rounded() -> None:
    assert milliseconds(NOW.replace(microsecond=140_999)) == NOW_MS
