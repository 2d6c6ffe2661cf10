"""What an executor remembers: which ends and entities, for how long, and the same after a restore."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hitl_stream.core.gate import NOT_SENT_BACK, Past
from hitl_stream.core.parking import Keys
from hitl_stream.core.window import IdBudget
from hitl_stream.lane.calls import WINDOW, Settled
from hitl_stream.lane.step import Output
from hitl_stream.roles import executor_state
from hitl_stream.roles.executor_state import FORGOTTEN_MAX, KEEP_MS, SLOT_MS, End, ExecutorState, identity_of
from hitl_stream.wire.seal import SealKey

TOPIC, HELD = "executor.state", "held"
KEY = SealKey("e1", b"\x04" * 32)
NOW_MS = 1_795_245_000_000
CMP_1: Keys = frozenset({("acme", "acc", "cmp-1")})
CMP_2: Keys = frozenset({("acme", "acc", "cmp-2")})
WHOLE: Keys = frozenset({("acme", "acc", None)})
OTHER: Keys = frozenset({("acme", "other", "cmp-1")})


def make(budget: IdBudget | None = None) -> ExecutorState:
    return ExecutorState(TOPIC, HELD, KEY, {KEY.key_id: KEY}, budget or IdBudget())


def name(n: int) -> bytes:
    return identity_of("acme", "acc", f"act-{n}", "h")


def end(n: int, offset: int | None = None, keep_ms: int = NOW_MS + KEEP_MS, **parts: Any) -> End:
    return End(name(n), f"id-{n}", "executed", 0, n if offset is None else offset, keep_ms, **parts)


class Log:
    """Commits ends as a lane would, and keeps what is written to `executor.state`."""

    def __init__(self, state: ExecutorState) -> None:
        self.state = state
        self.written: list[Output] = []
        self.held = -1

    def commit(self, *ends: End, below: int = 0, now_ms: int = NOW_MS) -> Sequence[Output]:
        """Commit them; those sent back come to stand on `held`, one offset each."""
        self.held += sum(1 for one in ends if one.sent_back)
        written = {(HELD, 0): self.held} if any(one.sent_back for one in ends) else {}
        settled = Settled(ends, written, below, now_ms, 0)
        outputs = self.state.closing(settled)
        self.state.apply(settled)
        self.written += outputs
        return outputs

    def restored(self, compacted: bool = False) -> ExecutorState:
        """Return what somebody else makes of the log."""
        outputs: Iterable[Output] = self.written
        if compacted:
            last = {output.key: output for output in self.written}
            outputs = [output for output in self.written if last[output.key] is output]
        state = make()
        state.replay([record(output) for output in outputs])
        return state


def record(output: Output) -> Any:
    return SimpleNamespace(key=output.key, value=output.value, headers=output.headers, topic=TOPIC)


def past(state: ExecutorState, n: int, attempt: int = 0, keys: Keys = CMP_1) -> Past:
    return state.past(name(n), attempt, keys)


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
def test_an_end_is_an_end_for_every_attempt_also_after_a_restore(compacted: bool):
    log = Log(make())
    log.commit(end(1))

    for state in (log.state, log.restored(compacted)):
        assert [past(state, 1, attempt).done for attempt in (0, 1, 7)] == [True, True, True]
        assert not past(state, 2).done


@pytest.mark.parametrize("compacted", [False, True])
def test_what_was_sent_back_is_done_for_its_own_attempt_only_until_the_next_one_ends(compacted: bool):
    log = Log(make())
    log.commit(end(1, attempt=1, sent_back=CMP_1))

    for state in (log.state, log.restored(compacted)):
        assert [past(state, 1, attempt).done for attempt in (0, 1, 2)] == [True, True, False]
    log.commit(end(1, offset=9))
    for state in (log.state, log.restored(compacted)):
        assert past(state, 1, 2).done
        assert state.size() == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b", "c", "h"), ("a", "b/c", "", "h")),
        (("a", "bb", "c", "h"), ("ab", "b", "c", "h")),
        (("a", "b", "c", "h"), ("a", "b", "c", "i")),
        (("a", "b", "c", "h"), ("a", "c", "c", "h")),
    ],
)
def test_an_identity_is_that_of_one_action_only(one: tuple[str, ...], other: tuple[str, ...]):
    assert identity_of(*one) != identity_of(*other)  # type: ignore[call-arg]


def test_ends_above_the_committed_offset_are_known_by_their_offset_until_it_has_passed_them():
    log = Log(make())
    log.commit(end(5), end(7), below=5)

    for state in (log.state, log.restored()):
        assert [state.finished(offset) for offset in range(4, 9)] == [False, True, False, True, False]
    log.commit(end(6), below=8)
    assert not any(log.state.finished(offset) for offset in range(9))


def test_a_restore_of_a_long_log_keeps_every_offset_of_the_last_window():
    log = Log(make())
    for n in range(5 * WINDOW):
        log.commit(end(n), below=n + 1)
    newest = 5 * WINDOW - 1

    state = log.restored()

    assert all(state.finished(offset) for offset in range(newest - WINDOW + 1, newest + 1))


# --- forgetting -------------------------------------------------------------------------------------------------------


def test_an_end_is_forgotten_when_its_time_is_over_and_the_log_is_told():
    log = Log(make())
    long = NOW_MS + 10 * SLOT_MS
    log.commit(end(1, keep_ms=NOW_MS), end(2, keep_ms=long), below=3)
    assert all(output.value for output in log.commit(end(3, keep_ms=long), below=4))

    outputs = log.commit(end(4, keep_ms=long), below=5, now_ms=NOW_MS + 2 * SLOT_MS)

    nulls = [output for output in outputs if output.value is None]

    assert [output.key for output in nulls] == [name(1).hex().encode()]
    for state in (log.state, log.restored(), log.restored(compacted=True)):
        assert [past(state, n).done for n in (1, 2, 3, 4)] == [False, True, True, True]


def test_an_end_above_the_committed_offset_is_not_forgotten_however_late_it_is():
    """After a crash its record comes again."""
    log = Log(make())
    log.commit(end(5, keep_ms=0), below=3)

    log.commit(end(6), below=3, now_ms=NOW_MS + 10**9)

    assert past(log.state, 5).done
    log.commit(end(3), end(4), below=7, now_ms=NOW_MS + 10**9)
    log.commit(end(7), below=8, now_ms=NOW_MS + 10**9)
    assert not past(log.state, 5).done


def test_an_end_that_was_made_anew_counts_until_its_own_time_is_over():
    log = Log(make())
    log.commit(end(1, keep_ms=NOW_MS, attempt=0, sent_back=CMP_1), below=2)
    log.commit(end(1, offset=2, keep_ms=NOW_MS + 10 * SLOT_MS), below=3)

    log.commit(end(3), below=4, now_ms=NOW_MS + 3 * SLOT_MS)

    assert past(log.state, 1).done


def test_what_is_overdue_goes_with_a_commit_of_nothing():
    log = Log(make())
    log.commit(end(1, keep_ms=NOW_MS), below=2)
    later = NOW_MS + 2 * SLOT_MS
    assert [log.state.overdue(ms) for ms in (NOW_MS, later)] == [False, True]

    (null,) = log.commit(below=2, now_ms=later)

    assert (null.topic, null.partition, null.key, null.value) == (TOPIC, 0, name(1).hex().encode(), None)
    assert not log.state.overdue(later)
    log.commit(end(5, keep_ms=NOW_MS), below=3)
    assert not log.state.overdue(later), "what is needed above the committed offset is not overdue"


def test_one_commit_forgets_only_so_many():
    log = Log(make())
    log.commit(*[end(n, keep_ms=0) for n in range(2 * FORGOTTEN_MAX)], below=2 * FORGOTTEN_MAX)

    outputs = log.commit(end(9_999), below=10_000)

    assert len([output for output in outputs if output.value is None]) == FORGOTTEN_MAX


def test_room_is_that_of_the_process_and_is_given_back():
    budget = IdBudget(3)
    one, other = make(budget), make(budget)
    Log(one).commit(end(1), end(2))
    assert one.room()
    log = Log(other)
    log.commit(end(3, keep_ms=0), below=4)
    assert not one.room()
    assert not other.room()
    log.commit(end(3, offset=5, keep_ms=0), below=6)
    assert budget.used == 3, "the same action again takes no more room"
    one.discard()
    assert (budget.used, other.room()) == (1, True)


# --- what was sent back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
def test_the_newest_offset_counts_for_what_conflicts_with_an_entity(compacted: bool):
    log = Log(make())
    log.commit(end(1, attempt=0, sent_back=CMP_1))
    log.commit(end(2, attempt=0, sent_back=CMP_1 | CMP_2))
    log.commit(end(3, attempt=0, sent_back=CMP_2))

    for state in (log.state, log.restored(compacted)):
        found = [state.sent_back(keys) for keys in (CMP_1, CMP_2, CMP_1 | CMP_2, WHOLE, OTHER)]
        assert found == [1, 2, 2, 2, NOT_SENT_BACK]
    log.commit(end(4, attempt=0, sent_back=WHOLE))
    for state in (log.state, log.restored(compacted)):
        assert [state.sent_back(keys) for keys in (CMP_1, CMP_2, WHOLE, OTHER)] == [3, 3, 3, NOT_SENT_BACK]


def test_all_that_one_commit_sends_back_counts_with_its_highest_offset():
    log = Log(make())
    log.commit(end(1, attempt=0, sent_back=CMP_1), end(2, attempt=0, sent_back=OTHER))

    assert (log.state.sent_back(CMP_1), log.state.sent_back(OTHER)) == (1, 1)


def test_entities_that_are_forgotten_make_it_stricter_for_all(monkeypatch: pytest.MonkeyPatch):
    """Never looser: what is older than the newest offset forgotten goes back once more."""
    monkeypatch.setattr(executor_state, "ENTITIES_MAX", 2)
    log = Log(make())
    for n in range(4):
        log.commit(end(n, attempt=0, sent_back=frozenset({("acme", "acc", f"cmp-{n}")})))

    for state in (log.state, log.restored()):
        found = [state.sent_back(frozenset({("acme", "acc", f"cmp-{n}")})) for n in range(4)]
        assert found == [1, 1, 2, 3]
        assert state.sent_back(OTHER) == 1


# --- strangers --------------------------------------------------------------------------------------------------------


def test_what_is_not_sealed_by_an_executor_counts_for_nothing():
    stranger = ExecutorState(TOPIC, HELD, SealKey("e1", b"\x09" * 32), {}, IdBudget())
    log = Log(stranger)
    log.commit(end(1), end(2, attempt=0, sent_back=CMP_1))
    state = make()

    state.replay([record(output) for output in log.written])
    state.replay([SimpleNamespace(key=b"x", value=b"y", headers=()), SimpleNamespace(key=None, value=None, headers=())])

    assert (state.size(), state.sent_back(CMP_1)) == (0, NOT_SENT_BACK)


# --- law --------------------------------------------------------------------------------------------------------------

ENDS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from([None, 0, 1, 2]), st.sampled_from([CMP_1, CMP_2, WHOLE, OTHER])),
    max_size=12,
)


@given(st.lists(st.tuples(ENDS, st.integers(0, 5)), max_size=8))
@settings(max_examples=150, deadline=None)
@pytest.mark.behaviour("I13")
def test_a_restore_equals_what_it_restores(commits: Any):
    log, offset, now = Log(make()), 0, NOW_MS
    for ends, minutes in commits:
        now += minutes * SLOT_MS
        batch = []
        for n, attempt, keys in ends:
            sent = keys if attempt is not None else frozenset()
            batch.append(end(n, offset, now + 2 * SLOT_MS, attempt=attempt, sent_back=sent))
            offset += 1
        log.commit(*batch, below=offset, now_ms=now)

    for state in (log.restored(), log.restored(compacted=True)):
        for n in range(10):
            for attempt in range(4):
                assert past(state, n, attempt) == past(log.state, n, attempt)
        assert [state.sent_back(keys) for keys in (CMP_1, CMP_2, WHOLE, OTHER)] == [
            log.state.sent_back(keys) for keys in (CMP_1, CMP_2, WHOLE, OTHER)
        ]
        assert state.size() == log.state.size() == state.budget.used
