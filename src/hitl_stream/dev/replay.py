"""A real metric, replayed as the bids that a naive agent would set after it."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson
from msgspec import Struct

from hitl_stream.core.errors import UsageError
from hitl_stream.dev.drive import Sent, over_zero, stamp
from hitl_stream.wire.home import home

CSV_ROWS_MAX = 1_000_000
CSV_GAIN = 0.5
CSV_BID = 1.0


class Replay:
    """The bids that a naive agent would set after a real metric, one action for each row but the first.

    The agent holds a cost (per click, per thousand impressions) at what it was in the first row: it scales its bid by
    (cost before ÷ cost now) ^ `gain`. So the bid never drifts, and a real spike causes a large change.
    """

    def __init__(self, rows: Sequence[tuple[int, float, int]], bid: _ReplayBid) -> None:
        self._rows = rows
        self._bid = bid
        self._next = 1

    def __iter__(self) -> Iterator[Sent]:
        while not self.done:
            due = self._rows[self._next][0]
            yield from self.until(due, self._bid.start_ms + due, 1)

    def __len__(self) -> int:
        return len(self._rows) - 1

    @property
    def done(self) -> bool:
        """Say whether every row was replayed."""
        return self._next >= len(self._rows)

    def until(self, due_ms: float, now_ms: int, limit: int) -> list[Sent]:
        """Return what is due by `due_ms`, at most `limit` records, stamped as proposed at `now_ms`."""
        found: list[Sent] = []
        while not self.done and self._rows[self._next][0] <= due_ms and len(found) < limit:
            found.append(self._bid.write(self._rows[0], self._rows[self._next - 1], self._rows[self._next], now_ms))
            self._next += 1
        return found


class _ReplayBid(Struct, frozen=True):
    """Who bids in a replay, and on what."""

    signal: str
    tenant: str
    account: str
    campaign: str
    agent: str
    partition: int
    start_ms: int
    gain: float

    def write(
        self, first: tuple[int, float, int], last: tuple[int, float, int], row: tuple[int, float, int], now_ms: int
    ) -> Sent:
        due, value, number = row
        action = {
            "action_id": f"csv-{self.start_ms:x}-{number}",
            "tenant": self.tenant,
            "agent": {"id": self.agent, "version": "1"},
            "type": "bid.adjust",
            "changes": [
                {
                    "entity": {"account": self.account, "campaign": self.campaign},
                    "field": "bid",
                    "before": self._scaled(first[1], last[1]),
                    "after": self._scaled(first[1], value),
                    "unit": "EUR",
                }
            ],
            "confidence": "0.90",
            "proposed_at": stamp(now_ms),
            "destination": "google_ads",
            "evidence": [
                {
                    "signal": self.signal,
                    "value": f"{value:.10f}",
                    "before": f"{last[1]:.10f}",
                    "better": "down",
                    "ref": f"row {number}",
                }
            ],
            "rationale": f"{self.signal} moved; hold its target.",
        }
        key = f"{self.tenant}/{self.account}/{self.campaign}".encode()
        return Sent(due, orjson.dumps(action), key, self.partition, "bid.adjust")

    def _scaled(self, first: float, value: float) -> str:
        # Never below the smallest bid: a change from zero has no size.
        return f"{max(CSV_BID * (first / value) ** self.gain, 0.0001):.4f}"


def from_csv(
    path: Path | str,
    time_column: str = "timestamp",
    value_column: str = "value",
    *,
    speed: float = 3_600.0,
    rate: float | None = None,
    signal: str | None = None,
    tenant: str = "acme",
    account: str = "acc-csv",
    campaign: str = "cmp-csv",
    agent: str = "bidder-csv",
    start_ms: int = 0,
    partitions: int = 12,
    gain: float = CSV_GAIN,
) -> Replay:
    """Read a metric series as a stream of bids.

    Time runs `speed` times as fast as in the file (3,600: an hour in a second), or evenly at `rate` rows a second. A
    row whose value is zero has no ratio and is left out. Row numbers count data rows from 1. Raises `UsageError` that
    names the columns there are, or the line that cannot be read.
    """
    over_zero(speed=speed, rate=1.0 if rate is None else rate, partitions=partitions)
    found = _read_csv(Path(path), time_column, value_column)
    start = found[0][0]
    rows = [
        (round(index * 1_000 / rate if rate is not None else (at - start) * 1_000 / speed), value, number)
        for index, (at, value, number) in enumerate(found)
    ]
    bid = _ReplayBid(
        signal or value_column, tenant, account, campaign, agent, home(tenant, account, partitions), start_ms, gain
    )
    return Replay(rows, bid)


def _read_csv(path: Path, time_column: str, value_column: str) -> list[tuple[float, float, int]]:
    """Return (Unix seconds, value, row number) of every row whose value is over zero."""
    rows: list[tuple[float, float, int]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            for wanted in (time_column, value_column):
                if wanted not in columns:
                    raise UsageError(
                        f"{path}: no column {wanted!r}; there are {', '.join(map(repr, columns)) or 'none'}"
                    )
            last = -math.inf
            for number, row in enumerate(reader, 1):
                if number > CSV_ROWS_MAX:
                    raise UsageError(f"{path}: more than {CSV_ROWS_MAX} rows; cut the file")
                at = _csv_time(path, reader.line_num, row[time_column])
                value = _csv_value(path, reader.line_num, value_column, row[value_column])
                if at < last:
                    raise UsageError(
                        f"{path}:{reader.line_num}: {row[time_column]} lies before the row above it; sort the file"
                    )
                last = at
                if value:
                    rows.append((at, value, number))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV: {error}") from None
    if len(rows) < 2:
        raise UsageError(f"{path}: {len(rows)} rows with a value over zero; a change needs two")
    return rows


def _csv_time(path: Path, line: int, text: str | None) -> float:
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        raise UsageError(f"{path}:{line}: {text!r} is not a time; write one such as 2011-07-01 00:00:01") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _csv_value(path: Path, line: int, column: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise UsageError(f"{path}:{line}: {column} {text!r} is not a number") from None
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"{path}:{line}: {column} {text!r} is not a cost; it must be finite and not negative")
    return value
