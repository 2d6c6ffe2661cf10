"""`hitl farewell` on a real log, beside a control role that contains an executor until a person says that it ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hitl_stream.cli.control_words import WORDS
from hitl_stream.core.commands import Contained, Waiting
from hitl_stream.core.events import Rejection
from support.kafka import Topics
from support.oncall import FakeControl, OnCall, hitl

pytestmark = pytest.mark.kafka
GONE, OTHER = "host-2/executor/0", "host-3/executor/1"
ANA = ("--key", "ana-1", "--reason", "seen on host-2: no such process")


@pytest.fixture
def place(kafka: str, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnCall:
    return OnCall(kafka, topics.prefix, tmp_path).begin().settle(monkeypatch)


def contain(control: FakeControl, epoch: int) -> None:
    """Let control prove nothing from `epoch` on, because of two executors."""
    control.effective = epoch - 1
    control.contained = (
        Contained(epoch=epoch, instance=GONE, calls=3), Contained(epoch=epoch, instance=OTHER, calls=1),
    )  # fmt: skip


def test_it_ends_what_was_contained_because_of_the_instance(place: OnCall, capfd: pytest.CaptureFixture[str]):
    epoch = place.engage("campaign:cmp-7")
    with FakeControl(place) as control:
        contain(control, epoch)
        assert hitl("farewell", GONE, *ANA) == 0

    log = place.log()
    assert log.control.farewells == {GONE: epoch + 1}
    said = " ".join(capfd.readouterr().out.split())
    assert f"FAREWELL({epoch + 1})" in said
    assert f"It ends CONTAINED({epoch}): 3 calls of {GONE}." in said
    assert f"Control has applied it: all up to {epoch - 1} is EFFECTIVE." in said
    assert f"Still CONTAINED({epoch}), unproven: {OTHER}, 1 call." in said


def test_json_is_one_object(place: OnCall, capfd: pytest.CaptureFixture[str]):
    epoch = place.engage("campaign:cmp-7")
    with FakeControl(place) as control:
        contain(control, epoch)
        assert hitl("farewell", GONE, *ANA, "--json") == 0
    printed = capfd.readouterr()
    row = json.loads(printed.out)

    assert (row["state"], row["epoch"], row["instance"], row["reason"]) == ("APPLIED", epoch + 1, GONE, ANA[3])
    assert row["ended"] == [{"epoch": epoch, "calls": 3}]
    assert row["contained"] == [{"epoch": epoch, "instance": OTHER, "calls": 1}]
    assert row["effective"] == epoch - 1
    assert "FAREWELL" in printed.err


def test_an_executor_that_control_only_waits_for_may_be_named(place: OnCall, capfd: pytest.CaptureFixture[str]):
    epoch = place.engage("campaign:cmp-7")
    with FakeControl(place) as control:
        control.effective, control.waiting = epoch - 1, (Waiting(instance=GONE, since_s=1.0),)
        assert hitl("farewell", GONE, *ANA) == 0
    assert f"Nothing was CONTAINED because of {GONE}." in capfd.readouterr().out


def test_without_control_it_is_appended_and_ends_with_3(place: OnCall, capfd: pytest.CaptureFixture[str]):
    assert hitl("farewell", GONE, *ANA, "--timeout", "0.5s") == 3

    assert place.log().control.farewells.keys() == {GONE}
    assert "No control role is heard" in capfd.readouterr().out


def test_it_ends_with_3_while_control_still_contains_it(place: OnCall, capfd: pytest.CaptureFixture[str]):
    """The instance has acknowledged after the farewell: its process runs."""
    epoch = place.engage("campaign:cmp-7")
    with FakeControl(place) as control:
        control.believing = False
        contain(control, epoch)
        assert hitl("farewell", GONE, *ANA, "--timeout", "0.5s") == 3
    assert "control has not applied it" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((GONE, "--key", "control-1", "--reason", "seen"), 5, WORDS[Rejection.TYPE]),
        (("host-2/executor/1", *ANA), 2, f"the nearest: {OTHER}, {GONE}"),
    ],
)
def test_what_would_say_nothing_is_not_appended(
    place: OnCall, arguments: tuple[str, ...], code: int, says: str, capfd: pytest.CaptureFixture[str]
):
    epoch = place.engage("campaign:cmp-7")
    with FakeControl(place) as control:
        contain(control, epoch)
        assert hitl("farewell", *arguments) == code
    assert says in " ".join(capfd.readouterr().err.split())
    assert place.log().control.epoch == epoch
