"""What a step returns: frozen values with defaults that say "nothing"."""

from __future__ import annotations

import gc

import pytest

from hitl_stream.lane.step import Moment, Output, Result


def test_an_output_without_headers_or_cause_says_so():
    output = Output("execute", 3, b"k", b"v")

    assert (output.headers, output.index) == ([], -1)


def test_two_outputs_do_not_share_their_headers():
    first, second = Output("t", 0, None, b""), Output("t", 0, None, b"")
    first.headers.append(("a", b"1"))

    assert second.headers == []


@pytest.mark.parametrize("value", [Output("t", 0, None, b""), Moment(1), Result(())])
def test_it_cannot_be_changed(value: object):
    name = next(iter(getattr(value, "__struct_fields__", ("outputs",))))
    with pytest.raises(AttributeError):
        setattr(value, name, None)


def test_the_garbage_collector_does_not_walk_outputs():
    """A batch holds thousands of them."""
    assert not gc.is_tracked(Output("t", 0, None, b""))


def test_a_moment_before_any_control_has_epoch_minus_one():
    assert Moment(17).epoch == -1
