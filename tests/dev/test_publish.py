"""A file of actions goes out line by line, its bytes untouched."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from hitl_stream.client import Placed, place
from hitl_stream.core.errors import UsageError
from hitl_stream.dev import publish
from hitl_stream.dev.publish import Published, publish_file


class FakeSink:
    """A publisher of four partitions that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[Placed] = []

    def place(self, action: bytes) -> Placed:
        return place(action, "", 4)

    async def publish(self, records: Iterable[Placed]) -> int:
        mine = list(records)
        self.records += mine
        return len(mine)


class FakeTime:
    """A clock that only `sleep` moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def line(number: int, **fields: Any) -> bytes:
    action = {"action_id": f"a{number}", "type": "t", "agent": {"id": "x"}, "proposed_at": "2026-11-21T07:10:00Z"}
    return orjson.dumps({**action, **fields})


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth - 1):
        found = [found]
    return found


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def run(path: Path, sink: FakeSink, **options: Any) -> Published:
    time = FakeTime()
    return asyncio.run(publish_file(path, sink, clock=time.clock, sleep=time.sleep, **options))


def test_good_lines_are_published_byte_for_byte_without_white_space_around(tmp_path: Path) -> None:
    odd = b'{ "type" : "t", "proposed_at":"2026-11-21T07:10:00Z", "agent":{"id":"x"}, "action_id":"a1", "more": 1.10 }'
    sink = FakeSink()

    found = run(write(tmp_path / "f.jsonl", b"  " + odd + b" \r", b"", line(2)), sink)

    assert [record.value for record in sink.records] == [odd, line(2)]
    assert (found.lines, found.sent, found.refused) == (2, 2, 0)


def test_bad_lines_are_refused_with_number_and_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    sink = FakeSink()
    path = write(
        tmp_path / "f.jsonl",
        line(1),
        b"",
        b"not json",
        line(4, confidence="high"),
        line(5, rationale="x" * 65_536),
        line(6),
    )

    found = run(path, sink)

    assert [record.value for record in sink.records] == [line(1), line(6)]
    assert [refusal.line for refusal in found.refusals] == [3, 4, 5]
    reasons = [str(refusal) for refusal in found.refusals]
    assert "JSON" in reasons[0]
    assert reasons[1].startswith("line 4: confidence: 'high' is not a finite decimal")
    assert "65536" in reasons[2]


def test_what_only_the_router_would_refuse_is_refused_here_too(tmp_path: Path) -> None:
    """The model does not count how deep an unknown field of a part nests, nor how long the line is."""
    sink = FakeSink()
    path = write(
        tmp_path / "f.jsonl",
        line(1, entity={"more": nested(31)}),
        line(2, entity={"more": nested(30)}),
        line(3, more="x" * 65_536),
    )

    found = run(path, sink)

    assert [refusal.line for refusal in found.refusals] == [1, 3]
    assert all("not an action (too_" in refusal.reason for refusal in found.refusals)


def test_what_json_does_not_know_is_refused_also_in_a_field_that_nobody_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", line(1)[:-1] + b',"more":NaN}')

    assert [refusal.line for refusal in run(path, FakeSink()).refusals] == [1]


def test_strict_sends_nothing_if_any_line_is_bad(tmp_path: Path) -> None:
    sink = FakeSink()
    path = write(tmp_path / "f.jsonl", line(1), b"{}")

    with pytest.raises(UsageError, match=r"1 bad lines, nothing was sent\n.*line 2: action_id: Field required"):
        run(path, sink, strict=True)
    assert sink.records == []


def test_strict_sends_everything_if_all_is_well(tmp_path: Path) -> None:
    assert run(write(tmp_path / "f.jsonl", line(1), line(2)), FakeSink(), strict=True).sent == 2


def test_a_rate_holds_and_progress_is_told(tmp_path: Path) -> None:
    seen: list[Published] = []
    path = write(tmp_path / "f.jsonl", *(line(n) for n in range(101)))

    found = run(path, FakeSink(), rate=50, on_progress=seen.append)

    assert found.seconds == pytest.approx(100 / 50)
    assert [progress.sent for progress in seen] == [*range(5, 101, 5), 101]


def test_a_line_without_an_end_is_refused_and_does_not_fill_the_memory(tmp_path: Path) -> None:
    sink = FakeSink()
    path = write(tmp_path / "f.jsonl", b"x" * (3 * publish.LINE_BYTES_MAX), line(2))

    found = run(path, sink)

    assert [(refusal.line, refusal.reason[:11]) for refusal in found.refusals] == [(1, "longer than")]
    assert [record.value for record in sink.records] == [line(2)]


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(line(1))

    assert run(path, FakeSink()).sent == 1


def test_only_so_many_reasons_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "REFUSALS_KEPT_MAX", 2)
    found = run(write(tmp_path / "f.jsonl", *[b"x"] * 5), FakeSink())

    assert (found.refused, len(found.refusals)) == (5, 2)


def test_a_file_that_is_not_there_and_a_rate_of_nothing_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        run(tmp_path / "none.jsonl", FakeSink())
    with pytest.raises(UsageError, match="rate must be over zero"):
        run(write(tmp_path / "f.jsonl", line(1)), FakeSink(), rate=0)
