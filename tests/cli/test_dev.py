"""`hitl publish`, `hitl simulate`, `hitl broker`, and what `hitl demo` is told."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support.cli import hitl, start
from support.kafka import Topics, read_values, require, running, within

GONE_SECONDS_MAX = 60.0
PARTITIONS = 2


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    with running("noida") as broker:
        yield broker.bootstrap


@pytest.fixture
def topics(kafka: str) -> Topics:
    made = Topics(kafka)
    made({"actions": PARTITIONS})
    return made


@pytest.fixture
def flags(kafka: str, topics: Topics) -> tuple[str, ...]:
    return ("--kafka", kafka, "--prefix", topics.prefix, "--partitions", str(PARTITIONS))


def action(number: int) -> bytes:
    fields = {
        "action_id": f"act-{number}",
        "tenant": "acme",
        "agent": {"id": "bidder-7"},
        "type": "bid.adjust",
        "entity": {"account": f"acc-{number}"},
        "proposed_at": datetime.now(UTC).isoformat(),
    }
    return json.dumps(fields).encode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Five lines: good, bad, good, empty, bad."""
    path = tmp_path / "actions.jsonl"
    path.write_bytes(b"\n".join([action(1), b'{"action_id": 7}', action(3), b"", b"not json"]) + b"\n")
    return path


def published(kafka: str, topics: Topics) -> set[str]:
    values = [
        value for n in range(PARTITIONS) for value in within(read_values(kafka, topics.prefix + "actions", n)) if value
    ]
    return {json.loads(value)["action_id"] for value in values}


def test_bad_lines_are_named_by_number_and_the_good_ones_go_on(
    tmp_path: Path, file: Path, kafka: str, topics: Topics, flags: tuple[str, ...]
):
    done = hitl(tmp_path, "publish", str(file), *flags)

    assert done.returncode == 1
    assert f"{file}: line 2: " in done.stderr
    assert f"{file}: line 5: " in done.stderr
    assert done.stdout.startswith("2 sent, 2 refused")
    assert published(kafka, topics) == {"act-1", "act-3"}


def test_strict_sends_nothing_if_a_line_is_bad(
    tmp_path: Path, file: Path, kafka: str, topics: Topics, flags: tuple[str, ...]
):
    done = hitl(tmp_path, "publish", str(file), "--strict", *flags)

    assert done.returncode == 2
    assert "2 bad lines, nothing was sent" in done.stderr
    assert published(kafka, topics) == set()


def test_json_gives_one_object_and_good_files_exit_0(tmp_path: Path, file: Path, flags: tuple[str, ...]):
    bad = hitl(tmp_path, "publish", str(file), "--json", *flags)
    file.write_bytes(action(8) + b"\n" + action(9))
    good = hitl(tmp_path, "publish", str(file), "--json", *flags)

    found = json.loads(bad.stdout)
    assert (bad.returncode, found["lines"], found["sent"], found["refused"]) == (1, 4, 2, 2)
    assert [row["line"] for row in found["refusals"]] == [2, 5]
    assert (good.returncode, json.loads(good.stdout)["sent"]) == (0, 2)


def test_a_file_that_is_not_there_is_said_before_anybody_connects(tmp_path: Path):
    done = hitl(tmp_path, "publish", "absent.jsonl", "--kafka", "127.0.0.1:1")

    assert done.returncode == 2
    assert "absent.jsonl: cannot be read" in done.stderr


def test_a_kafka_that_is_not_there_is_exit_4(tmp_path: Path, file: Path):
    done = hitl(tmp_path, "publish", str(file), "--kafka", "127.0.0.1:1")

    assert done.returncode == 4
    assert "127.0.0.1:1" in done.stderr


def test_simulate_keeps_its_rate_and_says_what_it_sent(
    tmp_path: Path, kafka: str, topics: Topics, flags: tuple[str, ...]
):
    options = ("--rate", "100", "--seconds", "1", "--scenario", "demo", "--seed", "7")
    done = hitl(tmp_path, "simulate", *options, *flags, "--json")

    found = json.loads(done.stdout)
    assert (done.returncode, found["sent"]) == (0, 100)
    assert sum(found["by_kind"].values()) == 100
    count = sum(
        len(within(read_values(kafka, topics.prefix + "actions", n))) for n in range(PARTITIONS)
    )  # the malformed ones too
    assert count == 100


def test_simulate_replays_a_metric(tmp_path: Path, flags: tuple[str, ...]):
    series = tmp_path / "cpc.csv"
    series.write_text("when,cpc\n2011-07-01 00:00:01,0.10\n2011-07-01 01:00:01,0.12\n2011-07-01 02:00:01,0.40\n")

    columns = ("--time-column", "when", "--value-column", "cpc")
    done = hitl(tmp_path, "simulate", "--from-csv", str(series), *columns, *flags, "--json")
    wrong = hitl(tmp_path, "simulate", "--from-csv", str(series), *flags)

    assert (done.returncode, json.loads(done.stdout)["sent"]) == (0, 2)
    assert wrong.returncode == 2
    assert "no column 'timestamp'; there are 'when', 'cpc'" in wrong.stderr


def test_reviewers_that_there_are_not_are_named_before_anything_starts(tmp_path: Path):
    done = hitl(tmp_path, "demo", "--reviewers", "careful,hasty")

    assert done.returncode == 2
    assert "--reviewers careful,hasty: there is no 'hasty'; give careful, lazy, both, or none" in done.stderr


def test_a_policy_that_cannot_be_used_is_refused_before_anything_starts_as_lint_says_it(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text('policy: "1"\nqueues: {}\n')
    linted = hitl(tmp_path, "policy", "lint", "mine.yaml")
    done, absent = (hitl(tmp_path, "demo", "--policy", name) for name in ("mine.yaml", "absent.yaml"))

    found = [line for line in linted.stdout.splitlines() if ": error " in line]
    assert done.returncode == 2
    assert found
    assert set(found) <= set(done.stderr.splitlines())
    assert absent.returncode == 2
    assert "cannot read absent.yaml" in absent.stderr


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_a_broker_runs_in_the_foreground_until_it_is_told(tmp_path: Path, told: signal.Signals):
    require("noida")
    process = start(tmp_path, "broker", "--kind", "noida")
    assert process.stdout is not None
    address = process.stdout.readline().strip()

    process.send_signal(told)
    _, err = process.communicate(timeout=GONE_SECONDS_MAX)

    assert process.returncode == 0
    assert address.startswith("127.0.0.1:")
    assert f"export HITL_KAFKA={address}" in err
