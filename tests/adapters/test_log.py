"""The adapter that only says what it would do."""

from __future__ import annotations

import asyncio
from typing import Any

from structlog.testing import capture_logs

from hitl_stream.adapters.log import CHANGES_SHOWN, LogAdapter
from hitl_stream.execute import Applied, NotApplied, Unknown
from hitl_stream.testing import check_adapter
from support.ads import LEASE_MS, StillClock, bid, key_of
from support.make import NOW_MS, change, make_action, post

SOON = NOW_MS + LEASE_MS


def said(*actions: Any, adapter: LogAdapter | None = None) -> list[Any]:
    """Return what is logged while these actions are carried out."""
    mine = adapter or LogAdapter(StillClock())

    async def run() -> None:
        for action in actions:
            await mine.apply(action, key_of(action), SOON, 812)

    with capture_logs() as lines:
        asyncio.run(run())
    return lines


def test_it_says_what_it_would_do():
    assert said(bid()) == [
        {
            "event": "would have been carried out",
            "log_level": "info",
            "action_id": "acme/act-1",
            "type": "bid.adjust",
            "destination": None,
            "changes": ["acc-17/cmp-204 bid: 1.20 → 1.30 EUR"],
            "changes_count": 1,
            "epoch": 812,
            "ref": "log-1",
        }
    ]


def test_a_key_that_comes_again_is_not_said_again():
    assert [line["action_id"] for line in said(bid(1), bid(1), bid(2), bid(1))] == ["acme/act-1", "acme/act-2"]


def test_texts_of_people_are_not_logged():
    text = change("Buy our shoes", "Buy our better shoes", field="headline", unit=None)
    (line,) = said(make_action(changes=[text]))
    (of_a_post,) = said(make_action(**post("A quiet day.")))

    assert line["changes"] == ["acc-17/cmp-204 headline: <13 characters> → <20 characters>"]
    assert "quiet" not in str(of_a_post)


def test_numbers_and_flags_are_logged_as_they_are():
    values = [(1.5, "2"), (None, True), ("-1e3", "x")]
    (line,) = said(make_action(changes=[change(before, after, unit=None) for before, after in values]))

    shown = [each.partition(": ")[2] for each in line["changes"]]
    assert shown == ["1.5 → 2", "– → True", "-1e3 → <1 characters>"]


def test_an_action_with_many_changes_makes_no_long_line():
    (line,) = said(make_action(changes=[change(campaign=f"c-{n}") for n in range(300)]))

    assert (len(line["changes"]), line["changes_count"]) == (CHANGES_SHOWN, 300)


def test_it_remembers_a_limited_number_of_keys():
    adapter = LogAdapter(StillClock(), keys_max=2)
    said(bid(1), bid(2), bid(3), adapter=adapter)

    found = [asyncio.run(adapter.read_back(bid(n), key_of(bid(n)))) for n in (1, 2, 3)]

    assert found == [NotApplied(), Applied("log-2"), Applied("log-3")]


def test_what_comes_after_its_time_is_not_done():
    adapter = LogAdapter(StillClock(SOON + 1))

    with capture_logs() as lines:
        answer = asyncio.run(adapter.apply(bid(), "k", SOON, 0))

    assert isinstance(answer, Unknown)
    assert lines == []


def test_nothing_is_read():
    assert asyncio.run(LogAdapter(StillClock()).present(bid(before="7").changes[0], bid())) == "7"


def test_it_keeps_the_contract_of_an_adapter():
    clock = StillClock()

    good = asyncio.run(check_adapter(LogAdapter(clock), bid(), reads=False, now_ms=clock))

    assert "the same key again changes nothing" in good
    assert "a call that is past its not_after_ms changes nothing" in good
