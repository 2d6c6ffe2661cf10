"""A slot: one process per number, by a lock that ends with its holder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hitl_stream.core.errors import UsageError
from hitl_stream.lane.slot import SLOTS_MAX, take_slot

HOLD = """
import sys
from pathlib import Path
from hitl_stream.lane.slot import take_slot
slot = take_slot(Path(sys.argv[1]), "host", "router")
print(slot.number, flush=True)
sys.stdin.read()
"""


def hold(directory: Path) -> subprocess.Popen[str]:
    """Start a process that takes a slot and keeps it; return it once it says which."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    return process


def test_a_slot_names_the_instance_and_the_member(tmp_path: Path):
    slot = take_slot(tmp_path / "slots", "web 1.example", "router")

    assert (slot.instance, slot.member, slot.number) == ("web 1.example/router/0", "web-1.example-router-0", 0)
    slot.release()


def test_the_next_taker_gets_the_next_slot(tmp_path: Path):
    first, second = take_slot(tmp_path, "host", "router"), take_slot(tmp_path, "host", "router")

    assert (first.number, second.number) == (0, 1)
    first.release()
    third = take_slot(tmp_path, "host", "router")
    assert third.number == 0
    for slot in (second, third):
        slot.release()


def test_roles_have_slots_of_their_own(tmp_path: Path):
    router, desk = take_slot(tmp_path, "host", "router"), take_slot(tmp_path, "host", "desk")

    assert (router.number, desk.number) == (0, 0)
    router.release()
    desk.release()


def test_a_slot_of_another_process_is_passed_over_and_free_again_after_its_sigkill(tmp_path: Path):
    with hold(tmp_path) as holder:
        beside = take_slot(tmp_path, "host", "router")
        assert beside.number == 1
        holder.kill()
        holder.wait()
        after = take_slot(tmp_path, "host", "router", wanted=0)
        assert after.number == 0
    for slot in (beside, after):
        slot.release()


def test_a_wanted_slot_that_is_taken_is_refused_with_the_way_out(tmp_path: Path):
    slot = take_slot(tmp_path, "host", "router", wanted=3)
    with pytest.raises(UsageError, match=r"slot 3 is taken by running router processes on this host .*HITL_SLOT"):
        take_slot(tmp_path, "host", "router", wanted=3)
    slot.release()


def test_when_all_slots_are_taken_the_error_says_so(tmp_path: Path):
    slots = [take_slot(tmp_path, "host", "router") for _ in range(SLOTS_MAX)]
    with pytest.raises(UsageError, match=f"all {SLOTS_MAX} slots are taken"):
        take_slot(tmp_path, "host", "router")
    for slot in slots:
        slot.release()


def test_the_lock_file_names_the_process_that_holds_it(tmp_path: Path):
    with hold(tmp_path) as holder:
        assert (tmp_path / "router-0.lock").read_text() == f"{holder.pid}\n"
        holder.kill()
