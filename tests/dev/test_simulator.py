"""The simulated agents do what the tables of the module say, and the same each time."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest

from hitl_stream.client import Placed
from hitl_stream.core.action import Action, Change, Value, entity_of
from hitl_stream.core.errors import UsageError
from hitl_stream.core.quantity import as_decimal, exceeds, measure, unbalanced
from hitl_stream.dev import simulator
from hitl_stream.dev.drive import Sent, Source, Summary, drive
from hitl_stream.dev.replay import from_csv
from hitl_stream.dev.simulator import SCENARIOS, SHARES, Scenario, Simulation
from hitl_stream.wire.codec import Decoded, Undecodable, decode_bytes
from hitl_stream.wire.home import home_of
from hitl_stream.wire.policy_file import lint_file, parse

START_MS = 1_795_000_000_000
PARTITIONS = 12


@cache
def stream(scenario: Scenario = "normal", seed: int = 1) -> tuple[Sent, ...]:
    return tuple(Simulation(seed, scenario, 1_000, START_MS, seconds=20, partitions=PARTITIONS))


def of(*kinds: str, scenario: Scenario = "normal") -> list[Sent]:
    return [sent for sent in stream(scenario) if sent.kind in kinds]


@cache
def decoded(sent: Sent) -> Action:
    found = decode_bytes(sent.value)
    assert isinstance(found, Decoded), (sent, found)
    return found.action


def without_times_and_ids(value: bytes) -> bytes:
    return re.sub(rb"\d{4}-\d\d-\d\dT[\d:.]+Z|sim-1-[0-9a-f]+-", b"", value)


# --- determinism ---


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_seed_gives_the_same_stream(scenario: Scenario) -> None:
    again = [next(it) for it in [Simulation(1, scenario, 1_000, START_MS, seconds=20)] for _ in range(5_000)]

    assert again == list(stream(scenario)[:5_000])


def test_another_start_changes_only_ids_and_times() -> None:
    later = list(Simulation(1, "normal", 1_000, START_MS + 86_400_000, seconds=20))

    for one, two in zip(stream(), later, strict=True):
        assert without_times_and_ids(one.value) == without_times_and_ids(two.value)
        assert (one.due_ms, one.key, one.partition, one.kind) == (two.due_ms, two.key, two.partition, two.kind)


def test_another_seed_gives_another_stream() -> None:
    assert [sent.kind for sent in stream()] != [sent.kind for sent in stream(seed=2)]


def test_how_the_stream_is_cut_changes_only_its_stamps() -> None:
    whole = Simulation(1, "flood", 500, START_MS, seconds=12)
    cut = Simulation(1, "flood", 500, START_MS, seconds=12)
    pieces = [sent for due in range(0, 12_001, 7) for sent in cut.until(due, START_MS + due, 1_000_000)]

    assert cut.done
    assert [without_times_and_ids(sent.value) for sent in pieces] == [
        without_times_and_ids(sent.value) for sent in whole
    ]


def test_a_limit_leaves_the_rest_for_the_next_time_and_stamps_are_those_of_sending() -> None:
    source = Simulation(1, "normal", 1_000, START_MS, seconds=1)

    assert [len(source.until(99.5, START_MS + 5_000, 60)) for _ in range(3)] == [60, 40, 0]
    assert b'"proposed_at":"2026-11-18T11:06:47.000Z"' in source.until(100, START_MS + 7_000, 1)[0].value


# --- well-formed, at home, in its share ---


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_everything_but_the_malformed_is_an_action(scenario: Scenario) -> None:
    for sent in stream(scenario):
        assert isinstance(decode_bytes(sent.value), Undecodable if sent.kind == "malformed" else Decoded), sent


def test_the_malformed_are_so_in_three_ways() -> None:
    many = Simulation(1, "demo", 1_000, START_MS, seconds=60)
    found = [decode_bytes(sent.value) for sent in many if sent.kind == "malformed"]
    reasons = [record.why for record in found if isinstance(record, Undecodable)]

    assert len(reasons) == len(found)
    for part in ("truncated", "malformed", "confidence"):
        assert any(part in reason for reason in reasons), part


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_everything_is_at_home_but_what_shall_not_be(scenario: Scenario) -> None:
    for sent in stream(scenario):
        if sent.kind == "null-key":
            assert (sent.key, sent.partition) == (None, None)
        elif sent.kind != "malformed":
            action = decoded(sent)
            entity = entity_of(action)
            at_home = home_of(action, action.tenant, entity, PARTITIONS) == sent.partition
            assert at_home == (sent.kind != "wrong-partition"), sent


def test_shares_are_near_what_the_table_says() -> None:
    counts = Counter(sent.kind for sent in stream())
    total = len(stream())

    for kind, share in SHARES.items():
        sigma = (share * (1 - share) / total) ** 0.5
        assert counts[kind] / total == pytest.approx(share, abs=5 * sigma), kind
    assert set(counts) == {*SHARES, "bid.adjust", "bid.large", "bid.hugger"}


def test_thirty_bidders_bid_equally_often() -> None:
    agents = Counter(decoded(sent).agent.id for sent in of("bid.adjust", "bid.large", "bid.hugger"))

    assert len(agents) == simulator.BIDDERS
    assert min(agents.values()) > 0.8 * max(agents.values())


def test_tenants_have_their_share_of_accounts() -> None:
    tenants = Counter(decoded(sent).tenant for sent in of("bid.adjust"))

    for tenant, share in simulator.TENANTS.items():
        assert tenants[tenant] / tenants.total() == pytest.approx(share / 100, abs=0.02), tenant


# --- bids ---


def sides(change: Change) -> tuple[Decimal, Decimal]:
    """Read `before` and `after` exactly as they were written."""
    return as_decimal(change.before, "before"), as_decimal(change.after, "after")


def ratio_of(change: Change) -> Decimal:
    before, after = sides(change)
    return (after - before) / abs(before)


def ratios(sents: Iterable[Sent]) -> list[Decimal]:
    return [ratio_of(decoded(sent).changes[0]) for sent in sents]


def over_the_limit(sent: Sent) -> bool:
    """Ask the router's own comparison."""
    change = decoded(sent).changes[0]
    return exceeds(change, measure(change), Decimal("0.20"), 0.20)


def test_most_bids_are_small_and_large_ones_are_over_the_limit() -> None:
    small = ratios(of("bid.adjust"))
    sigma = float(sum(ratio**2 for ratio in small) / len(small)) ** 0.5

    assert sigma == pytest.approx(simulator.BID_SIGMA, abs=0.01)
    assert len(of("bid.large")) / len(of("bid.adjust")) == pytest.approx(simulator.BID_LARGE, abs=0.005)
    assert all(over_the_limit(sent) for sent in of("bid.large"))
    assert all(abs(ratio) > Decimal("0.20") for ratio in ratios(of("bid.large")))


def test_the_hugger_always_raises_by_just_less_than_the_limit() -> None:
    for sent in of("bid.hugger"):
        assert decoded(sent).agent.id == f"bidder-{simulator.HUGGER}"
        assert Decimal("0.949") <= ratio_of(decoded(sent).changes[0]) / Decimal("0.20") <= 1
        assert not over_the_limit(sent)
    assert f"bidder-{simulator.HUGGER}" not in {
        decoded(sent).agent.id
        for sent in stream()
        if sent.kind not in ("bid.hugger", "duplicate", "conflict", "malformed")
    }


def test_a_bid_starts_where_the_last_small_one_ended() -> None:
    """The executor calls nothing where `before` is not what the platform has."""
    at: dict[tuple[str | None, str | None], Value | None] = {}
    for sent in Simulation(3, "normal", 100, START_MS, seconds=120):
        if sent.kind not in ("bid.adjust", "bid.hugger", "bid.large", "null-key", "wrong-partition"):
            continue
        change = decoded(sent).changes[0]
        where = (change.entity.account, change.entity.campaign)
        assert at.get(where) in (None, change.before), sent
        at[where] = change.before if sent.kind == "bid.large" else change.after


def test_no_campaign_is_visited_so_often_that_small_bids_break_a_sum() -> None:
    due: dict[bytes | None, list[int]] = {}
    for sent in Simulation(1, "flood", 200, START_MS, seconds=60):
        if sent.kind in ("bid.adjust", "bid.hugger", "bid.large"):
            due.setdefault(sent.key, []).append(sent.due_ms)

    gaps = [late - early for times in due.values() for early, late in pairwise(times)]
    assert min(gaps, default=simulator.REVISIT_SECONDS * 1_000) >= simulator.REVISIT_SECONDS * 1_000 * 0.9


# --- the others ---


def test_moves_sum_to_zero_and_some_are_the_28_percent_case() -> None:
    moves = [decoded(sent) for sent in of("budget.reallocate", "missing-evidence", "two-accounts")]
    largest = [max(abs(ratio_of(change)) for change in move.changes) for move in moves]

    for move in moves:
        assert sum(after - before for before, after in map(sides, move.changes)) == 0
        assert unbalanced(move) is None
    assert sum(0.275 <= ratio <= 0.2801 for ratio in largest) / len(moves) == pytest.approx(
        simulator.MOVE_LARGE, abs=0.02
    )
    assert sum(ratio <= 0.10 for ratio in largest) / len(moves) == pytest.approx(1 - simulator.MOVE_LARGE, abs=0.02)


def test_odd_ones_are_odd_in_just_one_way() -> None:
    assert {decoded(sent).type for sent in of("unknown-type")} == {"price.negotiate"}
    assert all(not decoded(sent).evidence for sent in of("missing-evidence"))
    assert all(decoded(sent).flags for sent in of("flagged"))
    assert all(len({change.entity.account for change in decoded(sent).changes}) == 2 for sent in of("two-accounts"))
    assert all(
        (decoded(sent).proposed_at.timestamp() * 1_000) < START_MS + sent.due_ms - 3_600_000 for sent in of("late")
    )


def test_duplicates_repeat_bytes_and_conflicts_only_ids() -> None:
    seen: dict[tuple[str, str], bytes] = {}
    for sent in stream():
        if sent.kind == "malformed":
            continue
        action = decoded(sent)
        name = (action.tenant, action.action_id)
        if sent.kind == "duplicate":
            assert seen[name] == sent.value
        elif sent.kind == "conflict":
            assert seen[name] != sent.value
        else:
            assert name not in seen
            seen[name] = sent.value


def test_captions_break_length_voice_and_claims_now_and_then() -> None:
    many = Simulation(1, "normal", 5_000, START_MS, seconds=20)
    posts = [decoded(sent).content for sent in many if sent.kind == "post.publish"]
    texts = [(post.text or "", post.platform or "") for post in posts if post is not None]

    assert {platform for _, platform in texts} == set(simulator.PLATFORMS)
    assert 0 < sum(len(text) > simulator.PLATFORMS[platform] for text, platform in texts) < 0.2 * len(texts)
    assert 0 < sum(bool(re.search("n['’]t\\b", text)) for text, _ in texts) < 0.2 * len(texts)
    assert 0 < sum("linically proven" in text for text, _ in texts) < 0.2 * len(texts)


def test_first_lines_are_100_to_140_characters_and_about_a_quarter_are_too_long() -> None:
    lines = [len(content.text or "") for sent in of("firstline.send") if (content := decoded(sent).content)]

    assert 100 <= min(lines) <= max(lines) <= 140
    assert sum(length >= 120 for length in lines) / len(lines) == pytest.approx(simulator.LINE_LONG, abs=0.1)


def test_lots_are_complete_and_stay_in_one_account() -> None:
    lots: dict[str, list[Action]] = {}
    for sent in Simulation(1, "normal", 2_000, START_MS, seconds=60):
        if sent.kind in ("post.publish", "creative.batch"):
            action = decoded(sent)
            assert action.batch is not None
            lots.setdefault(action.batch.id, []).append(action)

    closed = [lot for lot in lots.values() if lot[0].batch and len(lot) == lot[0].batch.size]
    assert len(closed) >= len(lots) - 2
    for lot in lots.values():
        assert [item.batch.index for item in lot if item.batch] == list(range(len(lot)))
        assert len({(item.tenant, item.entity and item.entity.account, item.type) for item in lot}) == 1


# --- scenarios ---


def test_the_scenarios_are_those_of_the_type() -> None:
    assert get_args(Scenario) == SCENARIOS


def test_the_runaway_raises_every_bid_on_five_campaigns_twenty_times_as_often() -> None:
    runaway = of("bid.runaway", scenario="runaway-agent")
    usual = len([sent for sent in of("bid.adjust", "bid.large") if decoded(sent).agent.id == "bidder-7"]) / 20

    assert min(sent.due_ms for sent in runaway) >= 5_000
    assert len(runaway) / 15 == pytest.approx(20 * usual, rel=0.1)
    assert len({sent.key for sent in runaway}) == simulator.RUNAWAY_CAMPAIGNS
    assert all(Decimal("0.149") < ratio <= Decimal("0.15") for ratio in ratios(runaway))
    assert {decoded(sent).agent.id for sent in runaway} == {"bidder-7"}
    others = {decoded(sent).agent.id for sent in of("bid.adjust", scenario="runaway-agent") if sent.due_ms > 5_000}
    assert "bidder-7" not in others


def test_a_flood_bursts_tenfold_and_one_tenant_sends_a_hundred_times_its_share() -> None:
    flood = stream("flood")
    by_second = Counter(sent.due_ms // 1_000 for sent in flood)

    assert by_second[9] / by_second[8] > 5
    assert by_second[2] == 1_000
    umbra = [sent.due_ms for sent in flood if b'"tenant":"umbra"' in sent.value]
    before, after = sum(2_000 <= due < 4_000 for due in umbra), sum(6_000 <= due < 8_000 for due in umbra)
    assert 50 < after / before < 200


@pytest.mark.parametrize(
    "wrong", [{"scenario": "calm"}, {"rate": 0}, {"rate": float("nan")}, {"seconds": -1}, {"partitions": 0}]
)
def test_what_cannot_be_simulated_is_a_usage_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Simulation(**wrong)


# --- the demo's policy ---


def test_the_demo_policy_has_a_class_for_all_that_is_sent_but_the_unknown() -> None:
    text = files("hitl_stream.dev").joinpath("policies/demo.yaml").read_text()
    loaded = parse(text, "demo.yaml")
    types = {decoded(sent).type for sent in stream() if sent.kind != "malformed"}

    assert types - {"price.negotiate"} == set(loaded.policy.classes)
    assert [problem for problem in lint_file(loaded) if problem.severity == "error"] == []
    assert set(simulator.FLAGS) <= set(loaded.policy.exceptions)


# --- a real metric ---


def write(path: Path, *rows: str, header: str = "timestamp,value") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_spike_in_the_metric_becomes_a_large_change(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", "2011-07-01 00:00:01,0.10", "2011-07-01 01:00:01,0.10", "2011-07-01 02:00:01,0.40")
    quiet, spike = from_csv(path, start_ms=START_MS)

    assert [sent.due_ms for sent in (quiet, spike)] == [1_000, 2_000]
    assert ratios([quiet, spike]) == [0, Decimal("-0.5")]
    evidence = decoded(spike).evidence[0]
    assert as_decimal(evidence.before, "before") == Decimal("0.10")
    assert as_decimal(evidence.value, "value") == Decimal("0.40")
    assert evidence.ref == "row 3"


def test_a_bid_starts_where_the_last_one_ended_even_over_an_empty_hour(tmp_path: Path) -> None:
    values = ["0.1", "0.3", "0", "0.2", "0.1"]
    path = write(tmp_path / "c.csv", *(f"2011-07-01T0{n}:00:00Z,{value}" for n, value in enumerate(values)))
    bids = [sides(decoded(sent).changes[0]) for sent in from_csv(path)]

    assert [before for before, _ in bids[1:]] == [after for _, after in bids[:-1]]
    assert bids[-1][1] == bids[0][0] == Decimal(1)
    assert len(from_csv(path)) == 3


@pytest.mark.parametrize("wrong", [{"speed": 0}, {"rate": -1}, {"rate": float("inf")}, {"partitions": 0}])
def test_what_cannot_be_replayed_is_a_usage_error(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = write(tmp_path / "c.csv", "2011-07-01,1", "2012-07-01,1")

    with pytest.raises(UsageError, match=f"{next(iter(wrong))} must be over zero"):
        from_csv(path, **wrong)


def test_a_rate_takes_the_place_of_the_files_times(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", "2011-07-01,1", "2012-07-01,1", "2013-07-01,1")

    assert [sent.due_ms for sent in from_csv(path, rate=10)] == [100, 200]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["2011-07-01,1"], "time,value", "no column 'timestamp'; there are 'time', 'value'"),
        (["2011-07-01,1"], "timestamp,cost", "no column 'value'; there are 'timestamp', 'cost'"),
        (["2011-07-01,1", "2011-07-02,n/a"], "timestamp,value", ":3: value 'n/a' is not a number"),
        (["2011-07-01,1", "2011-07-02"], "timestamp,value", ":3: value None is not a number"),
        (["2011-07-01,1", "2011-07-02,-1"], "timestamp,value", ":3: value '-1' is not a cost"),
        (["2011-07-01,1", "2011-07-02,nan"], "timestamp,value", ":3: value 'nan' is not a cost"),
        (["yesterday,1"], "timestamp,value", ":2: 'yesterday' is not a time"),
        (["2011-07-02,1", "2011-07-01,1"], "timestamp,value", ":3: 2011-07-01 lies before the row above it"),
        (["2011-07-01,1"], "timestamp,value", "1 rows with a value over zero; a change needs two"),
    ],
)
def test_a_file_that_cannot_be_replayed_says_where_and_why(
    tmp_path: Path, rows: list[str], header: str, message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        from_csv(write(tmp_path / "c.csv", *rows, header=header))


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        from_csv(tmp_path / "none.csv")


# --- pacing ---


class FakeSink:
    """Four partitions; each delivery takes `takes` seconds of the fake clock."""

    partitions = 4

    def __init__(self, time: FakeTime, takes: float = 0.0) -> None:
        self.records: list[Placed] = []
        self.at: list[float] = []
        self.time = time
        self.takes = takes

    async def publish(self, records: Iterable[Placed]) -> int:
        mine = list(records)
        self.records += mine
        self.at += [self.time.now] * len(mine)
        self.time.now += self.takes
        return len(mine)


class FakeTime:
    def __init__(self) -> None:
        self.now = 50.0

    def clock(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return START_MS + round((self.now - 50.0) * 1_000)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def driven(source: Source, takes: float = 0.0, **options: Any) -> tuple[FakeSink, Summary]:
    time = FakeTime()
    sink = FakeSink(time, takes)
    run = drive(source, sink, clock=time.clock, now_ms=time.now_ms, sleep=time.sleep, **options)
    return sink, asyncio.run(run)


@pytest.mark.parametrize("takes", [0.0, 0.03])
def test_the_rate_holds_within_two_percent_also_where_deliveries_take_time(takes: float) -> None:
    source = Simulation(1, "normal", 5_000, START_MS, seconds=4, partitions=4)
    sink, summary = driven(source, takes)

    assert summary.rate == pytest.approx(5_000, rel=0.02)
    assert summary.sent == sum(summary.by_kind.values()) == len(sink.records) == 20_000
    assert {record.partition for record in sink.records} == {0, 1, 2, 3}


def test_an_action_is_stamped_when_it_is_sent_even_far_behind_schedule() -> None:
    source = Simulation(1, "normal", 100, START_MS, seconds=4, partitions=4)
    sink, summary = driven(source, takes=1.0)

    assert summary.behind_ms_max > 500
    for record, at in zip(sink.records, sink.at, strict=True):
        if b"sim-" in record.value and isinstance(found := decode_bytes(record.value), Decoded):
            stamp = found.action.proposed_at.timestamp() * 1_000 - START_MS
            late = (at - 50.0) * 1_000 - stamp
            assert -1 <= late <= 1_100 or late >= simulator.LATE_MS, record


def test_cancelling_stops_between_two_ticks_and_reports_a_last_time() -> None:
    time = FakeTime()
    sink = FakeSink(time)
    seen: list[Summary] = []

    async def sleep(seconds: float) -> None:
        time.now += seconds
        if len(sink.records) >= 500:
            raise asyncio.CancelledError

    source = Simulation(1, "normal", 1_000, START_MS, seconds=60, partitions=4)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(drive(source, sink, clock=time.clock, now_ms=time.now_ms, sleep=sleep, on_progress=seen.append))
    assert seen[-1].sent == len(sink.records) < 600


def test_progress_is_told_once_a_second_and_at_the_end() -> None:
    seen: list[Summary] = []
    _, summary = driven(Simulation(1, "normal", 100, START_MS, seconds=3.5, partitions=4), on_progress=seen.append)

    assert len(seen) == 4
    assert seen[-1].by_kind == summary.by_kind


def test_a_metric_is_paced_like_a_scenario(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", *(f"2011-07-01T{n:02}:00:00Z,{n + 1}" for n in range(11)))
    sink, summary = driven(from_csv(path, start_ms=START_MS))

    assert summary.sent == 10
    assert summary.seconds == pytest.approx(10, abs=0.02)
    assert orjson.loads(sink.records[-1].value)["evidence"][0]["ref"] == "row 11"
