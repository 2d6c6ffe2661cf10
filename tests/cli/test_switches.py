"""How switches are shown: what is proved, what is not, and what nobody can tell. Without a broker."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from hitl_stream.cli import switches
from hitl_stream.cli.switches import Watching, drawn
from hitl_stream.core.commands import Contained, Heartbeat, ReleaseRequest, Waiting
from hitl_stream.core.control import RELEASE_MS_MIN, Control, Pending
from hitl_stream.core.errors import HitlError, RefusedError, UnreachableError
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.core.switches import Switch
from hitl_stream.lane.heartbeats import SILENT_MS, Beat
from hitl_stream.lane.instances import Instances, Seen
from hitl_stream.lane.picture import Picture, asked_for, data, state_of
from hitl_stream.wire.records import Ack
from support.guard import Commands
from support.make import NOW_MS
from support.signed import CONTROL, claims

WIDE = 250


def control() -> tuple[Control, int, int]:
    """Return a log with two switches, the first with a release that was asked for."""
    commands = Commands()
    first = commands.engage("campaign:cmp-7", "tenant:acme")
    commands.fold(ReleaseRequest(**commands._claims("ana"), epochs=(first,), reason="mended"))
    second = commands.engage("account:acc-1", mode=Mode.REVIEW_ALL)
    return commands.control, first, second


def beat(effective: int, name: str = "host-1/control/0", at_ms: int = NOW_MS, **fields: Any) -> Beat:
    said = {"seq": 1, "control": name, "epoch": effective, "digest": "0" * 64, "acks": {}, "effective": effective}
    return Beat(Heartbeat(**claims(CONTROL), **said | fields), at_ms, True)


def picture(found: Control, *beats: Beat, silent_ms: int = 100, instances: Instances | None = None) -> Picture:
    alive = {one.heartbeat.control: one for one in beats}
    refused = {} if beats else {Rejection.SIGNATURE: 3}
    return Picture(found, alive, silent_ms, instances or Instances("hitl.control.acks", {}), refused)


def shown(what: Picture, all_: bool = False, width: int = WIDE) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(drawn(what, all_))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_a_switch_is_effective_only_where_a_living_control_role_says_so():
    found, first, second = control()
    switches = found.switches.engaged

    def states(*beats: Beat, silent_ms: int = 100) -> list[str]:
        return [state_of(switch, picture(found, *beats, silent_ms=silent_ms)) for switch in switches.values()]

    assert states(beat(second)) == ["EFFECTIVE", "EFFECTIVE"]
    assert states(beat(first)) == ["EFFECTIVE", "not proved"]
    assert states(beat(first), beat(second, "other")) == ["EFFECTIVE", "EFFECTIVE"]  # what either has proved is proved
    assert states(beat(second), silent_ms=SILENT_MS) == ["unknown", "unknown"]
    assert states() == ["unknown", "unknown"]
    stuck = (Contained(epoch=second, instance="host-2/executor/0", calls=3),)
    assert states(beat(first, contained=stuck)) == ["EFFECTIVE", "CONTAINED"]
    behind = (Waiting(instance="host-3/router/0", since_s=1.0),)
    assert states(beat(first, contained=stuck, waiting=behind)) == ["EFFECTIVE", "not proved"]


def test_silence_comes_first_and_says_why():
    found, *_ = control()
    text = shown(picture(found, silent_ms=2_400))
    assert text.startswith("NO HEARTBEAT for 2.4 s. No control role is heard")
    assert "3 heartbeats were refused: its signature does not fit" in text
    assert "no control role heard" in text


def test_what_is_engaged_is_one_line_each():
    found, first, second = control()
    text = shown(picture(found, beat(second)))
    lines = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line[:1].isdecimal()}

    assert lines[str(first)].startswith(f"{first} HALT campaign:cmp-7 tenant:acme EFFECTIVE")
    assert "ana" in lines[str(first)]
    assert lines[str(second)].startswith(f"{second} REVIEW_ALL account:acc-1 EFFECTIVE")
    assert "hitl release confirm" in text


def test_a_request_says_how_long_it_must_wait_still():
    found, first, second = control()
    (asked,) = asked_for(first, found)
    later = beat(second, at_ms=asked.at_ms + RELEASE_MS_MIN - 12_000)
    assert f"{asked.epoch} by ana, in 12 s" in shown(picture(found, later))
    assert f"{asked.epoch} by ana " in shown(picture(found, beat(second, at_ms=asked.at_ms + RELEASE_MS_MIN)))
    assert asked_for(second, found) == []


def test_instances_show_their_lease_and_how_far_they_are():
    found, first, second = control()
    instances = Instances("hitl.control.acks", {})
    for number, epoch in enumerate((first, second)):
        name = f"host-{number}/router/0"
        ack = Ack(n=5, instance=name, role="router", version="1", partitions=(0, 1, 2, 5), epoch=epoch)
        instances.latest[name] = Seen(ack, NOW_MS, False)
        instances._numbers[name] = [(5, NOW_MS - 100 if number else NOW_MS - 3_000)]  # type: ignore[assignment]
    acks = {"host-0/router/0": 5, "host-1/router/0": 5}
    what = picture(found, beat(second, acks=acks), instances=instances)

    lines = [" ".join(line.split()) for line in shown(what).splitlines() if line.startswith("host-")]
    assert lines == [
        f"host-0/router/0 1 0-2 5 {first} – 0 over unchecked",
        f"host-1/router/0 1 0-2 5 {second} – 0 holds unchecked",
    ]
    assert [one["lease_left_ms"] for one in data(what, False)["instances"]] == [-1_000, 1_900]


def test_what_somebody_has_written_cannot_speak_to_the_terminal():
    found = Control()
    found.switches.engage(Switch(1, ("campaign:\x1b[2J",), Mode.HALT, "\u202eana", NOW_MS, "\x07why\nnot"))
    text = shown(picture(found, beat(1)))
    assert all(line.isprintable() for line in text.splitlines())


def test_nothing_engaged_is_said():
    assert "nothing is engaged" in shown(picture(Control(), beat(0)))
    assert "nothing was ever engaged" in shown(picture(Control(), beat(0)), all_=True)


# --- watching ---------------------------------------------------------------------------------------------------------


class Kafka:
    """What `Watching` looks at: each look, and each connection, does the next thing on the list."""

    def __init__(self, *doing: Picture | Exception) -> None:
        self.doing = list(doing)
        self.begun = 0
        self.shown: list[str] = []
        self.beats = self

    async def begin(self, stack: Any) -> Any:
        self.begun += 1
        if isinstance(self.doing[0], Exception):
            raise self.doing.pop(0)  # type: ignore[misc]
        return self

    async def hear(self, within_s: float) -> None:
        pass

    async def again(self) -> Picture:
        match self.doing.pop(0):
            case Exception() as error:
                raise error
            case found:
                return found

    def show(self, what: RenderableType) -> None:
        console = Console(file=io.StringIO(), width=WIDE, highlight=False)
        console.print(what)
        self.shown.append(console.file.getvalue())  # type: ignore[attr-defined]

    def watched(self, times: int) -> list[str]:
        """Watch until it has connected so often; return what was shown."""

        async def rest(seconds: float) -> None:
            pass

        async def watch() -> None:
            watching = Watching(self.begin, self.show, rest=rest)
            for _ in range(times):
                await watching.once()

        asyncio.run(watch())
        return self.shown


AWAY = UnreachableError("Kafka at nowhere:1 was not reached")


def test_watching_survives_that_kafka_goes_away_and_says_so():
    found, *_ = control()
    what = picture(found, beat(5))
    kafka = Kafka(what, what, AWAY, AWAY, what, AWAY)

    shown = kafka.watched(3)

    assert ["KAFKA DOES NOT ANSWER: Kafka at nowhere:1" in one for one in shown] == [
        False,
        False,
        True,
        True,
        False,
        True,
    ]
    assert kafka.begun == 3
    assert shown[2].startswith("KAFKA DOES NOT ANSWER")
    assert "HALT" in shown[2]  # as it was seen last
    assert "nobody can tell" in shown[2].lower()


def test_a_kafka_that_takes_too_long_is_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(switches, "AWAY_SECONDS", 0.01)
    found, *_ = control()
    kafka = Kafka(picture(found, beat(5)), picture(found, beat(5)))
    once = kafka.again

    async def again() -> Picture:
        return await once() if len(kafka.doing) > 1 else await asyncio.Event().wait()  # type: ignore[return-value]

    monkeypatch.setattr(kafka, "again", again)

    assert "KAFKA DOES NOT ANSWER: no answer within 0.01 s" in kafka.watched(1)[-1]


@pytest.mark.parametrize(
    ("doing", "error"),
    [([AWAY], UnreachableError), ([None, RefusedError("nothing there counts")], RefusedError)],
)
def test_watching_ends_where_kafka_was_never_reached_or_something_else_is_wrong(
    doing: list[Any], error: type[HitlError]
):
    found, *_ = control()
    with pytest.raises(error):
        Kafka(*(picture(found, beat(5)) if one is None else one for one in doing)).watched(1)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_on_a_narrow_terminal_every_cell_is_still_there(width: int):
    found, _, second = control()
    text = "".join(shown(picture(found, beat(second)), width=width).split())
    for part in ("HALT", "REVIEW_ALL", "EFFECTIVE"):
        assert part in text or part[:4] in text


def test_plain_data_holds_everything():
    found, first, _ = control()
    plain = data(picture(found, beat(first)), True)
    assert [one["state"] for one in plain["switches"]] == ["EFFECTIVE", "not proved"]
    assert plain["pending"][0]["epochs"] == (first,)
    assert plain["heard"] is True
    pending = next(iter(found.pending.values()))
    assert isinstance(pending, Pending)
