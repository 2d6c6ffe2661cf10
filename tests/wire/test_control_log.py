"""The control log folds to the same value for every reader, and whoever cannot sign changes nothing but the digest."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from hitl_stream.core.commands import Confirm, Engage, Keys, ReleaseRequest
from hitl_stream.core.control import Control
from hitl_stream.core.errors import BrokenError
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.wire import signing
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.signing import SigningKey, new_signing_key
from support.signed import (
    ANA,
    BEN,
    CLUSTER,
    CONTROL,
    DAY_S,
    FIRST,
    KEYS,
    MALLORY,
    NOW_MS,
    NOW_S,
    TRUST,
    begun,
    entry,
    signed,
)

FOLD_SECONDS_MAX = 3.0
ENGAGES = 10_000
YEAR_S = 365 * DAY_S


def halt(key: SigningKey = ANA, scope: str = "campaign:cmp-7", **more: Any) -> bytes:
    return signed(key, Engage, scope=(scope,), mode=Mode.HALT, **more)


def digest_of(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


# --- trust ------------------------------------------------------------------------------------------------------------


def test_nothing_counts_before_the_record_that_trust_names() -> None:
    log = ControlLog(CLUSTER, TRUST)
    theirs = signed(MALLORY, Keys, keys=(entry(MALLORY),))

    assert log.take(0, NOW_MS, halt()) is Rejection.UNKNOWN_KEY
    assert log.take(1, NOW_MS, theirs) is Rejection.UNKNOWN_KEY
    assert log.take(2, NOW_MS, halt(MALLORY)) is Rejection.UNKNOWN_KEY
    assert not log.control.keys
    assert log.take(3, NOW_MS, FIRST) is None
    assert log.control.keys == KEYS
    assert log.take(4, NOW_MS, halt()) is None


@pytest.mark.parametrize("trust", ["", "0" * 64, TRUST[:-1], TRUST.upper()], ids=["none", "another", "short", "upper"])
def test_without_the_right_trust_nothing_ever_counts(trust: str) -> None:
    log = ControlLog(CLUSTER, trust)

    assert log.take(0, NOW_MS, FIRST) is Rejection.UNKNOWN_KEY
    assert log.take(1, NOW_MS, halt()) is Rejection.UNKNOWN_KEY


def _unsigned(value: bytes) -> bytes:
    head, body, _ = value.split(b".")
    return head + b"." + body + b"." + b"A" * 86


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (_unsigned(FIRST), Rejection.SIGNATURE),
        (signed(MALLORY, Keys, keys=(entry(ANA), entry(BEN))), Rejection.UNKNOWN_KEY),
        (signed(ANA, Keys, keys=(structs.replace(entry(BEN), key_id="ana-1"),)), Rejection.SIGNATURE),
        (signed(ANA, Keys, keys=(entry(ANA, "engage"),)), Rejection.TYPE),
        (signed(ANA, Keys, keys=(entry(ANA, from_s=NOW_S + 1),)), Rejection.KEY_TIME),
        (signed(ANA, Keys, keys=(entry(ANA),), aud="cluster-2"), Rejection.AUDIENCE),
        (signed(ANA, Keys, keys=(entry(ANA),), iat=NOW_S - DAY_S), Rejection.EXPIRED),
        (halt(), Rejection.UNKNOWN_KEY),
    ],
)
def test_trust_in_a_record_does_not_make_it_good(value: bytes, reason: Rejection) -> None:
    """The record that trust names must besides be signed by a key of its own, in time, for this cluster."""
    log = ControlLog(CLUSTER, digest_of(value))

    assert log.take(0, NOW_MS, value) is reason
    assert not log.control.keys


def test_the_first_keys_count_once() -> None:
    log = begun()

    assert log.take(1, NOW_MS, FIRST) is Rejection.REPLAYED
    assert log.take(2, NOW_MS + YEAR_S * 1000, FIRST) is Rejection.EXPIRED


def test_later_keys_need_the_second_holder_though_trust_would_name_them() -> None:
    log = begun()
    more = signed(ANA, Keys, keys=(entry(MALLORY),))
    log.trust = digest_of(more)

    assert log.take(1, NOW_MS, more) is None
    assert log.take(2, NOW_MS, halt(MALLORY)) is Rejection.UNKNOWN_KEY
    assert log.take(3, NOW_MS, signed(BEN, Confirm, of=1)) is None
    assert log.take(4, NOW_MS, halt(MALLORY)) is None


# --- the fold ---------------------------------------------------------------------------------------------------------


def test_the_digest_is_what_the_records_say() -> None:
    """SHA-256 over the digest before, one byte (accepted or not), and the SHA-256 of the value."""
    values = [FIRST, halt(), b"garbage", None, halt(MALLORY), signed(ANA, ReleaseRequest, epochs=(1,), reason="r")]
    log, digest = ControlLog(CLUSTER, TRUST), bytes(32)
    for offset, value in enumerate(values):
        accepted = log.take(offset, NOW_MS, value) is None
        digest = hashlib.sha256(digest + bytes([accepted]) + hashlib.sha256(value or b"").digest()).digest()
        assert log.digest_at(offset) == log.control.digest == digest


def test_the_digest_of_every_epoch_is_kept() -> None:
    log = ControlLog(CLUSTER, TRUST)
    seen = {}
    for offset, value in ((0, FIRST), (1, halt()), (4, halt()), (9, b"x")):
        log.take(offset, NOW_MS, value)
        seen[offset] = log.control.digest

    assert {offset: log.digest_at(offset) for offset in seen} == seen
    assert log.digest_at(-1) == bytes(32)
    assert [log.digest_at(epoch) for epoch in (2, 3, 8)] == [seen[1], seen[1], seen[4]]
    assert log.digest_at(10) is None


def test_before_the_first_record_the_digest_is_zeros() -> None:
    assert ControlLog(CLUSTER, TRUST).digest_at(-1) == bytes(32)
    assert ControlLog(CLUSTER, TRUST).digest_at(0) is None


def test_a_record_that_was_changed_shows_in_every_later_digest() -> None:
    mine, theirs = begun(), begun()
    mine.take(1, NOW_MS, b"a")
    theirs.take(1, NOW_MS, b"b")
    for offset in (2, 3):
        value = halt()
        assert mine.take(offset, NOW_MS, value) is theirs.take(offset, NOW_MS, value) is None
        assert mine.digest_at(offset) != theirs.digest_at(offset)


def test_what_was_refused_is_counted_by_reason_and_found_by_epoch() -> None:
    log = begun()
    for offset, value in ((1, None), (2, b"x"), (3, halt(MALLORY)), (5, halt())):
        log.take(offset, NOW_MS, value)

    assert log.rejected == {Rejection.MALFORMED: 2, Rejection.UNKNOWN_KEY: 1}
    assert [log.rejection_at(epoch) for epoch in (0, 1, 3, 5)] == [
        None, Rejection.MALFORMED, Rejection.UNKNOWN_KEY, None,
    ]  # fmt: skip
    for epoch in (-1, 4, 6):
        with pytest.raises(KeyError):
            log.rejection_at(epoch)


@pytest.mark.parametrize("offset", [0, 3, 4])
def test_records_are_folded_in_their_order(offset: int) -> None:
    log = begun()
    log.take(4, NOW_MS, halt())
    with pytest.raises(BrokenError):
        log.take(offset, NOW_MS, halt())


def test_a_fold_can_be_somebody_s_own() -> None:
    control = Control()
    ControlLog(CLUSTER, TRUST, control).take(0, NOW_MS, FIRST)
    assert control.keys == KEYS


# --- whoever cannot sign ----------------------------------------------------------------------------------------------

JUNK = st.sampled_from(
    [
        None,
        b"",
        b"garbage",
        FIRST,
        halt(MALLORY),
        _unsigned(halt()),
        halt(aud="cluster-2"),
        halt(iat=NOW_S - DAY_S),
        signed(MALLORY, Keys, keys=(entry(MALLORY),)),
        signed(CONTROL, Confirm, of=1),
        signed(CONTROL, ReleaseRequest, epochs=(1,), reason="r"),
        signed(ANA, ReleaseRequest, epochs=(77,), reason="r"),
        signed(MALLORY, ReleaseRequest, epochs=(1,), reason="r"),
    ]
)
STOP, ASK = halt(), signed(ANA, ReleaseRequest, epochs=(1,), reason="mended")
SAY_YES = signed(BEN, Confirm, of=2, iat=NOW_S + 60)


@given(st.lists(st.tuples(st.integers(3, 9), JUNK), max_size=8))
def test_records_that_count_for_nothing_change_nothing(junk: list[tuple[int, bytes | None]]) -> None:
    """Whatever lies between: the same is engaged, waits and is released as without it."""
    log, clean = begun(STOP, ASK), begun(STOP, ASK)
    offset = 3
    for _, value in sorted(junk, key=lambda one: one[0]):
        assert log.take(offset, NOW_MS, value) is not None
        offset += 1

    assert log.control.switches.all == clean.control.switches.all
    assert log.control.pending == clean.control.pending
    assert log.control.keys == clean.control.keys
    assert log.take(offset, NOW_MS + 60_000, SAY_YES) is clean.take(3, NOW_MS + 60_000, SAY_YES) is None
    assert set(log.control.switches.engaged) == set(clean.control.switches.engaged) == set()


def test_a_forged_record_under_the_key_of_a_good_one_erases_nothing() -> None:
    """On a compacted topic it did: a null, or a forged record, under the same Kafka key took a signed HALT away."""
    log = begun(STOP)
    for offset, value in enumerate((None, b"", _unsigned(STOP), STOP), 2):
        assert log.take(offset, NOW_MS, value) is not None

    assert set(log.control.switches.engaged) == {1}


# --- time passes ------------------------------------------------------------------------------------------------------


def _rotated() -> list[tuple[int, bytes]]:
    """A year: ana stops something, gets a new key, which ben confirms; her old key ends; her new one goes on."""
    new = new_signing_key("ana-2", "ana")
    later_s, end_s = NOW_S + 100 * DAY_S, NOW_S + 107 * DAY_S
    ends = structs.replace(KEYS["ana-1"], until=datetime.fromtimestamp(end_s, UTC))
    change = signed(ANA, Keys, keys=(entry(new, from_s=later_s, until_s=later_s + YEAR_S), ends), iat=later_s)
    return [
        (NOW_S, FIRST),
        (NOW_S, STOP),
        (later_s, change),
        (later_s, halt(new, iat=later_s)),  # not confirmed yet
        (later_s + 60, signed(BEN, Confirm, of=2, iat=later_s + 60)),
        (later_s + 60, halt(new, iat=later_s + 60)),
        (end_s - 1, halt(ANA, iat=end_s - 1)),
        (end_s, halt(ANA, iat=end_s)),  # her old key has ended
        (end_s + 200 * DAY_S, halt(new, iat=end_s + 200 * DAY_S)),
    ]


def test_a_rotated_key_signs_until_its_end_and_the_new_one_from_its_confirmation() -> None:
    log = ControlLog(CLUSTER, TRUST)
    found = [log.take(offset, at_s * 1000, value) for offset, (at_s, value) in enumerate(_rotated())]

    assert found == [
        None, None, None, Rejection.UNKNOWN_KEY, None, None, None, Rejection.KEY_TIME, None,
    ]  # fmt: skip
    assert set(log.control.switches.engaged) == {1, 5, 6, 8}


def test_a_reader_that_starts_a_year_later_folds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    records = _rotated()
    one = ControlLog(CLUSTER, TRUST)
    for offset, (at_s, value) in enumerate(records):
        one.take(offset, at_s * 1000, value)
    monkeypatch.setattr(time, "time", lambda: NOW_S + 50 * YEAR_S)
    signing._public_key.cache_clear()
    other = ControlLog(CLUSTER, TRUST)
    for offset, (at_s, value) in enumerate(records):
        other.take(offset, at_s * 1000, value)

    assert other.control.digest == one.control.digest
    assert other.control.switches.all == one.control.switches.all


def test_a_clock_of_the_broker_that_went_back_locks_nobody_out() -> None:
    """One record stamped a year ahead: what follows is judged by its own append time, and a HALT still counts."""
    log = begun()
    log.take(1, NOW_MS + YEAR_S * 1000, b"stamped by a broker with a wrong clock")

    assert log.take(2, NOW_MS, halt()) is None


# --- costs ------------------------------------------------------------------------------------------------------------


def test_a_signature_is_checked_once_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = 0
    real = signing.jws.deserialize_compact

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal checked
        checked += 1
        return real(*arguments, **options)

    monkeypatch.setattr(signing.jws, "deserialize_compact", counting)
    log = begun(STOP, ASK)
    log.take(3, NOW_MS, b"garbage")
    log.take(4, NOW_MS, halt(MALLORY))

    assert checked == 3


@pytest.mark.slow
def test_ten_thousand_engagements_are_folded_within_the_limit(record_property: Any) -> None:
    values = [halt(scope=f"campaign:cmp-{number}") for number in range(ENGAGES)]
    log = begun()
    start = time.process_time()
    for offset, value in enumerate(values, 1):
        log.take(offset, NOW_MS, value)
    took_s = time.process_time() - start

    record_property("us_each", took_s / ENGAGES * 1e6)
    assert len(log.control.switches.engaged) == ENGAGES
    assert took_s < FOLD_SECONDS_MAX, f"{took_s / ENGAGES * 1e6:.0f} µs a record"
