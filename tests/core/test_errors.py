"""The tree of errors, and what the command line ends with."""

from __future__ import annotations

import pytest

from hitl_stream.core import errors
from hitl_stream.core.errors import HitlError, PolicyError, Problem


@pytest.mark.parametrize(
    ("name", "code", "parent"),
    [
        ("HitlError", 6, "Exception"),
        ("UsageError", 2, "HitlError"),
        ("PolicyError", 2, "UsageError"),
        ("SettingsError", 2, "UsageError"),
        ("UnreachableError", 4, "HitlError"),
        ("UnknownOutcomeError", 4, "UnreachableError"),
        ("RefusedError", 5, "HitlError"),
        ("BrokenError", 6, "HitlError"),
    ],
)
def test_each_error_has_the_exit_code_of_the_tree_in_the_docstring(name: str, code: int, parent: str) -> None:
    error = getattr(errors, name)
    assert error.exit_code == code
    assert error.__mro__[1].__name__ == parent
    assert name in (errors.__doc__ or "")


def test_every_exception_of_the_module_is_in_the_tree() -> None:
    raised = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert all(issubclass(each, HitlError) for each in raised)
    assert len(raised) == 8


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("r", "m"), "error r: m"),
        (Problem("r", "m", "a.b", 3, 7), "3:7: error r: a.b: m"),
        (Problem("r", "m", severity="warning"), "warning r: m"),
    ],
)
def test_a_problem_reads_as_place_severity_rule_and_message(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_a_policy_error_says_every_problem_and_not_only_the_first() -> None:
    error = PolicyError("p.yaml", (Problem("a", "one", line=1, column=2), Problem("b", "two")))
    assert str(error).splitlines() == ["p.yaml:1:2: error a: one", "p.yaml:error b: two"]
