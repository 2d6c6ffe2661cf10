"""A command counts if a listed key signed these very bytes, for this cluster, in its time; else there is one reason."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import OctKey, OKPKey
from joserfc.jws import JWSRegistry

from hitl_stream.core.commands import (
    AnyCommand,
    Command,
    Confirm,
    Engage,
    Farewell,
    GateChange,
    Heartbeat,
    Keys,
    LevelChange,
    Pin,
    PolicyChange,
    ReleaseRequest,
    ReviewerChange,
)
from hitl_stream.core.control import AHEAD_MS_MAX, ALIVE_MS_MAX
from hitl_stream.core.errors import SettingsError
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.wire import signing
from hitl_stream.wire.signing import (
    COMMAND_BYTES_MAX,
    HEARTBEAT_BYTES_MAX,
    SigningKey,
    claimed_keys,
    create_signing_key,
    key_entry,
    new_signing_key,
    public_jwk,
    read_command,
    read_heartbeat,
    read_signing_key,
    read_signing_keys,
    sign,
)
from support.signed import (
    ALIVE_S,
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
    claims,
    entry,
    places,
    signed,
)

LATER = datetime(2001, 12, 1, tzinfo=UTC)
COMMANDS: tuple[Command, ...] = (
    Engage(**claims(ANA), scope=("campaign:cmp-7", "tenant:acme"), mode=Mode.HALT, reason="wrong landing page"),
    ReleaseRequest(**claims(ANA), epochs=(1, 2), reason="mended"),
    Confirm(**claims(ANA), of=815),
    PolicyChange(**claims(ANA), text="policy: demo\n", digest="3c" * 32, reason="new limits"),
    GateChange(**claims(ANA), gate="first_line", definition="a1", state="removed", evidence={"tone": {"n": 812}}),
    LevelChange(**claims(ANA), class_="bid.adjust", level=2, reason="drift"),
    ReviewerChange(**claims(ANA), person="p-4f2a", level=3, reason="row 2 page"),
    Pin(**claims(ANA), scope=("campaign:cmp-204",), field="daily_budget", direction="down", until=LATER, reason="plan"),
    Keys(**claims(ANA), keys=(entry(MALLORY),)),
    Farewell(**claims(ANA), instance="host-2/executor/0", reason="process ended, seen on host-2"),
)
HALT = signed(ANA, Engage, scope=("campaign:cmp-7",), mode=Mode.HALT, reason="wrong landing page")
BEAT = {"seq": 1, "control": "host-1/control/0", "epoch": 815, "digest": "ab" * 32, "acks": {}, "effective": 814}


def read(value: bytes | None, at_ms: int = NOW_MS, keys: Any = KEYS, audience: str = CLUSTER) -> Command | Rejection:
    return read_command(value, at_ms, keys, audience)


def token(header: Mapping[str, Any] | bytes, payload: bytes, key: SigningKey = ANA) -> bytes:
    """Return a JWS with any header at all and a good signature."""
    first = header if isinstance(header, bytes) else json.dumps(header).encode()
    covered = _base64(first) + b"." + _base64(payload)
    private: Any = key.private.private_key
    return covered + b"." + _base64(private.sign(covered))


def _base64(text: bytes) -> bytes:
    return base64.urlsafe_b64encode(text).rstrip(b"=")


def payload_of(value: bytes) -> bytes:
    middle = value.split(b".")[1]
    return base64.urlsafe_b64decode(middle + b"=" * (-len(middle) % 4))


def good_header(key: SigningKey = ANA) -> dict[str, str]:
    return {"alg": "Ed25519", "kid": key.key_id}


# --- good ones --------------------------------------------------------------------------------------------------------


def without_keys(case: Any) -> str:
    """Name a case without the key that this run has made: workers have to agree on the name."""
    return str(case).replace(public_jwk(ANA)["x"], "KEY")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_what_was_signed_is_read(command: Command) -> None:
    assert read(sign(ANA, command)) == command


def test_every_type_of_command_is_tried_here() -> None:
    assert {type(command) for command in COMMANDS} == set(AnyCommand.__args__)


def test_a_token_is_what_another_library_would_write() -> None:
    """RFC 7515 compact, with the header parameters of RFC 7515 and the algorithm's name of RFC 9864."""
    first, second, third = HALT.split(b".")

    assert json.loads(base64.urlsafe_b64decode(first + b"==")) == {"alg": "Ed25519", "kid": "ana-1"}
    assert json.loads(payload_of(HALT))["typ"] == "engage"
    assert len(third) == 86
    assert jws.deserialize_compact(HALT, OKPKey.import_key(public_jwk(ANA)), algorithms=["Ed25519"]).payload
    assert read(token({"kid": "ana-1", "alg": "Ed25519"}, payload_of(HALT))) == read(HALT)
    assert second


def test_a_field_that_a_newer_version_added_is_passed_over() -> None:
    payload = json.loads(payload_of(HALT)) | {"colour": {"deep": [1, 2.5, None]}}

    assert read(token(good_header(), json.dumps(payload).encode())) == read(HALT)


def test_a_policy_of_700_kilobytes_is_signed_and_read() -> None:
    value = signed(ANA, PolicyChange, text="a: [12345678901234]\n" * 33_000, digest="3c" * 32, reason="large")

    assert 700_000 < len(value) <= COMMAND_BYTES_MAX
    assert isinstance(read(value), PolicyChange)


# --- bad ones ---------------------------------------------------------------------------------------------------------


def test_a_token_with_any_byte_changed_taken_out_or_doubled_is_refused() -> None:
    tried = 0
    for broken in places(HALT):
        found = read(broken)
        assert isinstance(found, Rejection), broken
        tried += 1
    assert tried > 10 * len(HALT)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "none", "kid": "ana-1"}, Rejection.ALGORITHM),
        ({"alg": "EdDSA", "kid": "ana-1"}, Rejection.ALGORITHM),
        ({"alg": "Ed448", "kid": "ana-1"}, Rejection.ALGORITHM),
        ({"alg": "ed25519", "kid": "ana-1"}, Rejection.ALGORITHM),
        ({"alg": "HS256", "kid": "ana-1"}, Rejection.ALGORITHM),
        ({"alg": "HS256", "kid": "nobody"}, Rejection.ALGORITHM),
        ({"alg": ["Ed25519"], "kid": "ana-1"}, Rejection.MALFORMED),
        ({"alg": None, "kid": "ana-1"}, Rejection.MALFORMED),
        ({"kid": "ana-1"}, Rejection.MALFORMED),
        ({"alg": "Ed25519"}, Rejection.MALFORMED),
        ({"alg": "Ed25519", "kid": 7}, Rejection.MALFORMED),
        ({"alg": "Ed25519", "kid": "nobody"}, Rejection.UNKNOWN_KEY),
        ({"alg": "Ed25519", "kid": "ana-1 "}, Rejection.UNKNOWN_KEY),
        ({"alg": "Ed25519", "kid": "ben-1"}, Rejection.SIGNATURE),
        ({"alg": "Ed25519", "kid": "ana-1", "jku": "https://example.org/keys"}, Rejection.MALFORMED),
        ({"alg": "Ed25519", "kid": "ana-1", "jwk": public_jwk(ANA)}, Rejection.MALFORMED),
        ({"alg": "Ed25519", "kid": "ana-1", "x5c": []}, Rejection.MALFORMED),
        ({"alg": "Ed25519", "kid": "ana-1", "crit": ["exp"], "exp": 1}, Rejection.MALFORMED),
        ({"alg": "Ed25519", "kid": "ana-1", "crit": []}, Rejection.MALFORMED),
        ({"alg": "Ed25519", "kid": "ana-1", "b64": False, "crit": ["b64"]}, Rejection.MALFORMED),
        ({"alg": "Ed25519", "kid": "ana-1", "typ": "JWT"}, Rejection.MALFORMED),
        ({"alg": "Ed25519", "kid": "ana-1", "cty": "x" * 600}, Rejection.MALFORMED),
        (b"null", Rejection.MALFORMED),
        (b"[]", Rejection.MALFORMED),
        (b'"alg"', Rejection.MALFORMED),
        (b'["alg", "kid"]', Rejection.MALFORMED),
        (b"{" * 300, Rejection.MALFORMED),
        (b'{"alg":"Ed25519","kid":"\xff"}', Rejection.MALFORMED),
        (b'{"alg":"Ed25519","kid":"ana-1"} ?', Rejection.MALFORMED),
        (b'{"alg":"Ed25519",' + b" " * 500 + b'"kid":"ana-1"}', Rejection.MALFORMED),
    ],
    ids=without_keys,
)
def test_of_the_header_only_the_algorithm_and_the_key_id_are_taken(header: Any, reason: Rejection) -> None:
    """Each is signed by ana with care: a signature makes no header good."""
    assert read(token(header, payload_of(HALT))) is reason


def test_a_public_key_is_no_secret_that_a_mac_could_be_made_with() -> None:
    """The classic confusion: HS256 with the bytes of the public key."""
    secret = OctKey.import_key(base64.urlsafe_b64decode(public_jwk(ANA)["x"] + "="))
    forged = jws.serialize_compact({"alg": "HS256", "kid": "ana-1"}, payload_of(HALT), secret, ["HS256"]).encode()
    mac = forged.split(b".")[2]

    assert read(forged) is Rejection.ALGORITHM
    assert read(_base64(b'{"alg":"Ed25519","kid":"ana-1"}') + b"." + forged.split(b".")[1] + b"." + mac) is (
        Rejection.SIGNATURE
    )


@pytest.mark.parametrize(
    ("segment", "bytes_"),
    [
        (b"", b""),
        (b"QQ", b"A"),
        (b"QUI", b"AB"),
        (b"QUJD", b"ABC"),
        (b"-_-_", b"\xfb\xff\xbf"),
        (b"QR", None),
        (b"QUJ", None),
        (b"QQ==", None),
        (b"Q", None),
        (b"QUJDQ", None),
        (b"+/+/", None),
        (b"QU JD", None),
        (b"QUJD\n", None),
    ],
)
def test_bytes_have_one_spelling(segment: bytes, bytes_: bytes | None) -> None:
    """Ours to check: libraries differ in what they let pass, and so would the folds of two hosts."""
    assert signing._bytes_of(segment) == bytes_


def test_nothing_is_signed_without_a_signature() -> None:
    head, body, _ = HALT.split(b".")

    assert read(head + b"." + body + b".") is Rejection.SIGNATURE
    assert read(_base64(b'{"alg":"none","kid":"ana-1"}') + b"." + body + b".") is Rejection.ALGORITHM


def test_parts_of_two_good_tokens_make_no_third() -> None:
    other = signed(ANA, Engage, scope=("global:*",), mode=Mode.HALT)
    mine, theirs = HALT.split(b"."), other.split(b".")

    assert read(b".".join((mine[0], theirs[1], mine[2]))) is Rejection.SIGNATURE
    assert read(b".".join((mine[0], mine[1], theirs[2]))) is Rejection.SIGNATURE
    bens = signed(BEN, Engage, scope=("global:*",), mode=Mode.HALT).split(b".")
    assert read(b".".join((bens[0], mine[1], mine[2]))) is Rejection.SIGNATURE


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kid": "ben-1", "iss": "ben"}, Rejection.ISSUER),
        ({"kid": "ben-1"}, Rejection.ISSUER),
        ({"iss": "ben"}, Rejection.ISSUER),
        ({"iss": "ana "}, Rejection.ISSUER),
        ({"aud": "cluster-2"}, Rejection.AUDIENCE),
        ({"aud": "cluster-1 "}, Rejection.AUDIENCE),
        ({"iss": "ben", "aud": "cluster-2"}, Rejection.ISSUER),
        ({"aud": "cluster-2", "exp": 1}, Rejection.AUDIENCE),
    ],
)
def test_a_signer_speaks_for_himself_and_to_one_cluster(fields: dict[str, Any], reason: Rejection) -> None:
    command = Confirm(**(claims(ANA) | fields), of=1)

    assert read(token(good_header(), msgspec.json.encode(command))) is reason


def test_a_key_signs_only_what_its_entry_says() -> None:
    keys = {"ana-1": entry(ANA, "confirm")}

    assert isinstance(read(signed(ANA, Confirm, of=1), keys=keys), Confirm)
    assert read(HALT, keys=keys) is Rejection.TYPE
    assert read_heartbeat(signed(ANA, Heartbeat, **BEAT), NOW_MS, keys, CLUSTER) is Rejection.TYPE


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b".",
        b"..",
        b"a.b",
        b"a.b.c.d",
        HALT + b"\n",
        b"\n" + HALT,
        HALT.replace(b".", b",", 1),
        HALT + b"=",
        b"\x00" * 100,
        b'{"payload":"","signatures":[]}',
        HALT + b"." * COMMAND_BYTES_MAX,
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_compact_jws_is_malformed(value: bytes | None) -> None:
    assert read(value) is Rejection.MALFORMED
    assert read_heartbeat(value, NOW_MS, KEYS, CLUSTER) is Rejection.MALFORMED


def _with(**fields: Any) -> bytes:
    return json.dumps(json.loads(payload_of(HALT)) | fields).encode()


def _evidence(text: bytes) -> bytes:
    gate = msgspec.json.encode(COMMANDS[4])
    assert gate.count(b'{"tone":{"n":812}}') == 1
    return gate.replace(b'{"tone":{"n":812}}', b'{"tone":' + text + b"}")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b"not json",
        b"\xef\xbb\xbf" + _with(),
        _with() + b" {}",
        _with(typ="shout"),
        _with(typ=None),
        _with(typ="heartbeat"),
        _with(mode="STOP"),
        _with(scope="campaign:cmp-7"),
        _with(iat=1.0),
        _with(iat=True),
        _with(iat="1"),
        _with(iat=-1),
        _with(exp=10**12),
        _with(exp=10**30),
        _with(exp=10**4000),
        _with(jti=""),
        _with(jti="x" * 201),
        _with(reason="\udc80").replace(b"\\udc80", b"\xff"),
        _with(unknown="\udc80").replace(b"\\udc80", b"\xff"),
        _with(unknown="\ud800"),
        _evidence(b"[" * 32 + b"]" * 32),
        _evidence(b"[" * 100_000 + b"]" * 100_000),
        _evidence(b'{"a":' * 5_000 + b"1" + b"}" * 5_000),
        _evidence(b"1" + b"0" * 30),
        _evidence(b"[[-1" + b"0" * 700 + b"]]"),
        _evidence(b"1" + b"0" * 100_000),
        _evidence(b"1e999"),
        _evidence(b"NaN"),
    ],
    ids=lambda payload: repr(payload)[-40:],
)
def test_a_payload_that_is_no_command_is_malformed_however_well_it_is_signed(payload: bytes) -> None:
    assert read(token(good_header(), payload)) is Rejection.MALFORMED


def test_what_nests_up_to_the_limit_is_read() -> None:
    """The limit is ours, not the stack's: two readers that stand at different depths read the same."""
    value = token(good_header(), _evidence(b"[" * 29 + b"]" * 29))

    def deeper(levels: int) -> Command | Rejection:
        return deeper(levels - 1) if levels else read(value)

    assert isinstance(read(value), GateChange)
    assert deeper(700) == read(value)


def test_braces_in_a_text_are_no_depth() -> None:
    assert isinstance(
        read(signed(ANA, PolicyChange, text="{[" * 5_000, digest="3c" * 32, reason='\\"{[')), PolicyChange
    )


def test_numbers_of_64_bits_are_read_and_longer_ones_are_not() -> None:
    assert isinstance(read(token(good_header(), _evidence(str(2**63 - 1).encode()))), GateChange)
    assert read(token(good_header(), _evidence(str(2**63).encode()))) is Rejection.MALFORMED


@pytest.mark.parametrize(
    "jwk",
    [
        {**public_jwk(ANA), "d": "AAAA"},
        {**public_jwk(ANA), "kty": "EC"},
        {**public_jwk(ANA), "crv": "Ed448"},
        {**public_jwk(ANA), "crv": "X25519"},
        {**public_jwk(ANA), "x": ""},
        {**public_jwk(ANA), "x": "AAAA"},
        {**public_jwk(ANA), "x": public_jwk(ANA)["x"] + "="},
        {**public_jwk(ANA), "x": "é" * 43},
        {"kty": "OKP", "crv": "Ed25519"},
        {},
    ],
    ids=without_keys,
)
def test_a_key_that_cannot_be_used_is_not_listed(jwk: dict[str, str]) -> None:
    """Above all none with its private part. Were one listed all the same, its signatures would be no good."""
    broken = msgspec.structs.replace(entry(ANA), jwk=jwk)

    assert read(signed(ANA, Keys, keys=(entry(BEN), broken))) is Rejection.INVALID
    assert read(HALT, keys={"ana-1": broken}) is Rejection.SIGNATURE


@pytest.mark.parametrize("key_id", ["a/b", "../../etc", "ä-1", "x" * 65, "a b", "ana-1\n"])
def test_a_key_id_that_is_no_name_of_a_file_is_not_listed(key_id: str) -> None:
    broken = msgspec.structs.replace(entry(BEN), key_id=key_id)

    assert read(signed(ANA, Keys, keys=(broken,))) is Rejection.INVALID


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at_ms", "reason"),
    [
        (NOW_MS, None),
        (NOW_MS + ALIVE_S * 1000, None),
        (NOW_MS + ALIVE_S * 1000 + 1, Rejection.EXPIRED),
        (NOW_MS + DAY_S * 1000, Rejection.EXPIRED),
        (NOW_MS - AHEAD_MS_MAX, None),
        (NOW_MS - AHEAD_MS_MAX - 1, Rejection.EARLY),
        (NOW_MS - DAY_S * 1000 // 2, Rejection.EARLY),
    ],
)
def test_a_command_is_good_when_it_is_appended_in_its_time(at_ms: int, reason: Rejection | None) -> None:
    found = read(HALT, at_ms)

    assert found is reason if reason else isinstance(found, Engage)


@pytest.mark.parametrize(
    ("exp", "reason"),
    [
        (NOW_S + ALIVE_MS_MAX // 1000, None),
        (NOW_S + ALIVE_MS_MAX // 1000 + 1, Rejection.EARLY),
        (NOW_S - 1, Rejection.EXPIRED),
        (0, Rejection.EXPIRED),
        (253_402_300_799, Rejection.EARLY),
    ],
)
def test_a_command_is_good_for_no_longer_than_the_limit(exp: int, reason: Rejection | None) -> None:
    found = read(signed(ANA, Confirm, of=1, exp=exp))

    assert found is reason if reason else isinstance(found, Confirm)


@pytest.mark.parametrize(
    ("from_s", "until_s", "reason"),
    [
        (NOW_S, NOW_S + 1, None),
        (NOW_S - 1, NOW_S + 1, None),
        (NOW_S + 1, NOW_S + 9, Rejection.KEY_TIME),
        (NOW_S - 9, NOW_S, Rejection.KEY_TIME),
        (NOW_S - 9, NOW_S - 1, Rejection.KEY_TIME),
        (NOW_S + 9, NOW_S - 9, Rejection.KEY_TIME),
    ],
)
def test_a_key_is_good_from_its_first_moment_until_before_its_last(
    from_s: int, until_s: int, reason: Rejection | None
) -> None:
    found = read(HALT, keys={"ana-1": entry(ANA, from_s=from_s, until_s=until_s)})

    assert found is reason if reason else isinstance(found, Engage)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_the_ends_of_the_calendar_overflow_nothing(text: str) -> None:
    one = msgspec.json.encode(Keys(**claims(ANA), keys=(entry(ANA),)))
    fields = json.loads(one)
    fields["keys"][0]["until"] = text
    value = token(good_header(), json.dumps(fields).encode())
    found = read(value)

    assert isinstance(found, Keys)
    assert read(HALT, keys={"ana-1": found.keys[0]}) == (Rejection.KEY_TIME if text < "2" else read(HALT))


# --- heartbeats -------------------------------------------------------------------------------------------------------


def beat(value: bytes, at_ms: int = NOW_MS) -> Heartbeat | Rejection:
    return read_heartbeat(value, at_ms, KEYS, CLUSTER)


def test_a_heartbeat_is_read_as_it_was_signed() -> None:
    found = beat(signed(CONTROL, Heartbeat, **BEAT | {"epoch": -1, "effective": -1, "acks": {"host-1/router/0": 4411}}))

    assert isinstance(found, Heartbeat)
    assert (found.epoch, found.acks) == (-1, {"host-1/router/0": 4411})


@pytest.mark.parametrize("fields", [{"seq": 2**63}, {"epoch": -2}, {"digest": "AB" * 32}, {"acks": {"a": -1}}])
def test_a_heartbeat_with_a_figure_that_cannot_be_is_malformed(fields: dict[str, Any]) -> None:
    heartbeat = msgspec.json.encode(Heartbeat(**claims(CONTROL), **BEAT | fields))

    assert beat(token(good_header(CONTROL), heartbeat, CONTROL)) is Rejection.MALFORMED


def test_a_heartbeat_is_no_command_and_a_command_no_heartbeat() -> None:
    assert read(signed(CONTROL, Heartbeat, **BEAT)) is Rejection.MALFORMED
    assert beat(HALT) is Rejection.MALFORMED


def test_a_heartbeat_that_is_too_long_is_malformed() -> None:
    acks = {f"host-{number}/router/0": number for number in range(4_000)}
    value = signed(CONTROL, Heartbeat, **BEAT | {"acks": acks})

    assert HEARTBEAT_BYTES_MAX < len(value) < COMMAND_BYTES_MAX
    assert beat(value) is Rejection.MALFORMED


def test_a_heartbeat_of_yesterday_is_expired() -> None:
    assert beat(signed(CONTROL, Heartbeat, **BEAT), NOW_MS + DAY_S * 1000) is Rejection.EXPIRED


# --- any bytes --------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
PARTS = st.binary(max_size=40) | st.sampled_from([b".", *HALT.split(b".")])


@given(st.binary(max_size=600))
def test_no_bytes_raise(value: bytes) -> None:
    assert isinstance(read(value), Rejection)
    assert isinstance(beat(value), Rejection)
    assert claimed_keys(value) == {}


def test_ten_thousand_random_byte_strings_are_refused() -> None:
    chance = random.Random(7)
    for _ in range(10_000):
        text = chance.randbytes(chance.randrange(200))
        spelled = _base64(text) + b"." + _base64(text[:50]) + b"." + _base64(text[:64])
        assert isinstance(read(text), Rejection)
        assert isinstance(read(spelled), Rejection)


@given(st.lists(PARTS, max_size=6))
def test_no_bytes_that_look_like_a_token_raise(parts: list[bytes]) -> None:
    value = b".".join(parts)
    assert value == HALT or isinstance(read(value), Rejection)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_header_and_no_payload_raise_however_well_they_are_signed(header: bytes, payload: bytes) -> None:
    assert isinstance(read(token(header, payload)), Rejection)
    assert read(token(good_header(), payload)) is Rejection.MALFORMED


@given(st.dictionaries(st.sampled_from([*json.loads(payload_of(HALT)), "evidence", "keys", "until"]), JSON))
def test_no_fields_raise(fields: dict[str, Any]) -> None:
    """NaN and halves of pairs among them, as Python's encoder writes them."""
    assert isinstance(read(token(good_header(), _with(**fields))), Rejection | Command)
    assert isinstance(read(token(good_header(), _evidence(json.dumps(fields).encode()))), Rejection | Command)


# --- keys and their files ---------------------------------------------------------------------------------------------


def test_a_key_never_shows_its_private_part(tmp_path: Path) -> None:
    key = create_signing_key(tmp_path, "ana-1", "ana")
    secret = json.loads((tmp_path / "ana-1.jwk").read_text())["d"]

    assert secret not in repr(key)
    assert secret not in str(public_jwk(key))
    assert public_jwk(key).keys() == {"kty", "crv", "x"}


def test_a_key_file_is_made_once_readable_by_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "keys"
    key = create_signing_key(directory, "ana-1", "ana")
    path = directory / "ana-1.jwk"

    assert (path.stat().st_mode & 0o777, directory.stat().st_mode & 0o777) == (0o600, 0o700)
    assert json.loads(path.read_text()) | {"x": "", "d": ""} == {
        "kty": "OKP", "crv": "Ed25519", "x": "", "d": "", "kid": "ana-1", "holder": "ana", "kind": "person",
    }  # fmt: skip
    assert public_jwk(create_signing_key(directory, "ana-1", "ana")) == public_jwk(key)
    assert public_jwk(create_signing_key(directory, "ana-2", "ana")) != public_jwk(key)


def test_a_key_that_was_read_signs_what_its_maker_s_entry_lists(tmp_path: Path) -> None:
    made = create_signing_key(tmp_path, "ana-1", "ana")
    keys = {"ana-1": entry(made)}

    assert isinstance(read(signed(read_signing_key(tmp_path / "ana-1.jwk"), Confirm, of=1), keys=keys), Confirm)


@pytest.mark.parametrize(("holder", "kind"), [("ben", "person"), ("ana", "service")])
def test_a_file_of_somebody_else_is_not_taken_for_one_s_own(tmp_path: Path, holder: str, kind: Any) -> None:
    create_signing_key(tmp_path, "ana-1", "ana")
    with pytest.raises(SettingsError, match="move it away"):
        create_signing_key(tmp_path, "ana-1", holder, kind)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601])
def test_a_key_that_others_can_read_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    create_signing_key(tmp_path, "ana-1", "ana")
    path = tmp_path / "ana-1.jwk"
    path.chmod(mode)
    for refused in (lambda: read_signing_key(path), lambda: create_signing_key(tmp_path, "ana-1", "ana")):
        with pytest.raises(SettingsError, match=f"chmod 600 {path}"):
            refused()


def _other_public(fields: dict[str, str]) -> dict[str, str]:
    return fields | {"x": public_jwk(BEN)["x"]}


@pytest.mark.parametrize(
    "change",
    [
        _other_public,
        lambda fields: fields | {"d": fields["d"][:-4]},
        lambda fields: fields | {"d": ""},
        lambda fields: fields | {"crv": "Ed448"},
        lambda fields: fields | {"kty": "oct"},
        lambda fields: fields | {"kind": "robot"},
        lambda fields: fields | {"kid": "../ana-1"},
        lambda fields: {name: fields[name] for name in fields if name != "holder"},
        lambda fields: {name: fields[name] for name in fields if name != "d"},
        lambda fields: [fields],
    ],
)
def test_a_file_that_holds_no_such_key_is_refused_without_showing_it(
    tmp_path: Path, change: Callable[..., Any]
) -> None:
    create_signing_key(tmp_path, "ana-1", "ana")
    path = tmp_path / "ana-1.jwk"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(change(fields)))

    with pytest.raises(SettingsError, match="hitl keys") as found:
        read_signing_key(path)

    assert str(path) in str(found.value)
    assert fields["d"] not in str(found.value)
    assert found.value.__cause__ is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"x" * 100_000])
def test_a_file_that_is_no_jwk_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ana-1.jwk"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="hitl keys"):
        read_signing_key(path)


def test_a_file_under_another_name_is_refused(tmp_path: Path) -> None:
    create_signing_key(tmp_path, "ana-1", "ana")
    (tmp_path / "ana-1.jwk").rename(tmp_path / "ben-1.jwk")
    with pytest.raises(SettingsError, match=r"expected its name to be ana-1\.jwk"):
        read_signing_key(tmp_path / "ben-1.jwk")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_signing_key(tmp_path / "ana-1.jwk")


def test_the_newest_key_comes_last(tmp_path: Path) -> None:
    for number in (2, 10, 1, 9):
        create_signing_key(tmp_path, f"ana-{number}", "ana")

    assert list(read_signing_keys(tmp_path)) == ["ana-1", "ana-2", "ana-9", "ana-10"]
    assert read_signing_keys(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("key_id", ["", "a/b", "..\\b", "ana 1", "x" * 65, "ä"])
def test_a_key_id_is_the_name_of_a_file(key_id: str) -> None:
    with pytest.raises(SettingsError, match="no key id"):
        new_signing_key(key_id, "ana")


def test_nobody_signs_in_another_one_s_name() -> None:
    with pytest.raises(AssertionError):
        sign(BEN, COMMANDS[0])


def test_the_first_keys_can_be_seen_before_they_are_believed() -> None:
    assert claimed_keys(FIRST) == KEYS
    assert claimed_keys(HALT) == {}


def test_a_public_key_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four heartbeats a second, and ten thousand commands at a start, are checked with a handful of keys."""
    signing._public_key.cache_clear()
    for _ in range(5):
        read(HALT)
    assert signing._public_key.cache_info().misses == 1


def test_an_entry_lists_whose_key_it_is_and_for_what() -> None:
    until = datetime(2002, 1, 1, tzinfo=UTC)
    found = key_entry(CONTROL, ("heartbeat",), LATER, until)

    assert (found.holder, found.kind, found.key_id, found.types) == ("control", "service", "control-1", ("heartbeat",))
    assert (found.from_, found.until, found.jwk) == (LATER, until, public_jwk(CONTROL))


def test_the_library_is_told_which_algorithm_and_no_other() -> None:
    assert isinstance(signing._REGISTRY, JWSRegistry)
    assert signing._REGISTRY.allowed == ["Ed25519"]
    assert set(signing._REGISTRY.header_registry) == {"alg", "kid"}
