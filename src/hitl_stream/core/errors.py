"""Every exception the product raises on purpose, with the exit code that the command line ends with.

HitlError
├── UsageError            2  what a person wrote does not validate
│   ├── PolicyError       2  … in a policy file; carries every problem with line and column
│   └── SettingsError     2  … in the settings
├── UnreachableError      4  Kafka was not reached; nothing was written
│   └── UnknownOutcomeError  4  … or nobody can tell whether it was
├── RefusedError          5  the right, the signature or a ceiling is missing
└── BrokenError           6  our own code or its world is broken; the process stops and the log replays

A message says what was found, what was expected, where, and what to do next.
"""

from __future__ import annotations

from dataclasses import dataclass


class HitlError(Exception):
    """Anything that hitl-stream raises on purpose."""

    exit_code = 6


class UsageError(HitlError):
    """What a person wrote does not validate."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a file: `rule` names the law it breaks, lines and columns start at 1 (0: unknown).

    `path` is for people; `at` is the same way down the file as keys and indexes, since a key may hold dots itself.
    """

    rule: str
    message: str
    path: str = ""
    line: int = 0
    column: int = 0
    severity: str = "error"
    at: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        place = f"{self.line}:{self.column}: " if self.line else ""
        where = f"{self.path}: " if self.path else ""
        return f"{place}{self.severity} {self.rule}: {where}{self.message}"


class PolicyError(UsageError):
    """A policy file that cannot be used; `problems` holds every reason found, not only the first."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(f"{source}:{problem}" for problem in problems))


class SettingsError(UsageError):
    """A setting that cannot be used."""


class UnreachableError(HitlError):
    """Kafka was not reached; nothing was written."""

    exit_code = 4


class UnknownOutcomeError(UnreachableError):
    """Kafka was reached, but did not answer: what was sent may be written or not."""


class RefusedError(HitlError):
    """The right, the signature or a ceiling is missing."""

    exit_code = 5


class BrokenError(HitlError):
    """Our own code or its world is broken. The process stops; the log replays."""

    exit_code = 6
