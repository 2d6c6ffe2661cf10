"""`hitl keys init`, `show`, `rotate`, and `hitl confirm`: how trust begins, and how it is handed on by two people."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.cli import confirm as confirm_verb
from hitl_stream.cli.confirm import foreseen_for
from hitl_stream.cli.control_words import WORDS, told
from hitl_stream.cli.keys import PERSON_TYPES
from hitl_stream.cli.main import IN_A_HURRY, VERBS, build, run
from hitl_stream.core.commands import (
    Command,
    Engage,
    GateChange,
    Keys,
    LevelChange,
    PolicyChange,
    ReleaseRequest,
)
from hitl_stream.core.control import CONFIRM_MS_MAX, RELEASE_MS_MIN, Control, Pending
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.lane.commander import append
from hitl_stream.wire.signing import (
    SigningKey,
    create_signing_key,
    key_entry,
    new_signing_key,
    public_jwk,
    read_signing_key,
)
from hitl_stream.wire.topics import TABLE, TopicSet
from support.cli import hitl
from support.kafka import Topics, read_values, running, send, within
from support.signed import ANA, BEN, CONTROL, NOW_MS, begun, claims, signed

NAMES = ("control", "control.heartbeat")
LISTED = ["ana-1", "ben-1", "console-1", "control-1", "monitor-1"]
"""After the first keys."""


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    with running("noida") as broker:
        yield broker.bootstrap


@dataclass
class Place:
    """An installation with its topics, and the command line beside it."""

    kafka: str
    topics: TopicSet
    keys: Path
    monkeypatch: pytest.MonkeyPatch
    capfd: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command line; return its exit code and what it printed to stdout and stderr."""
        code = run([*arguments, "--kafka", self.kafka, "--prefix", self.topics.prefix])
        shown, said = self.capfd.readouterr()
        return code, shown, said

    def json(self, *arguments: str) -> dict[str, Any]:
        """Run a command line that succeeds; return its object."""
        code, shown, said = self(*arguments, "--json")
        assert code == 0, said
        return dict(json.loads(shown))

    def begin(self, *holders: str) -> dict[str, Any]:
        """Make the first keys, and trust them."""
        named = [word for holder in holders or ("ana", "ben") for word in ("--holder", holder)]
        begun = self.json("keys", "init", *named)
        self.monkeypatch.setenv("HITL_TRUST", begun["trust"])
        return begun

    def key(self, key_id: str) -> SigningKey:
        return read_signing_key(self.keys / f"{key_id}.jwk")

    def append(self, key_id: str, make: Callable[..., Command]) -> int:
        """Append a command as another verb would; return its epoch."""
        return within(append({"bootstrap_servers": self.kafka}, self.topics, self.key(key_id), make)).epoch

    def written(self) -> list[bytes | None]:
        return within(read_values(self.kafka, self.topics.name("control")))


@pytest.fixture
def place(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Place:
    for name in [name for name in os.environ if name.startswith("HITL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HITL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.chdir(tmp_path)
    topics = Topics(kafka)
    topics({name: (1, TABLE[name].config()) for name in NAMES})
    return Place(kafka, TopicSet(topics.prefix), tmp_path / "state" / "keys", monkeypatch, capfd)


# --- init -------------------------------------------------------------------------------------------------------------


def test_trust_begins_with_key_files_a_record_and_its_digest(place: Place):
    begun = place.begin()

    (record,) = place.written()
    assert begun["trust"] == hashlib.sha256(record or b"").hexdigest()
    assert begun["epoch"] == 0
    assert [(row["key_id"], row["holder"], row["kind"]) for row in begun["keys"]] == [
        ("ana-1", "ana", "person"), ("ben-1", "ben", "person"), ("control-1", "control", "service"),
        ("console-1", "console", "service"), ("monitor-1", "monitor", "service"),
    ]  # fmt: skip
    assert all(stat.S_IMODE(Path(row["path"]).stat().st_mode) == 0o600 for row in begun["keys"])
    assert place.json("keys", "show")["holders"] == ["ana", "ben"]


def test_what_is_printed_says_what_to_do_next(place: Place):
    code, shown, said = place("keys", "init", "--holder", "ana", "--holder", "ben", "--service", "host")

    assert (code, said) == (0, "")
    digest = hashlib.sha256(place.written()[0] or b"").hexdigest()
    assert f"HITL_TRUST={digest}" in shown
    assert "ana-1.jwk to ana, ben-1.jwk to ben" in shown
    assert "host-1.jwk" in shown
    assert "WARNING" not in shown
    secrets = [json.loads(path.read_text())["d"] for path in place.keys.glob("*.jwk")]
    assert len(secrets) == 3
    assert not any(secret in shown for secret in secrets)


def test_a_single_holder_is_warned_loudly(place: Place):
    code, _, said = place("keys", "init", "--holder", "ana")

    assert code == 0
    assert said.startswith("WARNING")
    assert "ever be released" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no holder is named"),
        (("--holder", "ana", "--holder", "ana"), "named twice"),
        (("--holder", "ana", "--holder", "Ana"), "named twice"),
        (("--holder", "control"), "named twice"),
        (("--holder", "ana maria"), "no name"),
        (("--holder", "../ana"), "no name"),
        (("--holder", "x" * 63), "no name"),
        (("--holder", "ana", "--service", "router"), "no service that signs"),
        (("--holder", "ana", "--days", "0"), "days"),
    ],
)
def test_a_beginning_that_cannot_be_leaves_nothing(place: Place, arguments: tuple[str, ...], says: str):
    code, _, said = place("keys", "init", *arguments)

    assert code == 2
    assert says in said
    assert place.written() == []
    assert not place.keys.exists()


def test_trust_begins_once(place: Place):
    place.begin()

    code, _, said = place("keys", "init", "--holder", "cem")

    assert code == 5
    assert "hitl keys rotate" in said
    assert len(place.written()) == 1
    assert not (place.keys / "cem-1.jwk").exists()


def test_a_second_beginning_before_trust_is_set_names_the_first(place: Place):
    """Who runs it twice by mistake gets the digest again, not a second beginning."""
    code, shown, _ = place("keys", "init", "--holder", "ana", "--holder", "ben", "--json")
    trust = json.loads(shown)["trust"]

    code, _, said = place("keys", "init", "--holder", "ana", "--holder", "ben")

    assert code == 5
    assert f"HITL_TRUST={trust}" in said
    assert len(place.written()) == 1


@pytest.mark.parametrize("under", ["mallory-1", "ana-1"])
def test_a_stranger_s_beginning_is_neither_believed_nor_shown(place: Place, tmp_path: Path, under: str):
    """Whoever may write to the topic could list our public keys beside his own, and hope that we set his digest."""
    ours = create_signing_key(place.keys, "ana-1", "ana")
    theirs = create_signing_key(tmp_path / "theirs", under, "ana")
    listed = (ours, theirs) if under != ours.key_id else (theirs,)
    client = {"bootstrap_servers": place.kafka}
    appended = within(append(client, place.topics, theirs, partial(listing, listed)))

    code, shown, said = place("keys", "init", "--holder", "ana", "--holder", "ben")

    assert code == 0
    assert hashlib.sha256(appended.value).hexdigest() not in shown + said
    assert len(place.written()) == 2


def listing(keys: tuple[SigningKey, ...], **claims: Any) -> Command:
    from_, until = (datetime.fromtimestamp(claims["iat"] + by_s, UTC) for by_s in (-300, 86_400))
    return Keys(keys=tuple(key_entry(key, PERSON_TYPES, from_, until) for key in keys), **claims)


def test_key_files_of_a_first_try_are_used_by_the_next(place: Place):
    """Kafka was gone, say: nothing is made twice."""
    kept = create_signing_key(place.keys, "ana-1", "ana")

    place.begin()

    assert public_jwk(place.key("ana-1")) == public_jwk(kept)


# --- show -------------------------------------------------------------------------------------------------------------


def test_the_keys_are_shown_with_whose_they_are_and_how_long_they_hold(place: Place):
    place.begin()
    (place.keys / "ben-1.jwk").unlink()

    shown = place.json("keys", "show")

    rows = {row["key_id"]: row for row in shown["keys"]}
    assert {key_id: row["file"] for key_id, row in rows.items()} == {
        "ana-1": True, "ben-1": False, "console-1": True, "control-1": True, "monitor-1": True,
    }  # fmt: skip
    assert all(row["in_force"] for row in rows.values())
    assert rows["control-1"]["types"] == ["heartbeat", "engage", "release_request"]
    assert rows["console-1"]["types"] == ["verdict", "batch", "preference", "skip", "qualified", "engage"]
    assert "reviewer" not in rows["ana-1"]["types"]
    assert {"confirm", "keys", "farewell"} <= set(rows["ana-1"]["types"])

    code, table, said = place("keys", "show")
    assert (code, said) == (0, "")
    assert "in force" in table
    assert "ben-1" in table


def test_without_trust_no_key_is_shown(place: Place):
    code, shown, said = place("keys", "show")
    assert (code, shown) == (2, "")
    assert "HITL_TRUST" in said


def test_a_trust_that_names_nothing_there_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch):
    place.begin()
    monkeypatch.setenv("HITL_TRUST", "0" * 64)

    code, _, said = place("keys", "show")

    assert code == 5
    assert "compare HITL_TRUST" in said


# --- which key signs --------------------------------------------------------------------------------------------------


def test_of_several_persons_keys_one_must_be_named(place: Place):
    place.begin()

    code, _, said = place("keys", "rotate")

    assert code == 2
    assert "ana-1, ben-1" in said
    assert "control-1" not in said


def test_the_only_person_s_key_signs_by_itself(place: Place):
    place.begin()
    (place.keys / "ben-1.jwk").unlink()

    assert place.json("keys", "rotate")["replaces"] == "ana-1"


def test_without_a_person_s_key_it_is_said_how_to_get_one(place: Place):
    code, _, said = place("keys", "rotate")
    assert code == 2
    assert "--key FILE" in said


def test_a_key_is_named_by_its_file_too(place: Place, tmp_path: Path):
    place.begin()
    (tmp_path / "stick").mkdir()
    shutil.move(place.keys / "ana-1.jwk", tmp_path / "stick")

    assert place.json("keys", "rotate", "--key", "stick/ana-1.jwk")["replaces"] == "ana-1"


def test_a_file_with_another_key_of_that_id_is_refused_before_anything_is_written(place: Place, tmp_path: Path):
    place.begin()
    create_signing_key(tmp_path / "other", "ana-1", "ana")

    code, _, said = place("keys", "rotate", "--key", str(tmp_path / "other" / "ana-1.jwk"))

    assert code == 5
    assert WORDS[Rejection.SIGNATURE] in said
    assert len(place.written()) == 1
    assert not (place.keys / "ana-2.jwk").exists()


# --- rotate and confirm -----------------------------------------------------------------------------------------------


def test_a_key_is_replaced_when_another_holder_confirms(place: Place):
    place.begin()
    asked = place.json("keys", "rotate", "--key", "ana-1")

    assert key_ids(place) == LISTED
    assert place.json("keys", "show")["pending"] == [asked["epoch"]]
    done = place.json("confirm", str(asked["epoch"]), "--key", "ben-1")

    shown = place.json("keys", "show")
    rows = {row["key_id"]: row for row in shown["keys"]}
    assert (done["of"], done["epoch"], shown["pending"]) == (asked["epoch"], asked["epoch"] + 1, [])
    assert rows["ana-2"]["until"] == asked["until"]
    assert rows["ana-1"]["until"] == asked["ends"] < asked["until"]
    assert rows["ana-2"]["types"] == rows["ana-1"]["types"]
    assert rows["ana-2"]["in_force"]
    assert rows["ana-1"]["in_force"]
    again = place.json("keys", "rotate", "--key", "ana-2")
    assert again["key_id"] == "ana-3"


def test_a_person_replaces_a_service_s_key_and_one_that_is_lost(place: Place):
    place.begin("ana", "ben", "cem")
    (place.keys / "ben-1.jwk").rename(place.keys.parent / "lost")

    service = place.json("keys", "rotate", "control-1", "--key", "ana-1")
    lost = place.json("keys", "rotate", "ben-1", "--key", "ana-1", "--overlap-days", "1")

    assert (service["key_id"], lost["key_id"]) == ("control-2", "ben-2")
    assert (place.key("control-2").kind, place.key("ben-2").holder) == ("service", "ben")
    for asked in (service, lost):
        place.json("confirm", str(asked["epoch"]), "--key", "cem-1")
    assert place.json("keys", "show")["holders"] == ["ana", "ben", "cem"]


def test_a_key_that_is_not_listed_cannot_be_replaced(place: Place):
    place.begin()
    code, _, said = place("keys", "rotate", "ana-7", "--key", "ana-1")
    assert code == 2
    assert ", ".join(LISTED) in said


def test_a_rotation_that_was_not_confirmed_can_be_asked_for_again(place: Place):
    """The key file of the first try is taken."""
    place.begin()
    first = place.json("keys", "rotate", "--key", "ana-1")
    second = place.json("keys", "rotate", "--key", "ana-1")
    assert (first["key_id"], second["key_id"]) == ("ana-2", "ana-2")
    place.json("confirm", str(second["epoch"]), "--key", "ben-1")


def test_what_is_confirmed_is_printed_in_full_first(place: Place):
    place.begin()
    asked = place.json("keys", "rotate", "--key", "ana-1")

    code, shown, said = place("confirm", str(asked["epoch"]), "--key", "ben-1")

    assert (code, said) == (0, "")
    assert f"Command {asked['epoch']}: keys, asked for by ana with the key ana-1" in shown
    assert "adds ana-2, person ana: may sign engage" in shown
    assert "changes ana-1, person ana: until" in shown
    assert shown.rstrip().endswith("is in force.")


def _refused(place: Place, epoch: int, key: str, says: str) -> None:
    before = len(place.written())
    code, _, said = place("confirm", str(epoch), "--key", key)
    assert code == 5
    assert says in said
    assert len(place.written()) == before


def test_what_is_known_to_be_refused_is_not_appended(place: Place):
    place.begin()
    keys = place.json("keys", "rotate", "--key", "ana-1")["epoch"]
    engaged = place.append("ana-1", partial(Engage, scope=("campaign:cmp-7",), mode=Mode.HALT))
    release = place.append("ana-1", partial(ReleaseRequest, epochs=(engaged,), reason="mended"))
    unknown = place.append("ana-1", partial(ReleaseRequest, epochs=(99,), reason="mended"))

    _refused(place, keys, "ana-1", WORDS[Rejection.SAME_HOLDER])
    _refused(place, keys, "control-1", WORDS[Rejection.TYPE])
    _refused(place, engaged, "ben-1", "nothing waits")
    _refused(place, 99, "ben-1", "control ends at")
    _refused(place, unknown, "ben-1", WORDS[Rejection.UNKNOWN])
    _refused(place, release, "ben-1", "s are left")


def test_what_is_found_to_be_refused_afterwards_is_said_with_the_reason(place: Place, monkeypatch: pytest.MonkeyPatch):
    """This host's clock is two hours ahead: only the fold knows that it is too soon."""
    place.begin()
    engaged = place.append("ana-1", partial(Engage, scope=("campaign:cmp-7",), mode=Mode.HALT))
    release = place.append("ana-1", partial(ReleaseRequest, epochs=(engaged,), reason="mended"))
    real = time.time_ns
    monkeypatch.setattr(confirm_verb.time, "time_ns", lambda: real() + 7_200 * 10**9)

    code, shown, said = place("confirm", str(release), "--key", "ben-1")

    assert code == 5
    assert f"releases {engaged}: HALT for campaign:cmp-7, engaged by ana" in shown
    assert "appended at" in said
    assert WORDS[Rejection.TOO_SOON] in said
    assert "s are left" in said


def test_a_second_confirmation_finds_nothing_that_waits(place: Place):
    place.begin()
    asked = place.json("keys", "rotate", "--key", "ana-1")["epoch"]
    place.json("confirm", str(asked), "--key", "ben-1")

    _refused(place, asked, "ben-1", "confirmed already")


def test_junk_on_the_topic_is_in_nobody_s_way(place: Place):
    place.begin()
    within(send(place.kafka, place.topics.name("control"), [b"junk", b"", b"\xff" * 100]))

    asked = place.json("keys", "rotate", "--key", "ana-1")
    place.json("confirm", str(asked["epoch"]), "--key", "ben-1")
    _refused(place, 1, "ben-1", WORDS[Rejection.MALFORMED])


# --- add and end ------------------------------------------------------------------------------------------------------


def key_ids(place: Place) -> list[str]:
    return [row["key_id"] for row in place.json("keys", "show")["keys"]]


def test_a_third_holder_and_a_service_are_added_when_another_holder_confirms(place: Place):
    place.begin()

    asked = place.json("keys", "add", "--holder", "cem", "--service", "host", "--key", "ana-1")

    assert (asked["state"], asked["confirm"]) == ("ASKED", f"hitl confirm {asked['epoch']}")
    assert [(row["key_id"], row["kind"]) for row in asked["keys"]] == [("cem-1", "person"), ("host-1", "service")]
    assert place.key("cem-1").holder == "cem"
    assert key_ids(place) == LISTED
    place.json("confirm", str(asked["epoch"]), "--key", "ben-1")
    rows = {row["key_id"]: row for row in place.json("keys", "show")["keys"]}
    assert set(rows) == {*LISTED, "cem-1", "host-1"}
    assert rows["cem-1"]["types"] == rows["ana-1"]["types"]
    assert rows["host-1"]["types"] == ["engage"]
    assert all(row["in_force"] for row in rows.values())
    assert rows["cem-1"]["until"] == asked["until"]


def test_what_is_printed_says_who_confirms_and_where_the_files_go(place: Place):
    place.begin()

    code, shown, said = place("keys", "add", "--holder", "cem", "--service", "host", "--key", "ana-1")

    assert (code, said) == (0, "")
    assert "nothing changes yet. cem-1, host-1 may sign until" in shown
    assert "hitl confirm 1" in shown
    assert "cem-1.jwk to cem" in shown
    assert "host-1.jwk into keys_dir of every host that may HALT by a file" in shown


def test_a_holder_who_is_listed_gets_a_second_key(place: Place):
    place.begin()
    asked = place.json("keys", "add", "--holder", "ben", "--key", "ana-1")
    assert [row["key_id"] for row in asked["keys"]] == ["ben-2"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("add",), 2, "nobody is named"),
        (("add", "--holder", "cem", "--holder", "Cem"), 2, "named twice"),
        (("add", "--holder", "Control"), 2, "lists a service of that name"),
        (("add", "--service", "router"), 2, "no service that signs"),
        (("add", "--holder", "cem", "--key", "control-1"), 5, WORDS[Rejection.TYPE]),
        (("end",), 2, "no key is named"),
        (("end", "cem-1"), 2, "ana-1, ben-1"),
        (("end", "ben-1"), 5, "only ana would be left"),
        (("end", "ana-1", "ben-1"), 5, "nobody would be left"),
    ],
)
def test_what_cannot_be_asked_for_is_not_appended(place: Place, arguments: tuple[str, ...], code: int, says: str):
    place.begin()
    key = () if "--key" in arguments else ("--key", "ana-1")

    found, _, said = place("keys", *arguments, *key)

    assert (found, says in said) == (code, True), said
    assert len(place.written()) == 1
    assert not (place.keys / "cem-1.jwk").exists()


def test_a_key_ends_when_another_holder_confirms(place: Place):
    place.begin("ana", "ben", "cem")

    asked = place.json("keys", "end", "cem-1", "--key", "ana-1")

    assert place.json("keys", "show")["holders"] == ["ana", "ben", "cem"]
    place.json("confirm", str(asked["epoch"]), "--key", "ben-1")
    shown = place.json("keys", "show")
    ended = {row["key_id"]: row["until"] for row in shown["keys"] if not row["in_force"]}
    assert ended == {"cem-1": asked["ends"][0]["until"]}
    assert shown["holders"] == ["ana", "ben"]
    code, _, said = place("keys", "end", "cem-1", "--key", "ana-1")
    assert code == 2
    assert "already" in said


def test_ending_the_last_key_that_may_sign_something_is_warned_of(place: Place):
    place.begin()

    code, _, said = place("keys", "end", "control-1", "--key", "ana-1", "--json")

    assert code == 0
    assert "WARNING: no key in force could sign heartbeat any more." in said
    assert "engage" not in said


# --- without a broker -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [("keys", "init", "--holder", "ana"), ("keys", "show"), ("confirm", "3")])
def test_without_kafka_it_ends_with_4(place: Place, verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    create_signing_key(place.keys, "ana-1", "ana")
    monkeypatch.setenv("HITL_TRUST", "0" * 64)

    code = run([*verb, "--kafka", "127.0.0.1:1"])
    shown, said = place.capfd.readouterr()

    assert (code, shown) == (4, "")
    assert "127.0.0.1:1" in said


SECOND = 1_000


@pytest.mark.parametrize(
    ("key", "command", "waited_ms", "found"),
    [
        (BEN, "release", [RELEASE_MS_MIN, RELEASE_MS_MIN], None),
        (BEN, "release", [RELEASE_MS_MIN - 1, RELEASE_MS_MIN - 1], Rejection.TOO_SOON),
        (BEN, "release", [0, 59 * SECOND], Rejection.TOO_SOON),
        (BEN, "release", [RELEASE_MS_MIN - 1, RELEASE_MS_MIN], None),
        (BEN, "release", [-1, 10 * SECOND], None),
        (BEN, "release", [CONFIRM_MS_MAX + 1, CONFIRM_MS_MAX + 1], Rejection.TOO_LATE),
        (BEN, "release", [CONFIRM_MS_MAX, CONFIRM_MS_MAX + 1], None),
        (BEN, "policy", [0, 0], None),
        (ANA, "policy", [0, 0], Rejection.SAME_HOLDER),
        (new_signing_key("ana-2", "ANA"), "policy", [0, 0], Rejection.SAME_HOLDER),
        (CONTROL, "policy", [0, 0], Rejection.SERVICE),
    ],
)
def test_a_refusal_is_foreseen_only_where_every_clock_agrees(
    key: SigningKey, command: str, waited_ms: list[int], found: Rejection | None
):
    asked: dict[str, Command] = {
        "release": ReleaseRequest(**claims(ANA), epochs=(1,), reason="mended"),
        "policy": PolicyChange(**claims(ANA), text="", digest="3c" * 32, reason="r"),
    }
    assert foreseen_for(Pending(7, NOW_MS, asked[command], "ana"), key, waited_ms) is found


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (
            PolicyChange(**claims(ANA), text="policy: a\x1b[2J\nclasses: {}\n", digest="3c" * 32, reason="new\x07"),
            [f"  digest: {'3c' * 32}", "  reason: new\\x07", "  | policy: a\\x1b[2J", "  | classes: {}"],
        ),
        (
            LevelChange(**claims(ANA), class_="bid.adjust", level=4, reason="proved", evidence={"n": 812}),
            ["  class: bid.adjust", "  level: 4", "  reason: proved", '  evidence: {"n":812}'],
        ),
        (
            GateChange(**claims(ANA), gate="tone", definition="a1", state="removed", p={"x": 0.05}),
            ["  gate: tone", "  definition: a1", "  state: removed", "  agent: null", '  p: {"x":0.05}',
             "  evidence: {}", "  reason: null"],
        ),
    ],
)  # fmt: skip
def test_what_waits_is_told_in_full_and_safe_to_print(command: Command, lines: list[str]):
    first, *rest = told(Control(), Pending(7, NOW_MS, command, "ana"))

    assert first == (
        f"Command 7: {type(command).__struct_config__.tag}, asked for by ana with the key ana-1 at "
        "2001-09-09T01:46:40.000Z"
    )
    assert rest == lines


def test_a_release_tells_each_switch_it_lifts():
    log = begun(
        signed(ANA, Engage, scope=(), mode=Mode.REVIEW_ALL), signed(ANA, Engage, scope=("agent:\x1b",), mode=Mode.HALT)
    )
    request = ReleaseRequest(**claims(BEN), epochs=(1, 2), reason="mended")

    _, *lines = told(log.control, Pending(3, NOW_MS, request, "ben"))

    assert lines == [
        "  releases 1: REVIEW_ALL for everything, engaged by ana at 2001-09-09T01:46:40.000Z",
        "  releases 2: HALT for agent:\\x1b, engaged by ana at 2001-09-09T01:46:40.000Z",
        "  reason: mended",
    ]


def test_there_are_words_for_every_reason():
    assert set(WORDS) == set(Rejection)


# --- fast -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", IN_A_HURRY)
def test_a_verb_in_a_hurry_is_found_without_the_others(verb: str):
    assert verb in VERBS
    app = build(verb)
    assert verb in app
    assert "run" not in app
    assert "run" in build()
    assert verb in build()


def test_a_verb_in_a_hurry_loads_no_roles(tmp_path: Path):
    """What is loaded is most of the time between a line typed and a record appended."""
    code = (
        "import sys; from hitl_stream.cli.main import build; build('confirm')['confirm'];"
        "print(*[m for m in ('hitl_stream.wiring', 'aiohttp', 'structlog', 'prometheus_client') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_help_lists_them(tmp_path: Path):
    shown = hitl(tmp_path, "--help").stdout
    assert "keys" in shown
    assert "confirm" in shown
