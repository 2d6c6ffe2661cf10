"""The points behind the live page: what counters and gauges of several processes come to, as the dashboards have it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from hitl_stream.console import live as live_module
from hitl_stream.console.live import POINTS_MAX, RATE_MS, SERIES_MAX, Live, Sampler
from hitl_stream.core.vigilance import Level
from hitl_stream.metrics import LaneMetrics, Metrics, MonitorMetrics
from hitl_stream.roles.monitor_state import Figures
from support.console import run

STEP_MS = 2_000
AWAY = ConnectionRefusedError("nobody listens there")


def looked(*looks: str | Exception, live: Live | None = None, step_ms: int = STEP_MS) -> Live:
    """Return what one process's answers, a step apart, come to."""
    found = live or Live(["http://router-1:9464/metrics"])
    for number, text in enumerate(looks):
        found.take(number * step_ms, [text])
    return found


def decided(*, by: str = "EXECUTE", count: float, class_: str = "bid.adjust") -> str:
    return f'hitl_actions_total{{class="{class_}",outcome="{by}"}} {count}\n'


def judged(count: float, verdict: str = "approve", effect: str = "applied", queue: str = "trading") -> str:
    return f'hitl_verdicts_total{{queue="{queue}",verdict="{verdict}",effect="{effect}"}} {count}\n'


def test_a_rate_is_by_how_much_a_counter_grew_over_ten_seconds():
    told = looked(*(decided(count=100 + 4 * n) for n in range(8))).told()

    assert told["at"] == [n * STEP_MS for n in range(8)]
    assert told["routes"] == {"EXECUTE": [None, *[2.0] * 7]}


def test_a_rate_is_told_by_route_over_all_classes():
    looks = [
        decided(count=n, class_="bid.adjust") + decided(count=3 * n, class_="budget") + decided(by="HOLD", count=n)
        for n in (0, 10)
    ]

    assert looked(*looks).told()["routes"] == {"EXECUTE": [None, 20.0], "HOLD": [None, 5.0]}


@pytest.mark.parametrize(
    ("looks", "rates"),
    [
        ([decided(count=10), decided(count=4)], [None, 2.0]),
        (["", decided(count=6)], [None, 3.0]),
        ([decided(count=10), AWAY, decided(count=18)], [None, None, 2.0]),
        ([AWAY, decided(count=10_000), decided(count=10_002)], [None, None, 1.0]),
    ],
    ids=["it fell: a new process", "a new series", "a gap", "the first look is where it begins"],
)
def test_a_counter_is_added_up_over_restarts_and_gaps(looks: list[str | Exception], rates: list[float | None]):
    assert looked(*looks).told()["routes"]["EXECUTE"] == rates


def test_after_a_gap_longer_than_the_window_of_a_rate_nobody_knows_it():
    away = RATE_MS // STEP_MS
    told = looked(decided(count=0), *[AWAY] * away, decided(count=100)).told()

    assert told["routes"]["EXECUTE"] == [None] * (away + 2)


def test_two_processes_are_added_and_one_that_is_away_does_not_hide_the_other():
    found = Live(["http://a:1/metrics", "http://b:2/metrics"])
    found.take(0, [decided(count=0), decided(count=0)])
    found.take(STEP_MS, [decided(count=2), decided(count=6)])
    found.take(2 * STEP_MS, [decided(count=4), AWAY])

    assert found.told()["routes"]["EXECUTE"] == [None, 4.0, 2.5]
    assert [(one.name, one.trouble) for one in found.targets] == [("a:1", ""), ("b:2", "nobody listens there")]


def test_the_share_of_approvals_is_of_what_counted_within_five_minutes():
    before = judged(10) + judged(90, "reject")
    after = judged(13) + judged(91, "reject") + judged(50, "reject", "conflict") + judged(7, effect="refused")
    found = looked(before, after)
    assert found.told()["approved"] == [None, 0.75]

    found.take(STEP_MS + live_module.RATIO_MS, [after])
    assert found.told()["approved"][-1] is None  # nobody judged lately


def test_gauges_are_the_sum_of_open_items_and_the_longest_wait():
    text = (
        'hitl_queue_items{queue="trading"} 3\nhitl_queue_oldest_seconds{queue="trading"} 12.5\n'
        'hitl_lag_seconds{role="router",partition="0"} 0.4\nhitl_lag_seconds{role="router",partition="1"} 1.75\n'
    )
    found = Live(["http://a:1/metrics", "http://b:2/metrics"])
    found.take(0, [text, 'hitl_queue_items{queue="trading"} 4\nhitl_queue_oldest_seconds{queue="trading"} 2\n'])
    told = found.told()

    assert (told["open"], told["oldest"], told["lag"]) == ({"trading": [7.0]}, {"trading": [12.5]}, {"router": [1.75]})


def watching(queue: str = "trading", *, level: int = 0, pages: int = 0, **shares: float) -> str:
    """Return what a monitor shows of a queue."""
    said = [f'hitl_queue_vigilance_level{{queue="{queue}"}} {level}', f'hitl_queue_reviewers{{queue="{queue}"}} 3']
    said += [f'hitl_queue_{name}_ratio{{queue="{queue}"}} {share}' for name, share in shares.items()]
    said += [f'hitl_pages_total{{queue="{queue}",page="rubber_stamp"}} {pages}'] if pages else []
    return "\n".join(said) + "\n"


def test_what_a_monitor_says_of_queues_is_told_as_it_is_now():
    first, second = watching(level=1, hurried=0.5), watching(level=1, pages=2, hurried=0.75, canary_hit=0.2)
    told = looked(first, second + watching("brand")).told()

    (brand, trading) = told["watched"]
    assert trading == {
        "queue": "trading", "level": 1, "reviewers": 3, "rubber_stamp": 2, "reviewer_unreliable": 0,
        "caught": 0.2, "hurried": 0.75, "approved": None,
    }  # fmt: skip
    assert (brand["queue"], brand["level"], brand["caught"]) == ("brand", 0, None)


def test_two_monitors_that_say_the_same_of_a_queue_say_it_once_and_their_alarms_add_up():
    found = Live(["http://a:1/metrics", "http://b:2/metrics"])
    found.take(0, [watching(level=1, pages=1), watching(level=2, pages=1)])

    (row,) = found.told()["watched"]
    assert (row["level"], row["reviewers"], row["rubber_stamp"]) == (2, 3, 2)


def test_without_a_monitor_nothing_is_said_of_who_looks():
    assert looked(decided(count=1)).told()["watched"] == []
    assert looked(watching(), AWAY).told()["watched"] == []


def test_what_the_monitor_really_shows_is_read_and_names_nobody():
    from prometheus_client.exposition import generate_latest

    monitor = MonitorMetrics(Metrics())
    monitor.queues({"trading": Figures(level=Level.WATCHED, reviewers=2, hit_rate=0.5, hurried=0.25, approved=1.0)})
    monitor.paged("trading", "rubber_stamp")
    (row,) = looked(generate_latest(monitor.metrics.registry).decode()).told()["watched"]

    assert row == {
        "queue": "trading", "level": 1, "reviewers": 2, "rubber_stamp": 1, "reviewer_unreliable": 0,
        "caught": 0.5, "hurried": 0.25, "approved": 1.0,
    }  # fmt: skip


def test_only_what_is_newer_than_a_time_is_told_and_rates_still_know_what_was_before():
    found = looked(*(decided(count=2 * n) for n in range(5)))

    assert found.told(2 * STEP_MS)["at"] == [3 * STEP_MS, 4 * STEP_MS]
    assert found.told(2 * STEP_MS)["routes"] == {"EXECUTE": [1.0, 1.0]}
    assert found.told(9 * STEP_MS)["at"] == []


def test_what_is_kept_is_bounded_in_points_and_series():
    many = "".join(f'hitl_queue_items{{queue="q{n}"}} 1\n' for n in range(SERIES_MAX + 50))
    found = looked(many)
    assert len(found.told()["open"]) == SERIES_MAX + 1
    assert found.told()["open"]["other"] == [50.0]

    for number in range(1, POINTS_MAX + 20):
        found.take(number * STEP_MS, [""])
    assert len(found.told()["at"]) == POINTS_MAX


@pytest.mark.parametrize(
    "text",
    ["hitl_actions_total{outcome=", "hitl_actions_total nonsense", 'hitl_queue_items{queue="t"} \x00', "<html>"],
)
def test_what_is_no_metrics_breaks_nothing(text: str):
    found = looked(decided(count=1), text, decided(count=3))

    assert found.told()["routes"]["EXECUTE"][-1] == 0.5


def test_a_number_that_is_none_is_passed_over():
    assert looked('hitl_lag_seconds{role="router",partition="0"} NaN\n').told()["lag"] == {}


def test_how_much_was_held_back_is_what_grew_in_all_that_is_kept():
    assert Live().grown("routes", "HOLD") is None
    assert looked(decided(by="HOLD", count=5), decided(by="HOLD", count=12)).grown("routes", "HOLD") == 7


# --- over http --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(answer: web.Response) -> AsyncIterator[str]:
    """Answer every request with that, and give the URL."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)

    app = web.Application()
    app.router.add_get("/metrics", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    finally:
        await runner.cleanup()


class Looked(Live):
    """Says when a look was taken in."""

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__(urls)
        self.done = asyncio.Event()

    def take(self, at_ms: int, found: Sequence[str | Exception]) -> None:
        super().take(at_ms, found)
        self.done.set()


async def one_look(url: str) -> Live:
    """Return what the first look at a URL finds."""
    found = Looked([url])
    sampler = Sampler(found, [url], lambda: 0)
    await sampler.start()
    await found.done.wait()
    await sampler.stop()
    return found


@pytest.mark.parametrize(
    ("body", "status", "headers", "trouble"),
    [
        ("hitl_queue_items{queue='t'} 1", 200, {}, "labels"),
        ("gone", 404, {}, "answered 404, expected 200"),
        ("", 302, {"Location": "http://127.0.0.1:1/metrics"}, "answered 302"),
        ("x" * 200, 200, {}, "answered more than 100 bytes"),
    ],
    ids=["nonsense", "no such page", "it sends us elsewhere", "too much"],
)
def test_what_a_process_answers_wrongly_is_said(
    monkeypatch: pytest.MonkeyPatch, body: str, status: int, headers: dict[str, str], trouble: str
):
    monkeypatch.setattr(live_module, "BYTES_MAX", 100)

    async def scenario() -> None:
        async with serving(web.Response(text=body, status=status, headers=headers)) as url:
            found = await one_look(url)
            (target,) = found.targets
            assert trouble in target.trouble
            assert found.points[0].values is None

    run(scenario())


def test_the_metrics_that_a_role_really_shows_are_read():
    from prometheus_client.exposition import generate_latest

    metrics = Metrics()
    lane = LaneMetrics("router", metrics)
    lane.lagged(3, 10, 1.25)
    metrics.actions.labels("bid.adjust", "EXECUTE").inc(5)

    async def scenario() -> None:
        async with serving(web.Response(body=generate_latest(metrics.registry))) as url:
            found = await one_look(url)
            assert found.targets[0].trouble == ""
            assert found.told()["lag"] == {"router": [1.25]}
            assert "EXECUTE" in found.told()["routes"]

    run(scenario())
