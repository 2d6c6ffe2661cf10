"""*Kill switches*: what is stopped, since when, how fast that took effect, and what waits behind it."""

from __future__ import annotations

from boards.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Json,
    Query,
    colour,
    dashboard,
    graph,
    quantile,
    rate,
    select,
    stat,
    stop,
    words,
)  # fmt: skip

MODES = (colour("HALT", RED), colour("REVIEW_ALL", ORANGE), colour("REDUCE_ONLY", YELLOW))
AFTER_EFFECT, HELD, CUT_OFF = 'after="effective"', 'outcome="HOLD"', 'why=~"epoch|lease"'
ENGAGED = words({"0": ("nothing is stopped", GREEN)})


def board() -> Json:
    """Return the dashboard. It shows; stopping and releasing is for people, at the console or the command line."""
    return dashboard(
        "hitl-kill",
        "hitl: Kill switches",
        "What is stopped, since when, how fast did that take effect, and what waits behind it? The red lines are "
        "switches that were engaged or released; Kill page, above, is where a person stops things.",
        (
            stat(
                "Engaged now",
                "Switches that hold. `hitl switches` lists them with reason and holder; releasing takes two people.",
                "short",
                f"sum({select('hitl_kill_engaged')})",
                ((None, GREEN), (1, RED)),
                (ENGAGED,),
            ),
            stat(
                "To effect, 99 of 100",
                "From the append of a command to EFFECTIVE: no offending action can commit any more. Target 1 s; "
                "over 2 s see which instance stands in the way.",
                "s",
                quantile(0.99, "hitl_kill_time_to_effect_seconds"),
                ((None, GREEN), (1, YELLOW), (2, RED)),
            ),
            stat(
                "Stand in the way",
                "Instances that have not acknowledged an engagement. For more than seconds: the runbook of "
                "HitlKillNotEffective says how to end one.",
                "short",
                f"max({select('hitl_kill_unacked_instances')})",
                ((None, GREEN), (1, RED)),
            ),
            stat(
                "Calls after EFFECTIVE",
                "Platform calls, a second, that began in scope after a switch was EFFECTIVE. It must be 0, always; one "
                "engages a global HALT by itself.",
                "ops",
                f"sum({rate('hitl_kill_offending_total', AFTER_EFFECT)})",
                ((None, GREEN), (1e-9, RED)),
            ),
            stat(
                "Calls nobody can ask about",
                "Open platform calls of executors that do not answer: they may still take effect on a platform that "
                "does not fence.",
                "short",
                f"max({select('hitl_control_contained_calls')})",
                ((None, GREEN), (1, RED)),
            ),
            stat(
                "Heartbeats",
                "Heartbeats of the control roles, a second: four from each. Zero: leases end, and everything stops "
                "within 2 s by itself.",
                "ops",
                f"sum({rate('hitl_control_heartbeats_total')})",
                ((None, RED), (1, GREEN)),
                decimals=1,
            ),
            graph(
                "Engaged by mode",
                "Switches that hold, by mode. HALT: nothing runs. REVIEW_ALL: the machine approves nothing alone. "
                "REDUCE_ONLY: only what lowers or pauses goes on.",
                "short",
                Query(f"sum by (mode) ({select('hitl_kill_engaged')})", "{{mode}}"),
                overrides=MODES,
            ),
            graph(
                "Engaged by scope",
                "Switches that hold, by their most selective part.",
                "short",
                Query(f"sum by (scope_kind) ({select('hitl_kill_engaged')})", "{{scope_kind}}"),
            ),
            graph(
                "Time to effect",
                "From append to EFFECTIVE. The dashed line is the target with every instance well; 2.5 s with one cut "
                "off or paused.",
                "s",
                Query(quantile(0.5, "hitl_kill_time_to_effect_seconds"), "50 of 100"),
                Query(quantile(0.99, "hitl_kill_time_to_effect_seconds"), "99 of 100"),
                steps=((1, RED),),
            ),
            graph(
                "Parked",
                "Actions that a switch holds, by class: each is decided anew once nothing holds it.",
                "ops",
                Query(f"sum by (class) ({rate('hitl_actions_total', HELD)})", "{{class}}"),
                Query(f"sum({rate('hitl_reviews_parked_total')})", "approved, and parked"),
                stacked=True,
                links=(stop("class", "type"),),
            ),
            graph(
                "Decided anew",
                "Parked actions that a pass decided again, by outcome; HOLD: parked again. After a release this comes "
                "in a wave, at the pace that the lag allows.",
                "ops",
                Query(f"sum by (outcome) ({rate('hitl_parked_actions_total')})", "{{outcome}}"),
                stacked=True,
            ),
            graph(
                "Sent back by executors",
                "Decisions that the last gate did not carry out, by why. switch: that is its work.",
                "ops",
                Query(f"sum by (why) ({rate('hitl_executor_sent_back_total')})", "{{why}}"),
            ),
            graph(
                "Lease age",
                "Time since an instance's ack on which its lease rests, by role. At 2 s it stops by itself.",
                "s",
                Query(f"max by (role) ({select('hitl_control_lease_age_seconds')})", "{{role}}"),
                steps=((1.5, ORANGE), (2, RED)),
            ),
            graph(
                "Batches cut off",
                "Transactions that were given up because of a switch (epoch) or an old lease; what was in them is "
                "decided anew.",
                "ops",
                Query(f"sum by (role) ({rate('hitl_aborts_total', CUT_OFF)})", "{{role}}"),
            ),
            graph(
                "Refused on control",
                "Commands and heartbeats that count for nothing, by why. signature, unknown_key, seal: somebody who "
                "may not speak tries to; expired: a clock is wrong.",
                "ops",
                Query(f"sum by (reason) ({rate('hitl_control_rejected_total')})", "{{reason}}"),
            ),
            graph(
                "Tripwires and fences",
                "Switches that were engaged by figures instead of people, and transactional ids that control fenced "
                "because somebody did not answer.",
                "ops",
                Query(f"sum by (wire, action) ({rate('hitl_tripwire_total')})", "{{wire}}: {{action}}"),
                Query(f"sum by (role) ({rate('hitl_control_fences_total')})", "fenced: {{role}}"),
            ),
            stat(
                "Last drill",
                "How long ago `hitl drill` measured the switches. Once a month at least; never run: no value.",
                "s",
                f"min({select('hitl_kill_drill_age_seconds')})",
                ((None, GREEN), (2_678_400, YELLOW), (7_776_000, RED)),
                width=8,
                height=8,
            ),
            stat(
                "Switches changed",
                "When a switch was last engaged or released.",
                "dateTimeFromNow",
                f"max({select('hitl_kill_changed_timestamp_seconds')}) * 1000",
                ((None, BLUE),),
                width=8,
                height=8,
            ),
        ),
    )
