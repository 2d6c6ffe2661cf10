"""Times in commands and actions, as whole milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.commands import milliseconds

ZONES = st.integers(-24 * 60 + 1, 24 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(timezones=ZONES))
def test_a_time_is_its_milliseconds_since_1970_cut_and_never_rounded(time: datetime) -> None:
    since = milliseconds(time)
    begin = datetime(1970, 1, 1, tzinfo=UTC)
    assert timedelta(milliseconds=since) <= time - begin < timedelta(milliseconds=since + 1)


def test_a_time_without_an_offset_is_none_that_can_be_compared() -> None:
    with pytest.raises(TypeError):
        milliseconds(datetime(2026, 1, 1))
