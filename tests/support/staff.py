"""Robots at a `Workplace`: the people of the demo, who wait for whoever of them looks longest, and for nothing else."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

from hitl_stream.core.policy.model import Policy
from hitl_stream.dev.demo import POLICY
from hitl_stream.dev.reviewers import Reviewers, Robot
from hitl_stream.wire.policy_file import parse
from hitl_stream.wire.topics import TopicSet
from support.desk import CLUSTER, CONSOLE, Workplace

TURNS_MAX = 400


@cache
def demo_policy() -> Policy:
    """Return the policy of the demo."""
    return parse(POLICY.read_text("utf-8"), "demo.yaml").policy


class Staff:
    """Some robots, at one desk."""

    def __init__(self, work: Workplace, *robots: Robot, **parts: Any) -> None:
        self.work = work
        self.robots = robots
        self.reviewers = Reviewers(
            {}, TopicSet(partitions=1), CONSOLE, CLUSTER, demo_policy(), robots,
            clock=lambda: work.now_ms / 1_000, **parts,
        )  # fmt: skip
        self.seen: dict[bytes, Any] = {}

    def read(self) -> None:
        """Read what is new on `reviews`."""
        for key, record in self.work.changelog.items():
            if self.seen.get(key) != record.value:
                self.seen[key] = record.value
                self.reviewers.take(0, key, record.value)

    def decide(self) -> Counter[str]:
        """Let each look at what there is, until nobody finds anything; return what they said."""
        said: Counter[str] = Counter()
        for _ in range(TURNS_MAX):
            self.read()
            found = [(robot, name) for robot in self.robots if (name := self.reviewers.next_for(robot))]
            if not found:
                return said
            looks = [(robot, name, self.reviewers.dwell_s(robot, name)) for robot, name in found]
            self.work.now_ms += round(1_000 * max(dwell_s for _, _, dwell_s in looks))
            for robot, name, dwell_s in looks:
                word = self.reviewers.answer(robot, name, self.work.now_ms / 1_000 - dwell_s, dwell_s)
                self.reviewers.done(name)
                said[word.word] += 1
                self.work.append("verdicts", word.value)
            self.work.work()
            self.work.later(0)
        raise AssertionError(f"after {TURNS_MAX} turns there is still something to say: {said}")
