"""What completes a scope at the kill page: names from every record that is read, the newest first, and bounded."""

from __future__ import annotations

import pytest

from hitl_stream.console import seen as seen_module
from hitl_stream.console.seen import TOLD_MAX, Seen
from hitl_stream.core.events import Purpose
from support.make import FakeRecord, change
from support.view import closed, folded, gone, judged, result, review


def seen(*records: FakeRecord) -> Seen:
    found = Seen()
    found.take(folded(*records))
    return found


@pytest.mark.parametrize(
    "record", [review(), closed(), judged(), result()], ids=["review", "closed", "judged", "result"]
)
def test_every_kind_of_record_names_what_it_is_about(record: FakeRecord):
    assert seen(record).told(None) == {
        "campaign": ["cmp-204"], "account": ["acc-17"], "agent-version": ["bidder-7@1"], "agent": ["bidder-7"],
        "destination": [], "type": ["bid.adjust"], "tenant": ["acme"],
    }  # fmt: skip


def test_a_planted_item_names_what_any_other_does():
    planted = seen(review(purpose=Purpose.CANARY, changes=[change(campaign="cmp-9")]))

    assert planted.told(None)["campaign"] == ["cmp-9"]


def test_the_newest_comes_first_and_everything_of_a_basket_is_named():
    found = seen(
        review("i1", 0, changes=[change(campaign="cmp-1"), change(campaign="cmp-2")]),
        review("i2", 1, changes=[change(campaign="cmp-3")]),
        review("i3", 2, changes=[change(campaign="cmp-1")], destination="ads"),
    )

    assert found.told(None)["campaign"] == ["cmp-1", "cmp-3", "cmp-2"]
    assert found.told(None)["destination"] == ["ads"]


def test_nobody_is_told_names_of_another_tenant():
    found = seen(review("i1", 0), review("i2", 1, tenant="other", changes=[change(campaign="cmp-secret")]))

    assert found.told(("acme",))["campaign"] == ["cmp-204"]
    assert found.told(("acme",))["tenant"] == ["acme"]


def test_a_name_is_found_by_any_part_of_it_as_switches_compare_them():
    found = seen(review("i1", 0, changes=[change(campaign="Summer-CMP-77")]), review("i2", 1))

    assert found.told(None, "cmp-7")["campaign"] == ["Summer-CMP-77"]
    assert found.told(None, " CMP-7")["campaign"] == ["Summer-CMP-77"]
    assert found.told(None, "nowhere")["campaign"] == []


def test_it_keeps_and_tells_a_bounded_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seen_module, "SEEN_MAX", 40)
    found = seen(*(review(f"i{n}", n, changes=[change(campaign=f"cmp-{n}")]) for n in range(60)))

    assert found.told(None)["campaign"] == [f"cmp-{n}" for n in range(59, 59 - TOLD_MAX, -1)]
    assert len(found._seen) == 40


def test_what_names_nothing_is_passed_over():
    assert seen(gone("i1"), FakeRecord(b"no json", topic="hitl.closed")).told(None)["tenant"] == []
