"""A seal says which role wrote a head, for which topic, as which type; and key files are nobody else's."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.errors import SettingsError
from hitl_stream.wire.seal import KEY_BYTES, Draw, SealKey, create_key, read_key, read_keys, sealed, sealer

OLD, NEW = SealKey("r1", b"\x01" * 32), SealKey("r2", b"\x02" * 32)
KEYS = {key.key_id: key for key in (OLD, NEW)}
HEAD = b'{"id":"hitl.actions/3/88121#0","outcome":"EXECUTE"'
TOPIC, KIND = "hitl.execute", "decision/1"
SEAL = sealer(NEW, TOPIC, KIND)(HEAD)


def test_a_seal_names_its_key_and_is_checked_by_it() -> None:
    assert SEAL.startswith(b"r2:")
    assert sealed(KEYS, TOPIC, KIND, HEAD, SEAL)


@pytest.mark.parametrize("key", [OLD, NEW])
def test_two_key_ids_are_valid_at_once(key: SealKey) -> None:
    assert sealed(KEYS, TOPIC, KIND, HEAD, sealer(key, TOPIC, KIND)(HEAD))


def test_a_key_that_was_withdrawn_seals_nothing() -> None:
    assert not sealed({"r1": OLD}, TOPIC, KIND, HEAD, SEAL)


def test_one_sealer_seals_many_heads() -> None:
    seal = sealer(NEW, TOPIC, KIND)
    assert seal(b"a") != seal(b"b")
    assert seal(HEAD) == SEAL


@given(st.integers(0, len(HEAD) - 1), st.integers(1, 255))
def test_any_changed_byte_of_the_head_breaks_the_seal(place: int, flip: int) -> None:
    head = HEAD[:place] + bytes([HEAD[place] ^ flip]) + HEAD[place + 1 :]
    assert not sealed(KEYS, TOPIC, KIND, head, SEAL)


@given(st.integers(0, len(SEAL) - 1), st.integers(1, 255))
def test_any_changed_byte_of_the_seal_breaks_it(place: int, flip: int) -> None:
    seal = SEAL[:place] + bytes([SEAL[place] ^ flip]) + SEAL[place + 1 :]
    assert not sealed(KEYS, TOPIC, KIND, HEAD, seal)


@pytest.mark.parametrize(
    ("topic", "kind", "head"),
    [
        ("hitl.review", KIND, HEAD),
        ("hitl.executf", KIND, HEAD),
        ("", KIND, HEAD),
        (TOPIC, "decision/2", HEAD),
        (TOPIC, "closed/1", HEAD),
        (TOPIC, "", KIND.encode() + HEAD),
        (TOPIC + KIND, "", HEAD),
        (TOPIC, KIND, HEAD[:-1]),
        (TOPIC, KIND, HEAD + b" "),
        (TOPIC, KIND, b""),
    ],
)
def test_a_seal_is_good_for_one_topic_one_type_and_one_head(topic: str, kind: str, head: bytes) -> None:
    assert not sealed(KEYS, topic, kind, head, SEAL)


@given(st.binary(max_size=60))
def test_no_made_up_seal_is_good_and_none_raises(seal: bytes) -> None:
    assert not sealed(KEYS, TOPIC, KIND, HEAD, seal)
    assert not sealed(KEYS, TOPIC, KIND, HEAD, b"r2:" + seal)


# --- key files --------------------------------------------------------------------------------------------------------


def test_a_key_file_is_made_once_readable_by_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "keys"
    key = create_key(directory, "seal-router", "r1")
    path = directory / "seal-router-r1"
    assert (path.stat().st_mode & 0o777, directory.stat().st_mode & 0o777) == (0o600, 0o700)
    assert len(key.key) == KEY_BYTES
    assert create_key(directory, "seal-router", "r1") == key
    assert create_key(directory, "seal-router", "r2").key != key.key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_can_read_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    create_key(tmp_path, "sample", "s1")
    path = tmp_path / "sample-s1"
    path.chmod(mode)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_key(path, "sample")
    with pytest.raises(SettingsError):
        create_key(tmp_path, "sample", "s1")


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_of_its_owner_is_read(tmp_path: Path, mode: int) -> None:
    key = create_key(tmp_path, "sample", "s1")
    (tmp_path / "sample-s1").chmod(mode)
    assert read_key(tmp_path / "sample-s1", "sample") == key


@pytest.mark.parametrize("content", ["", "zz", "ab" * 31, "ab" * 33, "not a key"])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "sample-s1"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="hitl keys"):
        read_key(path, "sample")


def test_the_newest_key_comes_last(tmp_path: Path) -> None:
    for number in (2, 10, 1, 9):
        create_key(tmp_path, "seal-router", f"r{number}")
    create_key(tmp_path, "sample", "s1")
    assert list(read_keys(tmp_path, "seal-router")) == ["r1", "r2", "r9", "r10"]


@pytest.mark.parametrize("name", ["", "nothing-here"])
def test_without_a_key_it_says_how_to_make_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="hitl keys"):
        read_keys(tmp_path / name, "seal-router")


# --- the draw ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.01, 0.05, 0.5])
def test_so_many_are_drawn_as_the_probability_says(p: float) -> None:
    lot = Draw(NEW).lot("hitl.actions", 3)
    drawn = mean(lot(offset, b"hash", p) for offset in range(20_000))
    assert abs(drawn - p) < 5 * (p * (1 - p) / 20_000) ** 0.5


def test_nothing_is_drawn_at_zero_and_everything_at_one() -> None:
    lot = Draw(NEW).lot("hitl.actions", 3)
    assert not any(lot(offset, b"hash", 0.0) for offset in range(1_000))
    assert all(lot(offset, b"hash", 1.0) for offset in range(1_000))


def test_what_is_drawn_at_one_share_is_drawn_at_every_larger_one() -> None:
    lot = Draw(NEW).lot("hitl.actions", 3)
    for offset in range(500):
        shares = [lot(offset, b"hash", share / 20) for share in range(21)]
        assert shares == sorted(shares)


@pytest.mark.parametrize(
    "other",
    [
        Draw(OLD).lot("hitl.actions", 3),
        Draw(NEW).lot("hitl.actions", 4),
        Draw(NEW).lot("other.actions", 3),
        lambda offset, action_hash, p: Draw(NEW).lot("hitl.actions", 3)(offset, b"other", p),
    ],
)
def test_a_draw_depends_on_key_place_and_bytes(other: object) -> None:
    lot = Draw(NEW).lot("hitl.actions", 3)
    mine = [lot(offset, b"hash", 0.5) for offset in range(200)]
    theirs = [other(offset, b"hash", 0.5) for offset in range(200)]  # type: ignore[operator]
    assert mine != theirs
    assert 60 < sum(a == b for a, b in zip(mine, theirs, strict=True)) < 140
