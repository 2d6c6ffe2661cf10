"""A judgement counts if a listed key signed it in its time, may speak for whom it names, and shows what it claims."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.action import ACTION_BYTES_MAX
from hitl_stream.core.commands import Engage, KeyEntry
from hitl_stream.core.control import AHEAD_MS_MAX, ALIVE_MS_MAX
from hitl_stream.core.events import Mode, Refusal, Rejection
from hitl_stream.core.verdicts import (
    VERDICT_TYPES,
    AnyVerdict,
    BatchRelease,
    Edit,
    Judged,
    PairChoice,
    Qualified,
    Skipped,
)
from hitl_stream.wire.desk_records import HumanDecision, VerdictRecord
from hitl_stream.wire.signing import VERDICT_BYTES_MAX, SigningKey, new_signing_key, read_command, sign
from hitl_stream.wire.topics import TABLE
from hitl_stream.wire.verdicts import (
    CONSOLE,
    RECORD_BYTES_MAX,
    SHOWN_BYTES_MAX,
    Given,
    claims_by,
    read_signed,
    read_verdict,
    refusal_of,
    verdict_value,
    view_of,
)
from support.people import (
    ANA_KEY,
    APPENDED_MS,
    CLUSTER,
    CONSOLE_KEY,
    ISSUED_S,
    KEYS,
    MONITOR_KEY,
    SHOWN,
    STRANGER_KEY,
    TESS_KEY,
    entry,
    words,
)
from support.signed import places

SAID: tuple[Judged, ...] = (
    words(hash="9f" * 32, verdict="change", changes=(Edit("/changes/0/after", "90.00"),), code="too_large", note="…"),
    words(make=BatchRelease, batch="acme/acc-17/b-7", size=1488, root="3c" * 32, by="ed", role="editor"),
    words(make=PairChoice, pair="p-9", left="b", choice="tie", by="lee", role="labeller"),
    words(make=Skipped, item="r7k2m4qabcdefghi", how="lapse"),
    words(make=Qualified, class_="bid.adjust", right=36, of=40),
)
ONE = words(hash="9f" * 32)
VALUE = verdict_value(CONSOLE_KEY, ONE, SHOWN)


def read(
    value: bytes | None, at_ms: int = APPENDED_MS, keys: Mapping[str, KeyEntry] = KEYS, audience: str = CLUSTER
) -> Given | Rejection | Refusal:
    return read_verdict(value, at_ms, keys, audience)


def signed(key: SigningKey, **fields: Any) -> bytes:
    return verdict_value(key, words(key, **fields), SHOWN)


def record(jws: bytes, shown: str = SHOWN) -> bytes:
    return msgspec.json.encode(VerdictRecord(jws.decode(), shown))


def token(header: Mapping[str, Any], payload: bytes, key: SigningKey = CONSOLE_KEY) -> bytes:
    """Return a JWS with any header at all and a good signature."""
    first, second = (base64.urlsafe_b64encode(text).rstrip(b"=") for text in (json.dumps(header).encode(), payload))
    private: Any = key.private.private_key
    third = base64.urlsafe_b64encode(private.sign(first + b"." + second)).rstrip(b"=")
    return first + b"." + second + b"." + third


# --- good ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", SAID, ids=lambda said: type(said).__name__)
def test_what_was_said_is_read_with_the_card_that_was_shown(said: Judged) -> None:
    value = verdict_value(CONSOLE_KEY, said, SHOWN)

    assert read(value) == Given(said, json.loads(value)["jws"], SHOWN)


def test_every_type_of_judgement_is_tried_here() -> None:
    assert {type(said) for said in SAID} == set(AnyVerdict.__args__)
    assert {said.__struct_config__.tag for said in SAID} == set(VERDICT_TYPES)


def test_the_record_is_as_the_specification_has_it() -> None:
    members = json.loads(VALUE)
    payload = members["jws"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))

    assert list(members) == ["jws", "shown"]
    assert members["shown"] == SHOWN
    assert {"typ", "aud", "kid", "iss", "jti", "iat", "exp", "item", "hash", "verdict", "changes", "code", "errors",
            "note", "by", "role", "painted", "decided", "view", "policy", "epoch"} == set(claims)  # fmt: skip
    assert (claims["typ"], claims["iss"], claims["by"]) == ("verdict", "console", "tess")


def test_a_person_signs_with_a_key_of_his_own_where_it_lists_his_role() -> None:
    found = read(signed(TESS_KEY, by="tess", role="trader"))

    assert isinstance(found, Given)
    assert (found.claims.iss, found.claims.by) == ("tess", "tess")


def test_what_every_judgement_claims_is_good_for_as_long_as_any_may_be() -> None:
    claims = claims_by(TESS_KEY, CLUSTER, "v-1", ISSUED_S)

    assert claims == {"aud": CLUSTER, "kid": "tess-1", "iss": "tess", "jti": "v-1", "iat": ISSUED_S,
                      "exp": ISSUED_S + 900}  # fmt: skip


def test_a_member_that_a_newer_version_added_is_passed_over() -> None:
    assert read(VALUE[:-1] + b',"colour":{"deep":[1,null]}}') == read(VALUE)


# --- bad ones ---------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("E3")
def test_a_record_with_any_byte_changed_taken_out_or_doubled_is_refused_or_says_the_same() -> None:
    """Only white space between its members may come and go."""
    good = read(VALUE)
    refused = 0
    for broken in places(VALUE):
        found = read(broken)
        assert found == good or isinstance(found, Rejection | Refusal), broken
        refused += found != good
    assert refused > 10 * len(VALUE)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "none", "kid": "console-1"}, Rejection.ALGORITHM),
        ({"alg": "EdDSA", "kid": "console-1"}, Rejection.ALGORITHM),
        ({"alg": "HS256", "kid": "console-1"}, Rejection.ALGORITHM),
        ({"alg": "Ed25519", "kid": "nobody"}, Rejection.UNKNOWN_KEY),
        ({"alg": "Ed25519", "kid": "tess-1"}, Rejection.SIGNATURE),
        ({"alg": "Ed25519", "kid": "console-1", "jku": "https://example.org/keys"}, Rejection.MALFORMED),
        ({"alg": "Ed25519"}, Rejection.MALFORMED),
    ],
    ids=str,
)
def test_of_the_header_only_the_algorithm_and_a_listed_key_are_taken(header: Any, reason: Rejection) -> None:
    assert read(record(token(header, msgspec.json.encode(ONE)))) is reason


def test_a_token_without_a_signature_is_none() -> None:
    head, body, _ = json.loads(VALUE)["jws"].split(".")

    assert read(record(f"{head}.{body}.".encode())) is Rejection.SIGNATURE


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "cluster-2"}, Rejection.AUDIENCE),
        ({"iss": "tess"}, Rejection.ISSUER),
        ({"kid": "tess-1"}, Rejection.ISSUER),
        ({"iat": ISSUED_S - 60, "exp": ISSUED_S - 1}, Rejection.EXPIRED),
        ({"iat": ISSUED_S + AHEAD_MS_MAX // 1000 + 1, "exp": ISSUED_S + 120}, Rejection.EARLY),
        ({"exp": ISSUED_S + ALIVE_MS_MAX // 1000 + 1}, Rejection.EARLY),
        ({"painted": datetime(1969, 12, 31, tzinfo=UTC)}, Rejection.INVALID),
        ({"decided": datetime(1, 1, 1, tzinfo=UTC)}, Rejection.INVALID),
    ],
    ids=str,
)
def test_claims_that_are_not_good_here_and_now_are_refused(claims: dict[str, Any], reason: Rejection) -> None:
    said = msgspec.structs.replace(ONE, **claims)

    assert read(record(token({"alg": "Ed25519", "kid": "console-1"}, msgspec.json.encode(said)))) is reason


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999-14:00", "1969-12-31T23:59:59.999Z"]
)
@pytest.mark.parametrize("name", ["painted", "decided"])
def test_a_time_that_cannot_be_written_down_is_refused(name: str, time: str) -> None:
    """Otherwise whoever holds a key could stop the desk, which writes both times on `decisions`."""
    claims = json.loads(msgspec.json.encode(ONE)) | {name: time}
    value = record(token({"alg": "Ed25519", "kid": "console-1"}, json.dumps(claims).encode()))

    assert read(value) is Rejection.INVALID


@pytest.mark.parametrize(("late_ms", "counts"), [(0, True), (ALIVE_MS_MAX, True), (ALIVE_MS_MAX + 1_000, False)])
def test_its_time_is_that_of_its_append_and_nobodys_clock(late_ms: int, counts: bool) -> None:
    found = read(VALUE, at_ms=ISSUED_S * 1000 + late_ms)

    assert isinstance(found, Given) if counts else found is Rejection.EXPIRED


@pytest.mark.parametrize(
    ("claims", "payload"),
    [
        ({"verdict": "maybe"}, "verdict"),
        ({"hash": "9F" * 32}, "hash"),
        ({"view": ""}, "view"),
        ({"by": ""}, "by"),
        ({"epoch": -2}, "epoch"),
        ({"epoch": 2**63}, "epoch"),
        ({"painted": "2026-11-21T07:11:00"}, "painted"),
        ({"changes": [{"path": "changes/0/after", "value": 1}]}, "path"),
        ({"changes": [{"path": "/changes/0/after", "value": None}]}, "value"),
        ({"changes": [{"path": "/a", "value": 1}] * 101}, "changes"),
        ({"typ": "engage"}, "typ"),
        ({"typ": None}, "typ"),
        ({"deep": json.loads("[" * 40 + "]" * 40)}, "depth"),
    ],
    ids=str,
)
def test_claims_of_another_shape_are_malformed(claims: dict[str, Any], payload: str) -> None:
    whole = json.loads(msgspec.json.encode(ONE)) | claims

    assert read(record(token({"alg": "Ed25519", "kid": "console-1"}, json.dumps(whole).encode()))) is (
        Rejection.MALFORMED
    ), payload


def test_a_command_is_no_verdict_and_a_verdict_no_command() -> None:
    keys = {"console-1": entry(CONSOLE_KEY, *VERDICT_TYPES, "engage")}
    halt = sign(CONSOLE_KEY, Engage(**claims_by(CONSOLE_KEY, CLUSTER, "c-1", ISSUED_S), scope=("global:*",),
                                    mode=Mode.HALT))  # fmt: skip

    assert isinstance(read_command(halt, APPENDED_MS, keys, CLUSTER), Engage)
    assert read(record(halt), keys=keys) is Rejection.MALFORMED
    assert read_command(json.loads(VALUE)["jws"].encode(), APPENDED_MS, keys, CLUSTER) is Rejection.MALFORMED


@pytest.mark.parametrize("said", SAID, ids=lambda said: type(said).__name__)
def test_a_key_signs_only_the_types_that_it_lists(said: Judged) -> None:
    others = [name for name in VERDICT_TYPES if name != said.__struct_config__.tag]
    keys = {**KEYS, "console-1": entry(CONSOLE_KEY, *others)}

    assert read(verdict_value(CONSOLE_KEY, said, SHOWN), keys=keys) is Rejection.TYPE


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ({"from_ms": APPENDED_MS + 1}, Rejection.KEY_TIME),
        ({"until_ms": APPENDED_MS}, Rejection.KEY_TIME),
        ({"from_ms": APPENDED_MS, "until_ms": APPENDED_MS + 1}, None),
    ],
)
def test_a_key_must_be_good_when_the_record_is_appended(listed: dict[str, int], reason: Rejection | None) -> None:
    found = read(VALUE, keys={**KEYS, "console-1": entry(CONSOLE_KEY, **listed)})

    assert isinstance(found, Given) if reason is None else found is reason


# --- for whom a key may speak -----------------------------------------------------------------------------------------


def test_what_a_stranger_signs_counts_for_nothing_whatever_name_he_gives_his_key() -> None:
    for kid, holder in (("stranger-1", "stranger"), ("console-1", "console"), ("tess-1", "tess")):
        key = new_signing_key(kid, holder)
        expected = Rejection.UNKNOWN_KEY if kid == "stranger-1" else Rejection.SIGNATURE
        assert read(signed(key)) is expected
    assert read(signed(STRANGER_KEY, by="stranger")) is Rejection.UNKNOWN_KEY


@pytest.mark.behaviour("E3")
@pytest.mark.parametrize("by", ["console", "Console", " console", "monitor", "MONITOR", "mon itor", "old-robot"])
def test_no_service_decides_even_through_the_console(by: str) -> None:
    """Also one whose key has ended long ago."""
    robot = new_signing_key("robot-1", "old-robot", "service")
    keys = {**KEYS, "robot-1": entry(robot, from_ms=0, until_ms=1)}

    assert read(signed(CONSOLE_KEY, by=by), keys=keys) is Refusal.SERVICE


@pytest.mark.behaviour("E3")
@pytest.mark.parametrize("by", ["monitor", "tess", "nobody"])
def test_no_service_but_the_console_speaks_for_anybody(by: str) -> None:
    assert read(signed(MONITOR_KEY, by=by)) is Refusal.SERVICE


@pytest.mark.parametrize(
    ("by", "role"),
    [("ana", "trader"), ("ben", "trader"), ("Tess", "trader"), ("tess ", "trader"), ("tess", "senior"),
     ("tess", "Trader"), ("tess", "as:trader"), ("tess", "verdict")],
)  # fmt: skip
def test_a_persons_key_speaks_for_its_holder_alone_in_the_roles_that_it_lists(by: str, role: str) -> None:
    assert read(signed(TESS_KEY, by=by, role=role)) is Refusal.PERSON


def test_a_persons_key_without_any_role_decides_nothing() -> None:
    keys = {**KEYS, "tess-1": entry(TESS_KEY)}

    assert read(signed(TESS_KEY), keys=keys) is Refusal.PERSON


def test_a_person_who_is_called_like_the_console_is_not_the_console() -> None:
    impostor = new_signing_key("c-2", CONSOLE)
    keys = {**KEYS, "c-2": entry(impostor, *VERDICT_TYPES, "as:trader")}

    assert read(signed(impostor, by="tess"), keys=keys) is Refusal.PERSON
    assert read(signed(impostor, by=CONSOLE), keys=keys) is Refusal.SERVICE
    assert read(signed(impostor, by=CONSOLE), keys={"c-2": keys["c-2"]}) is Refusal.SERVICE


def test_a_service_with_almost_the_consoles_name_is_not_the_console() -> None:
    almost = new_signing_key("c-3", "Console", "service")

    assert read(signed(almost), keys={**KEYS, "c-3": entry(almost)}) is Refusal.SERVICE


def test_roles_do_not_pass_from_one_person_to_another() -> None:
    assert isinstance(read(signed(ANA_KEY, by="ana", role="senior")), Given)
    assert read(signed(ANA_KEY, by="ana", role="trader")) is Refusal.PERSON


def test_claims_whose_key_is_not_listed_any_more_speak_for_nobody() -> None:
    """For whoever keeps claims and asks later: a key is never taken out of the log, so this cannot come from there."""
    found = read_signed(VALUE, APPENDED_MS, KEYS, CLUSTER)

    assert isinstance(found, Given)
    assert refusal_of(found, KEYS) is None
    assert refusal_of(found, {}) is Refusal.PERSON


# --- what was shown ---------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A2")
@pytest.mark.parametrize("shown", ["", " ", SHOWN + " ", SHOWN.replace("1.80", "1.30"), SHOWN.upper()])
def test_another_card_than_the_one_that_was_signed_is_refused(shown: str) -> None:
    assert read(record(json.loads(VALUE)["jws"].encode(), shown)) is Refusal.VIEW


def test_a_refused_judgement_can_still_be_written_down() -> None:
    """The two halves of `read_verdict`: who said what, and why it counts for nothing."""
    value = record(json.loads(VALUE)["jws"].encode(), "another card")
    found = read_signed(value, APPENDED_MS, KEYS, CLUSTER)

    assert isinstance(found, Given)
    assert found.claims == ONE
    assert refusal_of(found, KEYS) is Refusal.VIEW


def test_who_may_not_speak_is_said_before_what_was_shown() -> None:
    value = record(sign(MONITOR_KEY, words(MONITOR_KEY)), "another card")

    assert read(value) is Refusal.SERVICE


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_the_largest_card_is_read_and_one_byte_more_is_not() -> None:
    card = "é" * (SHOWN_BYTES_MAX // 2)
    value = verdict_value(CONSOLE_KEY, words(shown=card), card)
    larger = card + "x"

    assert isinstance(read(value), Given)
    assert read(record(sign(CONSOLE_KEY, words(shown=larger)), larger)) is Rejection.MALFORMED
    with pytest.raises(ValueError, match="the card has 262145 bytes, expected at most 262144"):
        verdict_value(CONSOLE_KEY, words(shown=larger), larger)


def _changes(length: int) -> tuple[Edit, ...]:
    return (Edit("/content/text", "x" * length),)


def test_a_signed_verdict_that_is_too_long_is_neither_written_nor_read() -> None:
    fits, too_long = (
        words(verdict="change", changes=_changes(48_000)),
        words(verdict="change", changes=_changes(49_000)),
    )

    assert isinstance(read(verdict_value(CONSOLE_KEY, fits, SHOWN)), Given)
    with pytest.raises(ValueError, match=f"the signed verdict has .* bytes, expected at most {VERDICT_BYTES_MAX}"):
        verdict_value(CONSOLE_KEY, too_long, SHOWN)
    assert read(record(sign(CONSOLE_KEY, too_long))) is Rejection.MALFORMED


def test_a_card_whose_escapes_would_not_fit_into_a_record_is_not_written() -> None:
    card = "\x01" * (SHOWN_BYTES_MAX - 1)

    with pytest.raises(ValueError, match=f"the record has .* bytes, expected at most {RECORD_BYTES_MAX}"):
        verdict_value(CONSOLE_KEY, words(shown=card), card)


def test_whatever_is_read_here_fits_into_the_record_that_the_desk_leaves_of_it() -> None:
    """Otherwise one verdict could stop a partition: its transaction would be too large for ever."""
    fits = 145_500
    card = "\x01" * fits
    said = words(shown=card, verdict="reject", note="\x01" * 2_000, errors=("\x01" * 200,) * 16)
    value = verdict_value(CONSOLE_KEY, said, card)
    left = HumanDecision(item="i", n=1, hash=said.hash, by="tess", role="trader", verdict="reject", note=said.note,
                         errors=said.errors, effect="applied", painted="", decided="", appended="", source="",
                         jws=json.loads(value)["jws"], shown=card,
                         action=msgspec.Raw(b'"' + b"x" * (ACTION_BYTES_MAX - 2) + b'"'))  # fmt: skip

    assert RECORD_BYTES_MAX - len(value) < 16_000, "nearly the largest that is read"
    assert isinstance(read(value), Given)
    assert len(msgspec.json.encode(left)) < TABLE["decisions"].bytes_max - 4_096


def test_a_card_that_is_not_the_one_in_the_claims_is_not_signed() -> None:
    with pytest.raises(ValueError, match="expected the SHA-256 of what was shown"):
        verdict_value(CONSOLE_KEY, words(), "another card")


# --- any bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"jws":"a.b.c"}',
        b'{"jws":1,"shown":""}',
        b'{"jws":"","shown":null}',
        b'{"jws":"a.b.c","shown":"\xff"}',
        b'{"jws":"a.b.c","shown":"\\ud800"}',
        b'{"jws":"\\u00e9.b.c","shown":""}',
        b'{"jws":"a.b.c","shown":"","x":"\xff"}',
        VALUE[:-1] + b',"x":"\xff"}',
        VALUE + b"{}",
        b"\xef\xbb\xbf" + VALUE,
        b'{"x":' + b"[" * 200_000,
        b" " * (RECORD_BYTES_MAX + 1 - len(VALUE)) + VALUE,
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_record_of_this_topic_is_malformed(value: bytes | None) -> None:
    assert read(value) is Rejection.MALFORMED


@given(st.binary(max_size=400))
def test_no_bytes_at_all_raise(value: bytes) -> None:
    assert isinstance(read(value), Rejection)


@given(st.text(max_size=200), st.text(max_size=50))
def test_no_token_and_no_card_raise(jws: str, shown: str) -> None:
    assert isinstance(read(msgspec.json.encode({"jws": jws, "shown": shown})), Rejection)


@given(st.text(max_size=200))
def test_any_card_that_can_be_shown_comes_back_as_it_was(shown: str) -> None:
    value = verdict_value(CONSOLE_KEY, words(shown=shown), shown)
    found = read(value)

    assert isinstance(found, Given)
    assert found.shown == shown
    assert found.claims.view == view_of(shown)
