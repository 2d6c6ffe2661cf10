"""A policy file's text: read into a `Policy` with the place of every word kept, so that each problem has a line.

The YAML is read as events and never constructs an object: scalars follow the core schema of YAML 1.2 (`on` and `no` are
text, a date is text), a decimal keeps the digits that were written, and what a policy has no use for (tags, merge keys,
a second document, a key written twice) is a problem, not a surprise.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from hitl_stream.core.errors import PolicyError, Problem
from hitl_stream.core.policy.lint import dotted, lint
from hitl_stream.core.policy.model import EXPONENT_MAX, FieldSpec, Policy

POLICY_BYTES_MAX = 1024 * 1024
"""What one record on `control` can hold; a policy of 20 classes and 40 rules has about 10 kB."""
NODES_MAX = 50_000
"""Keys and values, aliases counted as what they stand for: a small file cannot unfold into a large one."""
DEPTH_MAX = 32
NUMBER_LENGTH_MAX = 64
SHOWN_LENGTH_MAX = 60

Path = tuple[str | int, ...]
Place = tuple[int, int]
"""Line and column; both start at 1."""


def parse(text: str, source: str) -> LoadedPolicy:
    """Read a policy file, or raise `PolicyError` with every problem found, by line."""
    root, problems = _read(text)
    policy = None
    if root is not None:
        try:
            policy = Policy.model_validate(root.value)
        except ValidationError as error:
            problems += [_explain(details, root) for details in error.errors(include_url=False)]
    if root is None or policy is None or problems:
        raise PolicyError(source, by_line(problems))
    return LoadedPolicy(policy, digest_of(policy), source, text, root)


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy that validates, the digest that identifies it, and the text it came from."""

    policy: Policy
    digest: str
    source: str
    text: str
    _root: _Node = field(repr=False, compare=False)

    def place(self, path: Path) -> Place:
        """Return line and column of what stands at `path`: a single value itself, a group by its key.

        Where the file does not write it (a default), the place is that of the nearest thing around it.
        """
        return _place(self._root, path)


def lint_file(loaded: LoadedPolicy) -> tuple[Problem, ...]:
    """Return what `lint` finds, each with the line and column it stands at, by line."""
    return by_line(_placed(problem, loaded.place(problem.at)) for problem in lint(loaded.policy))


def digest_of(policy: Policy) -> str:
    """Return SHA-256, in hex, of the policy's canonical JSON: keys sorted, no white space, lists in their order.

    What is as it would be anyway does not count, so that a release that adds an optional field leaves old digests
    alone. For that a default, once released, never changes.
    """
    content = policy.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@cache
def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a policy file, for editors. Do not change what it returns."""
    schema = Policy.model_json_schema(by_alias=True, mode="validation")
    _standard(schema)
    types = FieldSpec.model_json_schema()["properties"]["type"]["enum"]
    schema["properties"]["fields"]["additionalProperties"] = {"anyOf": [{"enum": types}, {"$ref": "#/$defs/FieldSpec"}]}
    return {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hitl-stream policy"}


def by_line(problems: Sequence[Problem] | Iterator[Problem]) -> tuple[Problem, ...]:
    """Sort problems the way a person reads the file."""
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))


def _standard(schema: Any) -> None:
    """Turn the bounds that pydantic leaves on decimals under its own names into JSON Schema's, in place."""
    if isinstance(schema, list):
        for item in schema:
            _standard(item)
    elif isinstance(schema, dict):
        for ours, theirs in (("ge", "minimum"), ("gt", "exclusiveMinimum"), ("le", "maximum")):
            if isinstance(schema.get(ours), int | float):
                schema[theirs] = schema.pop(ours)
        for item in schema.values():
            _standard(item)


# ── Reading: events to nodes ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Node:
    """A value, where it starts, and what lies in it. `value` is the plain data of the whole branch."""

    place: Place
    value: Any
    size: int = 1
    keys: dict[str, Place] = field(default_factory=dict)
    children: dict[str | int, _Node] = field(default_factory=dict)


@dataclass(slots=True)
class _Open:
    """A mapping or sequence that has begun; `key` waits for its value."""

    node: _Node
    anchor: str | None
    key: tuple[str, Place] | None = None


class _UnreadableError(Exception):
    """Ends the reading; its argument is the problem."""


def _read(text: str) -> tuple[_Node | None, list[Problem]]:
    if len(text.encode(errors="surrogatepass")) > POLICY_BYTES_MAX:
        found = f"the file is over {POLICY_BYTES_MAX:,} bytes; split the policy or move lists of terms to a plugin"
        return None, [Problem("file.too_large", found, line=1, column=1)]
    tree = _Tree()
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            tree.take(event)
    except _UnreadableError as stop:
        return None, [*tree.problems, stop.args[0]]
    except YAMLError as error:
        return None, [*tree.problems, _syntax(error, text)]
    if tree.root is None:
        tree.problem("file.empty", "the file is empty; write at least policy, defaults, queues and classes", (1, 1))
    return tree.root, tree.problems


class _Tree:
    """Builds nodes from events without recursion, within limits."""

    def __init__(self) -> None:
        self.root: _Node | None = None
        self.problems: list[Problem] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, _Node | None] = {}

    def problem(self, rule: str, message: str, place: Place) -> None:
        self.problems.append(Problem(rule, message, line=place[0], column=place[1]))

    def take(self, event: Any) -> None:
        place = (event.start_mark.line + 1, event.start_mark.column + 1)
        match event:
            case DocumentStartEvent():
                self._document(event, place)
            case AliasEvent():
                self._place(self._alias(event.anchor, place), place)
            case ScalarEvent():
                self._tagless(event, place)
                self._encodable(event.value, place)
                self._scalar(event, place)
            case MappingStartEvent() | SequenceStartEvent():
                self._tagless(event, place)
                self._begin({} if isinstance(event, MappingStartEvent) else [], event.anchor, place)
            case MappingEndEvent() | SequenceEndEvent():
                self._end()

    def _document(self, event: Any, place: Place) -> None:
        if self.root is not None:
            raise _UnreadableError(
                _at("file.documents", "a second document begins here; a policy file holds one", place)
            )
        if event.version not in (None, (1, 2)):
            found = ".".join(map(str, event.version))
            self.problem("file.version", f"the file says YAML {found}; policies are YAML 1.2, take the line out", place)

    def _tagless(self, event: Any, place: Place) -> None:
        if event.ctag is not None:
            self.problem("file.tag", f"the tag {event.ctag} is not read; write the plain value", place)

    def _encodable(self, text: str, place: Place) -> None:
        """An escape can write half a character, which no JSON, log or terminal could show."""
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise _UnreadableError(_at("file.syntax", "half of a surrogate pair is no character; take it out", place))

    def _scalar(self, event: Any, place: Place) -> None:
        parent = self._open[-1] if self._open else None
        if parent is not None and parent.key is None and isinstance(parent.node.value, dict):
            if event.value == "<<" and event.style is None:
                self.problem("file.merge", "merge keys (<<) are not part of YAML 1.2; write the keys out", place)
            parent.key = (event.value, place)
            return
        node = _Node(place, _resolve(event.value) if event.style is None else event.value)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._place(node, place)

    def _begin(self, empty: dict[str, Any] | list[Any], anchor: str | None, place: Place) -> None:
        if len(self._open) >= DEPTH_MAX:
            raise _UnreadableError(
                _at("file.depth", f"more than {DEPTH_MAX} levels deep; a policy needs at most eight", place)
            )
        self._key_is_text(place)
        if anchor is not None:
            self._anchors[anchor] = None
        self._open.append(_Open(_Node(place, empty), anchor))

    def _end(self) -> None:
        done = self._open.pop()
        if done.anchor is not None:
            self._anchors[done.anchor] = done.node
        self._place(done.node, done.node.place)

    def _alias(self, anchor: str | None, place: Place) -> _Node:
        self._key_is_text(place)
        node = self._anchors.get(anchor or "")
        if node is None:
            what = "stands inside the very thing it names" if anchor in self._anchors else "names no anchor before it"
            raise _UnreadableError(_at("file.alias", f"*{anchor} {what}; write the value out", place))
        return node

    def _key_is_text(self, place: Place) -> None:
        parent = self._open[-1] if self._open else None
        if parent is not None and parent.key is None and isinstance(parent.node.value, dict):
            raise _UnreadableError(_at("file.key", "a key must be a plain text; write it out", place))

    def _place(self, node: _Node, place: Place) -> None:
        """Put a finished node where it belongs. The first of two equal keys stays."""
        if not self._open:
            self.root = node
            return
        into = self._open[-1].node
        into.size += node.size
        if into.size > NODES_MAX:
            raise _UnreadableError(
                _at("file.too_many", f"more than {NODES_MAX:,} values, aliases unfolded; shorten it", place)
            )
        if isinstance(into.value, list):
            into.children[len(into.value)] = node
            into.value.append(node.value)
            return
        key, key_place = self._open[-1].key or ("", place)
        self._open[-1].key = None
        if key in into.children:
            line = into.keys[key][0]
            self.problem("file.duplicate_key", f"`{key}` is written twice, first on line {line}; keep one", key_place)
            return
        into.keys[key] = key_place
        into.children[key] = node
        into.value[key] = node.value


_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
}


def _resolve(text: str) -> object:
    """Read a plain scalar by the core schema of YAML 1.2. Numbers out of any use stay text, for the model to refuse."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > NUMBER_LENGTH_MAX:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return _decimal(text)
    return text


def _decimal(text: str) -> Decimal | str:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    return number if abs(number.adjusted()) <= EXPONENT_MAX else text


def _syntax(error: YAMLError, text: str) -> Problem:
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        begun = error.context_mark
        since = f" ({error.context}, begun on line {begun.line + 1})" if begun is not None and error.context else ""
        hint = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        return _at("file.syntax", f"not YAML: {error.problem}{since}{hint}", place)
    if isinstance(error, ReaderError):
        before = text[: error.position]
        place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        return _at("file.syntax", f"the character U+{error.character:04X} may not stand in YAML; take it out", place)
    return _at("file.syntax", f"not YAML: {error}", (0, 0))


def _at(rule: str, message: str, place: Place) -> Problem:
    return Problem(rule, message, line=place[0], column=place[1])


def _placed(problem: Problem, place: Place) -> Problem:
    return replace(problem, line=place[0], column=place[1])


def _place(root: _Node, path: Path) -> Place:
    node, place = root, root.place
    for segment in path:
        child = node.children.get(segment)
        if child is None:
            return place
        is_group = isinstance(child.value, dict | list)
        place = node.keys.get(str(segment), child.place) if is_group else child.place
        node = child
    return place


# ── Explaining: pydantic's errors in the words of the file ────────────────────────────────────────────────────────────


def _explain(details: ErrorDetails, root: _Node) -> Problem:
    """Turn one of pydantic's errors into a problem: where the fault stands, what it is, what to write instead."""
    kind, context = details["type"], details.get("ctx", {})
    path, node, of_key = _walk(details["loc"], root)
    last = details["loc"][-1] if details["loc"] else ""
    line, column = _place(root, path)
    if kind == "missing":
        rule, message = "file.missing", _missing(str(last), path, root)
        path = (*path, last)
    elif kind == "extra_forbidden":
        rule, message = "file.unknown_key", _unknown(str(path[-1]), path[:-1], root)
        line, column = _key_place(root, path)
    elif kind in ("union_tag_not_found", "union_tag_invalid"):
        rule, message, path = _kind(node, context, path)
        line, column = _place(root, path)
    else:
        rule, message = "file.value", _message(kind, context, details)
    if of_key:
        line, column = _key_place(root, path)
    return Problem(rule, message, dotted(path), line, column, at=path)


def _walk(loc: tuple[int | str, ...], root: _Node) -> tuple[Path, _Node, bool]:
    """Follow an error's `loc` down the file. Steps that are no keys (a union's branch) are passed over."""
    # A validator's `kind` stands in the loc as a step of its own; a stray key of that name must not catch it.
    has_kind = loc[:1] == ("validators",) and len(loc) > 2 and loc[2] in _validator_kinds()
    path: list[str | int] = []
    node = root
    for step in (*loc[:2], *loc[3:]) if has_kind else loc:
        child = node.children.get(step)
        if child is not None:
            path.append(step)
            node = child
    return tuple(path), node, loc[-1:] == ("[key]",)


def _kind_of(node: _Node) -> object:
    return node.value.get("kind") if isinstance(node.value, dict) else None


def _key_place(root: _Node, path: Path) -> Place:
    node = root
    for step in path[:-1]:
        node = node.children[step]
    return node.keys.get(str(path[-1]), _place(root, path)) if path else root.place


def _missing(key: str, path: Path, root: _Node) -> str:
    required = _schema_at(path, root.value).get("required", [])
    needs = f"; here stand at least {_listed(required)}" if len(required) > 1 else ""
    return f"`{key}` is missing{needs}"


def _unknown(key: str, path: Path, root: _Node) -> str:
    known = sorted(_schema_at(path, root.value).get("properties", {}))
    near = difflib.get_close_matches(key, known, n=1)
    advice = f"; did you mean `{near[0]}`?" if near else f"; known are {_listed(known)}" if known else ""
    return f"`{key}` is not known here{advice}"


def _kind(node: _Node, context: Mapping[str, Any], path: Path) -> tuple[str, str, Path]:
    known = context.get("expected_tags") or ", ".join(f"'{kind}'" for kind in _validator_kinds())
    if "kind" not in node.children:
        return "file.missing", f"`kind` is missing; write one of {known}", (*path, "kind")
    return "file.value", f"found {_show(_kind_of(node))}, expected one of {known}", (*path, "kind")


_EXPECTED: Mapping[str, str] = {
    "string_type": "a text (in quotes, if it looks like a number)",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of ordinary size",
    "int_from_float": "a whole number",
    "tuple_type": "a list, such as [a, b]",
    "dict_type": "keys with values, such as {{key: value}}",
    "model_type": "keys with values, such as {{key: value}}",
    "model_attributes_type": "keys with values, such as {{key: value}}",
    "string_too_short": "a text that is not empty",
    "string_too_long": "a text of at most {max_length} characters",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "literal_error": "{expected}",
    "greater_than": "a value over {gt}",
    "greater_than_equal": "a value of at least {ge}",
    "less_than": "a value under {lt}",
    "less_than_equal": "a value of at most {le}",
}


def _message(kind: str, context: Mapping[str, Any], details: ErrorDetails) -> str:
    if kind == "value_error":
        return str(context["error"])
    if kind not in _EXPECTED:
        return f"found {_show(details['input'])}; {details['msg']}"
    expected = _EXPECTED[kind].format(**context)
    near = difflib.get_close_matches(str(details["input"]), re.findall(r"'(\w+)'", expected), n=1)
    meant = f"; did you mean {near[0]}?" if kind == "literal_error" and near else ""
    return f"found {_show(details['input'])}, expected {expected}{meant}"


def _show(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict | list | tuple):
        return f"{'keys with values' if isinstance(value, dict) else 'a list'} of {len(value)}"
    shown = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)
    return shown if len(shown) <= SHOWN_LENGTH_MAX else f"{shown[: SHOWN_LENGTH_MAX - 1]}…"


def _listed(words: Sequence[str], last: str = "and") -> str:
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def _validator_kinds() -> list[str]:
    return list(json_schema()["properties"]["validators"]["additionalProperties"]["discriminator"]["mapping"])


def _schema_at(path: Path, value: Any) -> Mapping[str, Any]:
    """Return the part of the schema that rules what stands at `path`; `value` is the whole file."""
    schema: Mapping[str, Any] = _one(json_schema(), value)
    for step in path:
        value = _below(value, step)
        properties = schema.get("properties", {})
        below = properties.get(step) or schema.get("items") or schema.get("additionalProperties")
        schema = _one(below, value) if isinstance(below, dict) else {}
    return schema


def _below(value: Any, step: str | int) -> Any:
    try:
        return value[step]
    except (KeyError, IndexError, TypeError):
        return None


def _one(schema: Mapping[str, Any], value: Any) -> Mapping[str, Any]:
    """Follow references, choose a union's branch by `kind`, and leave `null` and shorthands out."""
    if "discriminator" in schema:
        chosen = schema["discriminator"]["mapping"].get(_below(value, "kind"))
        return _one({"$ref": chosen}, value) if chosen else {}
    for union in (schema.get("anyOf"), schema.get("oneOf")):
        for branch in union or ():
            if "$ref" in branch or branch.get("type") in ("object", "array"):
                return _one(branch, value)
    if "$ref" in schema:
        found: Mapping[str, Any] = json_schema()["$defs"][schema["$ref"].removeprefix("#/$defs/")]
        return found
    return schema
