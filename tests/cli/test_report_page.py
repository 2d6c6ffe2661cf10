"""Reports as pages: whole by themselves, well-formed, and safe whatever agents and people wrote."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from hitl_stream.cli.report_page import LEFT, RIGHT, Bar, Chart, Page, Section, drawn, rendered, write_page
from hitl_stream.cli.report_sections import monthly_sections
from hitl_stream.core.errors import SettingsError, UsageError
from hitl_stream.core.intervals import Rate
from hitl_stream.core.mistakes import SentRow
from hitl_stream.lane.reports import Monthly
from support.desk import MINUTE
from support.desk_cli import Cli, installed
from support.log import Recorded
from support.make import action_bytes, change, iso
from support.observed import plant

HOSTILE = "<script>alert('1')</script>&\u202e\"x"


@pytest.fixture
def hitl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return installed(Recorded(), tmp_path, monkeypatch)


def chart(*bars: Bar, **parts: Any) -> Chart:
    return Chart(title="Rates", bars=bars, **parts)


def page(**parts: Any) -> Page:
    section = Section(
        title="One", texts=("Said.",), charts=(chart(Bar(label="a", value=0.5, low=0.2, high=0.8, text="50 %")),),
        titles=("name", "share"), rows=(("a", "50 %"),),
    )  # fmt: skip
    return Page(
        **{"title": "A report", "about": (("Of", "us"),), "sections": (section,), "notes": ("By hand.",)} | parts
    )


def work_of_a_day(work: Recorded) -> None:
    """Let people judge a few items and planted errors, one of a type that nobody should be able to name so."""
    for number, word in enumerate(("approve", "reject", "approve")):
        parts = {"changes": [change("1.00", "1.30", campaign=f"cmp-{number}")], "action_id": f"act-{number}"}
        (item,) = work.opened(action_bytes(**parts, proposed_at=iso(work.now_ms - 100)))
        work.say(item, word, **({"code": "too_large"} if word == "reject" else {}))
        work.work()
        work.now_ms += MINUTE
        plant(work, number, caught=number > 0, planted=HOSTILE)


@pytest.mark.parametrize("report", ["monthly", "pilot", "reviewer-load"])
def test_a_page_is_whole_by_itself_and_says_what_it_rests_on(report: str, hitl: Cli, capfd: pytest.CaptureFixture[str]):
    work_of_a_day(hitl.work)
    assert hitl("report", report, "--html", "out.html") == 0
    assert "page: out.html" in capfd.readouterr().err

    html = (hitl.directory / "out.html").read_text("utf-8")
    root = ElementTree.fromstring(html)
    assert root.tag == "html"
    assert not re.search(r"https?:|//|<script|url\(|@import|<link|<img|<iframe|\bon\w+=", html, re.IGNORECASE)
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    text = " ".join(" ".join(root.itertext()).split())
    assert "What these figures rest on" in text
    assert "Intervals are 95 %" in text
    assert "Nothing was left out" in text
    assert "policy acme" in text


@pytest.mark.parametrize("report", ["monthly", "reviewer-load"])
def test_the_page_has_the_tables_of_the_terminal(report: str, hitl: Cli, capfd: pytest.CaptureFixture[str]):
    work_of_a_day(hitl.work)
    assert hitl("report", report, "--html", "out.html") == 0
    shown = capfd.readouterr().out

    root = ElementTree.fromstring((hitl.directory / "out.html").read_text("utf-8"))
    cells = {"".join(cell.itertext()) for cell in root.iter("td")} - {"", "–"}
    assert len(cells) >= 7
    assert {cell for cell in cells if cell not in shown} == set()
    assert list(root.iter("svg")), "a chart stands beside the numbers"


def test_what_somebody_wrote_is_text_on_the_page(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    work_of_a_day(hitl.work)
    assert hitl("report", "monthly", "--html", "out.html") == 0

    html = (hitl.directory / "out.html").read_text("utf-8")
    assert "<script" not in html
    assert "\u202e" not in html
    assert "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;\\u202e&#34;x" in html
    assert "\u202e" not in capfd.readouterr().out


def test_every_text_of_a_page_is_escaped_wherever_it_stands():
    section = Section(
        title=HOSTILE, texts=(HOSTILE,), titles=(HOSTILE,), rows=((HOSTILE,),),
        charts=(Chart(title=HOSTILE, legend=HOSTILE, bars=(Bar(label=HOSTILE, value=1.0, text=HOSTILE),),
                      says=lambda number: HOSTILE),),
    )  # fmt: skip
    html = rendered(page(title=HOSTILE, about=((HOSTILE, HOSTILE),), sections=(section,), notes=(HOSTILE,)))

    assert "<script" not in html
    assert "\u202e" not in html
    found = "".join(ElementTree.fromstring(html).itertext())
    assert found.count("<script>alert('1')</script>") >= 10


def test_with_json_the_page_is_written_too_and_stdout_is_one_object(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    work_of_a_day(hitl.work)
    assert hitl("report", "reviewer-load", "--json", "--html", "out.html") == 0

    found = json.loads(capfd.readouterr().out)
    assert found["everything"]["items"] == 3
    assert found["everything"]["per_1000"] > 0
    assert sum(row["items"] for row in found["sessions"]) == 6
    assert (hitl.directory / "out.html").is_file()


def test_what_was_left_out_stands_on_the_page(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    work_of_a_day(hitl.work)
    plant(hitl.work, 9, caught=True, decided_at="yesterday")
    assert hitl("report", "reviewer-load", "--html", "out.html") == 1

    assert "Left out: 1 of observations that cannot be read." in (hitl.directory / "out.html").read_text("utf-8")


def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path):
    with pytest.raises(UsageError, match=r"--html .*/nowhere/out.html: cannot be written"):
        write_page(page(), tmp_path / "nowhere" / "out.html")
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        write_page(page(), tmp_path / "there")
    assert [one.name for one in tmp_path.iterdir()] == ["there"]


def test_without_the_template_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *arguments: Any, **parts: Any) -> Any:
        if name == "jinja2":
            raise ImportError(name)
        return real(name, *arguments, **parts)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingsError, match=r"pip install 'hitl-stream\[console\]'"):
        rendered(page())


def test_a_chart_has_one_scale_and_keeps_everything_on_it():
    found = drawn(chart(Bar(label="a", value=0.03, low=0.01, high=0.04, mark=0.02), Bar(label="b", value=None)))

    first, second = found.rows
    assert found.top == "0.05"
    assert first.value == pytest.approx(LEFT + 0.6 * (RIGHT - LEFT) - 2)
    assert first.range == pytest.approx((LEFT + 0.2 * (RIGHT - LEFT), 0.6 * (RIGHT - LEFT)))
    assert first.mark == pytest.approx(LEFT + 0.4 * (RIGHT - LEFT))
    assert (second.value, second.range, second.mark) == (None, None, None)


def test_a_long_label_is_cut_in_the_chart_and_whole_in_its_title():
    label = "brand/acc-17/a-very-long-name-of-a-batch"
    (row,) = drawn(chart(Bar(label=label, value=1.0))).rows
    assert row.short.endswith("…")
    assert label in rendered(page(sections=(Section(title="x", charts=(chart(Bar(label=label, value=1.0)),)),)))


def test_a_monthly_report_tells_no_batches_one_by_one():
    rate = Rate(bad=0, n=13, rate=0.0, low=0.0, high=0.2)
    sent = [SentRow(what=what, name="b-7", rate=rate, hit_rate=None, weighted=False) for what in ("all", "batch")]
    section = monthly_sections(Monthly((), {}, tuple(sent)))[-1]

    assert [row[0] for row in section.rows] == ["all"]
