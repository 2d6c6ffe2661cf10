"""A policy file's text: where each problem stands, and what identifies what was written."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hitl_stream.core.errors import PolicyError, Problem
from hitl_stream.wire.policy_file import (
    DEPTH_MAX,
    POLICY_BYTES_MAX,
    LoadedPolicy,
    _read,
    json_schema,
    lint_file,
    parse,
)

ACME = files("hitl_stream.dev").joinpath("policies/acme.yaml").read_text("utf-8")
SMALL = """\
policy: small
defaults: {queue: triage}
agents: {"*": {owner: dana}}
queues:
  triage:
    roles: [senior]
    sla: 1h
    owner: ops
classes:
  post.publish:
    level: 2
    consequence: [client_content]
    queue: triage
"""


def load(text: str) -> LoadedPolicy:
    return parse(text, "p.yaml")


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(PolicyError) as refused:
        load(text)
    return refused.value.problems


def small(old: str = "", new: str = "") -> str:
    assert old in SMALL
    return SMALL.replace(old, new, 1)


def test_the_example_of_the_specification_loads() -> None:
    policy = load(ACME).policy

    assert policy.classes["bid.adjust"].auto_max_change == Decimal("0.20")
    assert policy.gates["first_line"].until is not None
    assert policy.validators["brand_voice"].model_dump()["patterns"] == ("n['\u2019]t\\b",)


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "rule", "words"),
    [
        ("policy: small", "policy: 7", 1, 9, "file.value", "found 7, expected a text (in quotes"),
        ("policy: small", "polcy: small", 1, 1, "file.unknown_key", "did you mean `policy`?"),
        ("sla: 1h", "sla: soon", 7, 10, "file.value", "'soon' is not a duration"),
        ("sla: 1h", "sla: 1h\n    slaa: 1h", 8, 5, "file.unknown_key", "did you mean `sla`?"),
        ("    sla: 1h\n", "", 5, 3, "file.missing", "`sla` is missing; here stand at least roles, sla and owner"),
        ("[senior]", "senior", 6, 12, "file.value", 'found "senior", expected a list'),
        ("level: 2", "level: 9", 11, 12, "file.value", "found 9, expected a value of at most 4"),
        ("level: 2", "level: true", 11, 12, "file.value", "true is not a whole number"),
        ("level: 2", "level: 2.5", 11, 12, "file.value", "found 2.5, expected a whole number"),
        ("[client_content]", "[client_content, financal]", 12, 35, "file.value", "did you mean financial?"),
        ("queue: triage\n", "queue: triage\n  c.d: 7\n", 14, 8, "file.value", "expected keys with values"),
        ("policy: small", "currency: eur\npolicy: small", 1, 11, "file.value", "ISO 4217"),
        ("policy: small", "rates: {usd: 1}\npolicy: small", 1, 9, "file.value", "ISO 4217"),
        ("policy: small", "rates: {USD: x}\npolicy: small", 1, 14, "file.value", "'x' is not a number"),
        ("policy: small", "bands: {review: 0.9}\npolicy: small", 1, 1, "file.value", "lies over bands.escalate"),
        ("policy: small", "fields: {context.a: txt}\npolicy: small", 1, 21, "file.value", "did you mean text?"),
        ("policy: small", "validators: {v: {kind: lenth}}\npolicy: small", 1, 24, "file.value", "'length'"),
        ("policy: small", "validators: {v: {field: f}}\npolicy: small", 1, 14, "file.missing", "`kind` is missing"),
        ("policy: small", "validators: {v: {kind: length, error: tone, under: 3, length: 3, field: f}}\npolicy: small",
         1, 55, "file.unknown_key", "`length` is not known here"),
        ("policy: small", "validators: {v: {kind: length, error: tone, under: x, field: f}}\npolicy: small",
         1, 52, "file.value", "a whole number"),
        ("policy: small", "rules: [{id: r, classes: [c], then: review, match: {f: {over: x}}}]\npolicy: small",
         1, 63, "file.value", "'x' is not a number"),
        ("policy: small", "rules: [{id: r, classes: [c], then: review, match: {f: {over: {EUR: x}}}}]\npolicy: small",
         1, 69, "file.value", "'x' is not a number"),
        ("policy: small", "rules: [{id: r, classes: [c], then: review, match: {f: {}}}]\npolicy: small",
         1, 53, "file.value", "an empty match"),
        ("policy: small", "policy: small\npolicy: big", 2, 1, "file.duplicate_key", "first on line 1"),
        ("level: 2", "level: 2\n    level: 3", 12, 5, "file.duplicate_key", "first on line 11"),
        ("policy: small", "policy: !!str small", 1, 9, "file.tag", "write the plain value"),
        ("policy: small", "policy: !!python/object:os.system small", 1, 9, "file.tag", "os.system"),
        ("policy: small", "%YAML 1.1\n---\npolicy: small", 2, 1, "file.version", "YAML 1.1"),
        ("level: 2", "<<: {level: 2}", 11, 5, "file.merge", "write the keys out"),
    ],
)  # fmt: skip
def test_a_problem_is_told_with_its_place_and_what_to_do(
    old: str, new: str, line: int, column: int, rule: str, words: str
) -> None:
    found = problems_of(small(old, new))

    assert (line, column, rule) in [(problem.line, problem.column, problem.rule) for problem in found]
    assert any(words in problem.message for problem in found if problem.line == line)


@pytest.mark.parametrize(
    ("text", "line", "column", "rule"),
    [
        ("", 1, 1, "file.empty"),
        ("# nothing\n", 1, 1, "file.empty"),
        ("- 1\n", 1, 1, "file.value"),
        ("word", 1, 1, "file.value"),
        ("a: b: c", 1, 5, "file.syntax"),
        ("a:\n\t- b", 2, 1, "file.syntax"),
        ("a: 'x", 1, 6, "file.syntax"),
        ("a: \x00", 1, 4, "file.syntax"),
        ("a: '\ud800'", 1, 5, "file.syntax"),
        ('a: "\\ud800"', 1, 4, "file.syntax"),
        ("a: 1\n---\nb: 1", 2, 1, "file.documents"),
        ("a: *x\n", 1, 4, "file.alias"),
        ("a: &x [*x]\n", 1, 8, "file.alias"),
        ("? [a]\n: b", 1, 3, "file.key"),
        ("a: &x 1\n*x : 2", 2, 1, "file.key"),
        ("[" * (DEPTH_MAX + 1), 1, DEPTH_MAX + 1, "file.depth"),
        ("#" * (POLICY_BYTES_MAX + 1), 1, 1, "file.too_large"),
    ],
)
def test_what_cannot_be_read_at_all_is_one_problem_with_its_place(text: str, line: int, column: int, rule: str) -> None:
    (found,) = problems_of(text)

    assert (found.line, found.column, found.rule) == (line, column, rule)


def test_a_small_file_cannot_unfold_into_a_large_one() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]

    (found,) = problems_of("\n".join(lines))

    assert found.rule == "file.too_many"


def test_an_alias_within_bounds_stands_for_its_value() -> None:
    text = small("roles: [senior]", "roles: &people [senior]") + "  c: {needs: *people, queue: triage}\n"

    assert load(text).policy.classes["c"].needs == ("senior",)


def test_every_problem_is_told_at_once_and_in_the_order_of_the_file() -> None:
    found = problems_of(
        small("sla: 1h", "sla: x").replace("level: 2", "level: 9").replace("policy: small", "policy: 1")
    )

    assert [problem.line for problem in found] == [1, 7, 11]
    with pytest.raises(
        PolicyError, match=r"p\.yaml:7:10: error file\.value: queues\.triage\.sla: 'x' is not a duration"
    ):
        load(small("sla: 1h", "sla: x"))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("on", "on"), ("no", "no"), ("2026-11-01", "2026-11-01"), ("1_000", "1_000"), ("012", 12), ("1:30", "1:30"),
        ("0o17", 15), ("0x1f", 31), ("-3", -3), ("0.60", Decimal("0.60")), ("1e3", Decimal("1e3")), ("~", None),
        ("", None), ("true", True), ("'true'", "true"), ("'3'", "3"), ("|\n  3", "3"), ("9" * 70, "9" * 70),
    ],
)  # fmt: skip
def test_a_plain_word_is_read_by_the_core_schema_of_yaml_1_2(written: str, value: object) -> None:
    root, problems = _read(f"a: {written}")

    assert problems == []
    assert root is not None
    assert root.value == {"a": value}
    assert type(root.value["a"]) is type(value)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((), (1, 1)),
        (("policy",), (1, 9)),
        (("defaults", "queue"), (2, 19)),
        (("queues", "triage"), (5, 3)),
        (("classes", "post.publish", "level"), (11, 12)),
        (("classes", "post.publish", "consequence", 0), (12, 19)),
        (("classes", "post.publish", "audit_sample"), (10, 3)),
        (("rules", 3, "id"), (1, 1)),
    ],
)
def test_a_path_has_a_place_and_a_default_that_of_what_surrounds_it(
    path: tuple[str | int, ...], place: tuple[int, int]
) -> None:
    assert load(SMALL).place(path) == place


@pytest.mark.behaviour("C3")
def test_lint_tells_the_line_of_what_breaks_a_law() -> None:
    found = lint_file(load(small("level: 2", "level: 4").replace("roles: [senior]", "roles: [viewer]")))

    assert [str(problem) for problem in found] == [
        "6:13: error queue.role: queues.triage.roles[0]: viewer never decides; name another role",
        "11:12: error ceiling.client_content: classes.post.publish.level: "
        "client_content stays at level 2 or below, found 4; no file can lift this",
    ]


def test_every_problem_that_lint_finds_has_a_line() -> None:
    assert all(problem.line > 1 for problem in lint_file(load(ACME.replace("level: 2", "level: 4"))))


@given(st.randoms(use_true_random=False))
@example(random.Random(1))
def test_the_digest_does_not_depend_on_the_order_of_keys(shuffle: random.Random) -> None:
    root, _ = _read(ACME)
    assert root is not None

    assert load(json.dumps(_shuffled(root.value, shuffle), default=str)).digest == load(ACME).digest


def _shuffled(value: Any, shuffle: random.Random) -> Any:
    if isinstance(value, list):
        return [_shuffled(each, shuffle) for each in value]
    if not isinstance(value, dict):
        return value
    items = [(key, _shuffled(each, shuffle)) for key, each in value.items()]
    shuffle.shuffle(items)
    return dict(items)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("policy: small", "# why\npolicy:   'small'  # so"),
        ("sla: 1h", "sla: 60m"),
        ("level: 2", "canaries: true"),
        ("roles: [senior]", 'roles: ["senior"]'),
    ],
)
def test_the_digest_does_not_depend_on_how_the_same_is_written(old: str, new: str) -> None:
    assert load(small(old, new)).digest == load(SMALL).digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("policy: small", "policy: Small"),
        ("sla: 1h", "sla: 61m"),
        ("level: 2", "level: 1"),
        ("roles: [senior]", "roles: [senior, lead]"),
    ],
)
def test_the_digest_changes_with_what_is_meant(old: str, new: str) -> None:
    assert load(small(old, new)).digest != load(SMALL).digest


def test_the_order_of_a_list_counts() -> None:
    two = small("roles: [senior]", "roles: [senior, lead]")

    assert load(two).digest != load(two.replace("senior, lead", "lead, senior")).digest


def test_a_digest_is_known_in_advance() -> None:
    """A change here means that every policy in every log gets another identity: that needs a reason."""
    assert load(SMALL).digest == "1dd6e0346ab2d7b5a698768fe7c4e4d4ee3c1c8e04d95fcd0c90fb1b42586472"


def test_the_published_schema_accepts_the_example() -> None:
    root, _ = _read(ACME)
    assert root is not None
    jsonschema.Draft202012Validator.check_schema(json_schema())

    jsonschema.Draft202012Validator(json_schema()).validate(_for_json(root.value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("classes", "bid.adjust", "level"), 5),
        (("classes", "bid.adjust", "audit_sample"), 1.5),
        (("queues", "triage", "sla"), "soon"),
        (("queues", "triage", "colour"), "red"),
        (("fields", "context.company"), "txt"),
        (("validators", "short", "kind"), "lenth"),
    ],
)
def test_the_published_schema_refuses_what_the_product_refuses(path: tuple[str, ...], value: object) -> None:
    root, _ = _read(ACME)
    assert root is not None
    content = _for_json(root.value)
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(content)
    with pytest.raises(PolicyError):
        load(json.dumps(content))


def _for_json(value: Any) -> Any:
    """Return what an editor would check: the same with floats for decimals."""
    return json.loads(json.dumps(value, default=float))


@given(st.text(max_size=200))
@example("\x85a: 1")
@example("a: \ufeff")
@example("&a a: *a")
@example("!<x> a")
@example("%TAG ! x\n--- a")
def test_whatever_the_text_the_answer_is_a_policy_error(text: str) -> None:
    assert problems_of(text)
