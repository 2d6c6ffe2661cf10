"""The tests that remove a gate and put it back: against SciPy, and against being looked at after every item."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy.integrate import quad

from hitl_stream.core import gate_evidence as gates
from hitl_stream.core.gate_evidence import Evidence, Relapse, audited, canary, hit_rate_low, judged, log_e, must_return


def evidence(
    items: int, errors: int = 0, *, caught: int = 200, canaries: int = 200, threshold: float = 0.05
) -> Evidence:
    """Return the evidence of one person who has found `errors` in `items`, the errors spread evenly."""
    found = Evidence(caught=caught, canaries=canaries)
    wrong = {round((n + 0.5) * items / errors) for n in range(errors)} if errors else set()
    for n in range(items):
        found = judged(found, n in wrong, threshold)
    return found


# --- against other people's code --------------------------------------------------------------------------------------


def test_the_nodes_are_those_of_gauss_and_legendre():
    x, w = np.polynomial.legendre.leggauss(gates.NODES)
    mine = sorted(gates.nodes())
    assert [u for u, _ in mine] == pytest.approx(list((x + 1) / 2), abs=1e-14)
    assert [weight for _, weight in mine] == pytest.approx(list(w / 2), rel=1e-10)


@given(st.integers(0, 60), st.integers(0, 3_000), st.sampled_from([0.01, 0.02, 0.05, 0.2]))
def test_the_closed_form_is_scipys(errors: int, more: int, p: float):
    n = errors + more
    wanted = (
        special.betaln(errors + 1, more + 1)
        + math.log(max(special.betainc(errors + 1, more + 1, p), 1e-300))
        - (errors + 1) * math.log(p)
        - more * math.log1p(-p)
    )
    if special.betainc(errors + 1, more + 1, p) > 1e-250:
        assert gates.log_e_fixed(errors, n, p) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(st.lists(st.booleans(), max_size=300), st.sampled_from([0.01, 0.05, 0.2]))
def test_node_sums_give_what_the_closed_form_gives(found: list[bool], p: float):
    sums = [sum(column) for column in zip(*(gates.steps(x, p) for x in found), strict=True)] or [0.0] * gates.NODES
    one = Evidence(sums=tuple(sums))
    assert log_e([one]) == pytest.approx(gates.log_e_fixed(sum(found), len(found), p), abs=1e-6)


@pytest.mark.parametrize(("caught", "canaries"), [(1, 1), (5, 5), (3, 10), (20, 20), (95, 100), (400, 1_000)])
def test_the_lower_bound_of_a_hit_rate_solves_its_equation(caught: int, canaries: int):
    h = hit_rate_low(caught, canaries)
    k, m = caught, canaries
    top = k / m
    mass = quad(lambda q: (q / top) ** k * (((1 - q) / (1 - top)) ** (m - k) if m > k else 1.0), h, 1, points=[top])[0]
    here = (h / top) ** k * (((1 - h) / (1 - top)) ** (m - k) if m > k else 1.0)
    assert mass / (1 - h) == pytest.approx(40 * here, rel=1e-6)
    assert 0 < h < top


@given(st.integers(0, 100), st.integers(0, 100))
def test_more_caught_raise_the_bound_and_more_missed_lower_it(caught: int, missed: int):
    here = hit_rate_low(caught, caught + missed)
    assert hit_rate_low(caught + 1, caught + 1 + missed) >= here
    assert hit_rate_low(caught, caught + missed + 1) <= here
    if caught == 0:
        assert here == 0.0


# --- removing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "errors", "items"),
    [(0.01, 0, 449), (0.02, 0, 224), (0.05, 0, 88), (0.01, 3, 1_065), (0.02, 3, 531), (0.05, 3, 210)],
)
def test_so_many_items_are_needed_at_twenty_to_one(p: float, errors: int, items: int):
    needed = next(n for n in range(errors, 5_000) if gates.log_e_fixed(errors, n, p) >= math.log(20))
    assert needed == items


@pytest.mark.behaviour("D5")
def test_four_hundred_and_ninety_nine_are_refused_and_five_hundred_clean_ones_at_five_percent_are_offered():
    assert gates.lacks([evidence(499)], 30) == ("499 judged outputs, expected at least 500",)
    assert gates.lacks([evidence(500)], 30) == ()


@pytest.mark.behaviour("E12")
def test_without_a_caught_canary_nothing_is_offered_however_clean():
    found = gates.lacks([evidence(5_000, caught=0, canaries=50)], 30)
    assert any("no canary was caught" in one for one in found)
    assert any(one.startswith("E is") for one in found)


def test_fourteen_days_have_to_pass():
    assert gates.lacks([evidence(600)], 13.9) == ("13.9 days, expected at least 14",)


def test_an_error_counts_also_against_somebody_who_has_caught_nothing():
    clean, wrong = evidence(1, caught=0), evidence(1, 1, caught=0)
    assert log_e([clean]) == pytest.approx(0.0, abs=1e-9)
    assert log_e([wrong]) < 0


def test_evidence_of_persons_adds_and_a_person_who_sees_little_adds_little():
    sharp, dull = evidence(300), evidence(300, caught=20, canaries=100)
    both = log_e([sharp, dull])
    assert log_e([sharp]) < both < log_e([sharp, sharp])


@given(st.permutations([True, False, False, False, True, False, False, False]))
def test_the_order_of_items_changes_nothing(found: list[bool]):
    one = Evidence(caught=50, canaries=50)
    for x in found:
        one = judged(one, x, 0.05)
    assert one.errors == 2
    assert log_e([one]) == pytest.approx(log_e([evidence(8, 2, caught=50, canaries=50)]), abs=1e-9)


def test_canaries_that_come_later_say_nothing_about_items_before_them():
    before = evidence(100, caught=10, canaries=10)
    after = canary(before, True)
    assert after.sums == before.sums
    assert (after.caught, after.canaries) == (11, 11)


@pytest.mark.parametrize(
    ("found", "errors", "hit_rate", "kappa"),
    [(0, 49, 0.9, 0.8), (25, 50, 1.0, 0.5), (50, 50, 0.9, 1.0), (9, 60, 0.0, 0.8)],
)
def test_how_much_harder_real_errors_are_is_measured_from_fifty_on(
    found: int, errors: int, hit_rate: float, kappa: float
):
    assert gates.kappa_of(found, errors, hit_rate) == kappa


@pytest.mark.slow
def test_a_needed_gate_is_seldom_removed_though_somebody_looks_after_every_item():
    """A short dose; the long one is `make vigilance-proof`."""
    chance = random.Random(3)
    wrong = 0
    for _ in range(150):
        errors = 0
        for n in range(1, 1_501):
            errors += chance.random() < 0.05
            if gates.log_e_fixed(errors, n, 0.05) >= math.log(20):
                wrong += 1
                break
    assert wrong / 150 <= 0.05


# --- putting back -----------------------------------------------------------------------------------------------------


def test_three_times_as_many_errors_put_a_gate_back_and_as_many_as_signed_do_not():
    """Every twentieth is wrong as it was signed, then every seventh."""
    relapse = Relapse(0.05)
    for n in range(2_000):
        relapse = audited(relapse, n % 20 == 0)
        assert not must_return(relapse)
    since = 0
    while not must_return(relapse):
        relapse, since = audited(relapse, since % 7 == 0), since + 1
    assert since <= 200


def test_a_severe_error_puts_a_gate_back_at_once():
    assert must_return(audited(Relapse(0.05), True, severe=True))
    assert not must_return(audited(Relapse(0.05), True))
    assert not must_return(audited(Relapse(0.05), False, severe=True))
