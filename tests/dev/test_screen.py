"""The demo's screen fits the terminal it is given, whatever was seen."""

from __future__ import annotations

import json
import re
from io import StringIO

import pytest
from msgspec import structs
from rich.console import Console

from hitl_stream.cli.dev import of_people
from hitl_stream.dev.guest import Guest
from hitl_stream.dev.people_tally import Alarm, Pace
from hitl_stream.dev.screen import Place, View, line, screen, summary
from hitl_stream.dev.stops import Stop
from hitl_stream.dev.tally import NOTICES_MAX, Notice, Numbers, Tally

OPENED, OPENED_MS = "2026-11-21T07:10:00.000Z", 1_795_245_000_000
PLACE = Place("noida", "127.0.0.1:20123", "hitl.actions", "http://127.0.0.1:9464/metrics", 4, "demo", 300.0, 60.0)


def view(classes: int = 11, notices: int = NOTICES_MAX) -> View:
    tally = Tally([f"class.number.{n}" for n in range(classes)])
    tally.arrived = 1_234_567
    tally.answers["class.number.0", "EXECUTE"] = 1_200_000
    tally.answers["class.number.1", "REVIEW"] = 34_000
    tally.example = "acme/sim-0-1a1fd970f51-45"
    for n in range(notices):
        tally.notices.append(Notice("budget.reallocate", "cmp-204→cmp-311", "ESCALATE", f"{n}: [bold]" + "long " * 40))
    return View(PLACE, tally, Numbers(300.4, 299.6, 12, 1_250), 65.2, "running")


def drawn(shown: View, width: int, height: int) -> list[str]:
    console = Console(file=StringIO(), width=width, height=height, force_terminal=False)
    with console.capture() as capture:
        console.print(screen(shown, width, height))
    return capture.get().rstrip("\n").split("\n")


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (110, 32), (200, 60), (100, 16)])
@pytest.mark.parametrize("classes", [2, 11, 40])
def test_it_fits(width: int, height: int, classes: int):
    lines = drawn(view(classes), width, height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def staffed(people: int = 3) -> View:
    """Return a moment at which people have decided something."""
    seen = view()
    seen.tally.people.words.update(approve=180, reject=30, change=12, escalate=4, release=1)
    seen.tally.people.effects.update(applied=210, waiting=17, refused=2)
    seen.tally.people.executed = 165
    for n in range(people):
        name, dwell_s = (f"lazy-{n}", 1.2) if n % 2 == 0 else (f"careful-{n}", 7.4)
        seen.tally.people.paces[name] = Pace(60 - n, (60 - n) * dwell_s, (60 - n) * 2.0)
    for n in range(14):
        item = {"item": f"i{n}", "state": "OPEN", "queue": "brand" if n == 13 else "trading", "opened": OPENED}
        seen.tally.people.take("reviews", f"i{n}".encode(), json.dumps(item).encode())
    return structs.replace(seen, place=structs.replace(PLACE, haste=4.0), now_ms=OPENED_MS + 75_000)


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (120, 40), (110, 32), (200, 60), (80, 16)])
@pytest.mark.parametrize("people", [0, 1, 3, 14])
def test_it_fits_with_people_too(width: int, height: int, people: int):
    lines = drawn(staffed(people), width, height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width


GUEST = Guest("http://localhost:65535/", f"http://localhost:65535/link#{'s' * 43}", OPENED_MS, "you", "p" * 16)


def visited(now_ms: int = OPENED_MS - 1) -> View:
    """Return a moment at which somebody may come to the console."""
    return structs.replace(staffed(), place=structs.replace(PLACE, guest=GUEST, haste=4.0), now_ms=now_ms)


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (120, 40), (80, 16)])
def test_it_fits_with_the_link_to_the_console_whole(width: int, height: int):
    lines = drawn(visited(), width, height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert [one.strip() for one in lines].count(GUEST.link) == 1
    assert any(one.startswith(f"in a browser, as you with password {GUEST.password}") for one in lines)


def test_a_link_that_is_over_is_shown_no_more():
    lines = drawn(visited(OPENED_MS), 80, 24)

    assert not any(GUEST.link in one for one in lines)
    assert any(one.startswith(f"{GUEST.url}   a link: hitl user link you") for one in lines)


def test_beside_robots_a_guest_is_named_among_those_who_decide():
    assert any(one.startswith("people decide (you, and robots 4 times as fast)") for one in drawn(visited(), 100, 30))
    at_ease = structs.replace(visited(), place=structs.replace(PLACE, guest=GUEST, haste=1.0))
    assert any(one.startswith("people decide (you, and robots)") for one in drawn(at_ease, 100, 30))
    alone = structs.replace(visited(), place=structs.replace(PLACE, guest=GUEST))
    assert any(one.startswith("what waits for you") for one in drawn(alone, 100, 30))


def test_a_small_terminal_shows_what_people_do_in_four_lines():
    seen = staffed()
    seen.tally.answers["class.number.0", "EXECUTE"] = 123_000
    lines = drawn(seen, 80, 24)

    at = lines.index(next(one for one in lines if one.startswith("people decide (robots here, 4 times as fast)")))
    assert lines[at + 1].split()[:13] == (
        ["decided", "approve", "180", "reject", "30", "change", "12", "escalate", "4", "release", "1", "ran", "165"]
    )
    assert lines[at + 2].split() == ["open", "14", "trading", "13", "01:15", "brand", "1", "01:15"]
    assert lines[at + 3].split()[:5] == ["canaries", "none", "judged", "yet", "nobody"]
    assert lines[at + 4].startswith("reviewers lazy-0 60 looks 1.2 s   careful-1 59 looks 7.4 s")
    assert "some that did not simply run" in lines[at + 5]
    assert not any("…" in one for one in lines[:3]), "nothing is cut in the head"
    head = next(one for one in lines if one.startswith("type of action"))
    assert head.split()[3:9] == ["EXECUTE", "REVIEW", "ESCALATE", "REFUSE", "RECOMMEND", "in"]


def test_a_large_one_gives_each_of_them_a_line():
    lines = drawn(staffed(), 120, 40)

    rows = [one.replace("reviewers", "").split() for one in lines if "/min" in one]
    assert rows[0] == ["lazy-0", "60", "55/min", "looks", "1.2", "s,", "reading", "takes", "2.0", "s"]
    assert [row[0] for row in rows] == ["lazy-0", "careful-1", "lazy-2"]


def test_the_looks_of_those_who_do_not_read_are_red():
    console = Console(file=StringIO(), width=120, height=40, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(screen(staffed(2), 120, 40))

    red = re.findall(r"\x1b\[31m([^\x1b]*)\x1b", capture.get())
    assert "looks 1.2 s" in red
    assert "looks 7.4 s" not in red


def asleep() -> View:
    """Return a moment at which one person is known to rubber-stamp."""
    seen = staffed(2)
    pace = seen.tally.people.paces["lazy-0"]
    pace.canaries, pace.caught = 5, 1
    seen.tally.people.names = {"p-1": "lazy-0"}
    figures = {"approved": 0.98, "hurried": 0.96, "hit_rate": 0.2, "canaries": 5.0, "items": 64.0}
    seen.tally.people.alarms["p-1", "trading"] = Alarm("trading", 3, 1, "p-1", "rubber_stamp", figures)
    return seen


def test_who_rubber_stamps_is_named_in_red_with_the_figures_that_say_so():
    console = Console(file=StringIO(), width=120, height=40, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(screen(asleep(), 120, 40))

    found = capture.get()
    assert "1 of 5 caught" in found
    assert re.findall(r"\x1b\[1;7;31m([^\x1b]*)\x1b", found) == ["RUBBER STAMP"]
    said = re.findall(r"\x1b\[1;31m([^\x1b]*)\x1b", found)
    assert " lazy-0 (98% approved, 96% unread, 20% of canaries caught)" in said


def test_a_line_names_who_rubber_stamps_too():
    assert ", open 14  RUBBER STAMP lazy-0  p50" in line(asleep())


def test_the_end_says_how_many_planted_errors_were_caught_and_who_rubber_stamps():
    rows = of_people(asleep().tally.people)

    assert rows["canaries"] == "1 of 5 planted errors were caught"
    assert rows["alarms"] == "lazy-0 rubber-stamps in trading"
    assert not any(of_people(staffed(2).tally.people)[name] for name in ("canaries", "alarms"))


def test_without_reviewers_it_says_that_nobody_is_here():
    assert any(one.startswith("what waits for people; nobody is here") for one in drawn(view(), 100, 30))


def test_at_a_hundred_by_thirty_everything_is_there():
    text = "\n".join(lines := drawn(view(), 100, 31))

    assert len(lines) == 31
    assert sum("ESCALATE" in one for one in lines) == NOTICES_MAX - 4
    assert "…" not in lines[0]
    for part in ("01:05 of 01:00", "1,234,567", "300/s", "1,250 ms", "class.number.10", "other types", "[bold]"):
        assert part in text
    assert "hitl explain acme/sim-0-1a1fd970f51-45" in text
    assert "kcat -P -b 127.0.0.1:20123 -t hitl.actions -l FILE.jsonl" in text
    assert PLACE.metrics in text


def test_classes_that_do_not_fit_are_put_together():
    text = "\n".join(drawn(view(classes=40), 100, 30))

    assert " others" in text
    assert "1,200,000" in text


def test_nothing_seen_yet_is_drawn_too():
    shown = View(PLACE, Tally(["bid.adjust"]), Numbers(0.0, 0.0, None, None), 0.0, "running")

    assert "–" in "\n".join(drawn(shown, 100, 30))


def test_a_line_says_it_all_where_there_is_no_terminal():
    assert line(view()).startswith(
        "01:05  in 1,234,567 (300/s)  out 1,234,000 (300/s)  waiting 567  executed 0  parked 0  "
        "people decided 0, open 0  p50 12 ms"
    )


def test_the_summary_names_what_was_found():
    console = Console(file=StringIO(), width=100)
    with console.capture() as capture:
        console.print(summary("the end", view().tally, {"conservation": "ok: all of it"}))

    assert "class.number.10" in capture.get()
    assert "ok: all of it" in capture.get()


def test_engaged_switches_are_shown_with_their_proof_the_newest_first():
    stops = (Stop(3, "HALT", "tenant:acme", 90), Stop(7, "HALT", "agent:bidder-7", 112))
    seen = structs.replace(view(), stops=stops)

    assert (
        "switch 7: HALT on agent:bidder-7, EFFECTIVE after 112 ms; and 1 more: hitl switches" in drawn(seen, 110, 30)[1]
    )
    unproved = structs.replace(view(), stops=(Stop(7, "HALT", "agent:bidder-7"),))
    assert "not proved yet" in drawn(unproved, 110, 30)[1]


def test_without_control_the_screen_says_that_nothing_leaves():
    assert "control is not heard" in drawn(structs.replace(view(), silent=True), 110, 30)[1]
