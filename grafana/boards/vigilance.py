"""*Review and vigilance*: do people keep up, and are they still looking?"""

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
    words,
)  # fmt: skip

LEVELS = words({"0": ("looking", GREEN), "1": ("watched", YELLOW), "2": ("seconded", ORANGE), "3": ("asleep?", RED)})
APPLIED = 'effect="applied"'
VERDICTS = tuple(
    colour(name, value) for name, value in (("approve", GREEN), ("change", BLUE), ("escalate", ORANGE), ("reject", RED))
)


def board() -> Json:
    """Return the dashboard. An approval rate alone says nothing: it stands beside what was planted and caught."""
    return dashboard(
        "hitl-review",
        "hitl: Review and vigilance",
        "Do people keep up, and are they still looking? Above: the backlog. Below: what they say, how fast, and what "
        "of the planted they catch. No person is named here.",
        (
            stat(
                "Open items",
                "Items that wait for a person, over all queues. If it grows: see which queue, and who is at work.",
                "short",
                f"sum({select('hitl_queue_items')})",
                ((None, BLUE),),
            ),
            stat(
                "Oldest wait",
                "How long the oldest open item of any queue has waited. Past half of its queue's time it is escalated, "
                "past all of it it expires and nothing runs.",
                "s",
                f"max({select('hitl_queue_oldest_seconds')})",
                ((None, GREEN), (1_800, YELLOW), (7_200, RED)),
            ),
            stat(
                "Routing to judgement, 90 of 100",
                "From the router's decision to a person's judgement.",
                "s",
                quantile(0.9, "hitl_review_wait_seconds"),
                ((None, GREEN), (1_800, YELLOW), (7_200, RED)),
            ),
            stat(
                "Worst level",
                "The highest vigilance level of any queue. From `seconded` on read the runbook of HitlQueueVigilance; "
                "the console's page of the queue shows why.",
                "none",
                f"max({select('hitl_queue_vigilance_level')})",
                ((None, GREEN), (1, YELLOW), (2, ORANGE), (3, RED)),
                (LEVELS,),
                high=3,
            ),
            stat(
                "Planted errors caught",
                "Of plainly wrong items that were planted so many were caught, in the queue where it is fewest. Below "
                "85 % people no longer look.",
                "percentunit",
                f"min({select('hitl_queue_canary_hit_ratio')})",
                ((None, RED), (0.7, ORANGE), (0.85, GREEN)),
                high=1,
            ),
            stat(
                "People at work",
                "People who judged something today or yesterday, over all queues; one in two queues counts twice.",
                "short",
                f"sum({select('hitl_queue_reviewers')})",
                ((None, BLUE),),
            ),
            graph(
                "Open items by queue",
                "What waits for people. A queue that only grows has too few people, or an agent that asks too much.",
                "short",
                Query(f"sum by (queue) ({select('hitl_queue_items')})", "{{queue}}"),
            ),
            graph(
                "Oldest wait by queue",
                "How long the oldest open item waits. A saw that never comes down is an item that nobody may decide.",
                "s",
                Query(f"max by (queue) ({select('hitl_queue_oldest_seconds')})", "{{queue}}"),
            ),
            graph(
                "Put to people, and judged",
                "Items opened and judgements that counted, a second each. Where the first stays above the second the "
                "backlog grows.",
                "ops",
                Query(f"sum({rate('hitl_reviews_opened_total')})", "opened"),
                Query(f"sum({rate('hitl_verdicts_total', APPLIED)})", "judged"),
                Query(f"sum({rate('hitl_reviews_executed_total')})", "let run"),
            ),
            graph(
                "What people say",
                "Judgements by word. Nearly all green is right where agents are nearly always right; whether anybody "
                "looked, only the planted items below can tell.",
                "ops",
                Query(f"sum by (verdict) ({rate('hitl_verdicts_total')})", "{{verdict}}"),
                stacked=True,
                overrides=VERDICTS,
            ),
            graph(
                "Approved, and caught",
                "The share of approvals beside the share of planted errors that were caught, by queue. High and high: "
                "good agents. High and low: a rubber stamp.",
                "percentunit",
                Query(f"max by (queue) ({select('hitl_queue_approval_ratio')})", "{{queue}} approved"),
                Query(f"min by (queue) ({select('hitl_queue_canary_hit_ratio')})", "{{queue}} caught"),
                high=1,
                steps=((0.85, RED),),
            ),
            graph(
                "Faster than anybody reads",
                "Of approvals so many came before their content can have been read. Over 25 % somebody is woken if "
                "nearly everything is approved, too.",
                "percentunit",
                Query(f"max by (queue) ({select('hitl_queue_hurried_ratio')})", "{{queue}}"),
                high=1,
                steps=((0.16, ORANGE), (0.25, RED)),
            ),
            graph(
                "Vigilance level by queue",
                "0: nothing seen. 1: watched. 2: somebody's items get a second person. 3: somebody's highest tier goes "
                "to escalation, or a quarter of the queue is at 2.",
                "none",
                Query(f"max by (queue) ({select('hitl_queue_vigilance_level')})", "{{queue}}"),
                high=3,
            ),
            graph(
                "Alerts by row",
                "What was seen of people. 1: hit rate on planted items; 2: a change of it; 3: too fast; 4: objections "
                "grow rare or frequent; 5: two people disagree.",
                "ops",
                Query(f"sum by (row) ({rate('hitl_alerts_total')})", "row {{row}}"),
            ),
            graph(
                "Two people agree",
                "Of blind second judgements so many said the same as the first. Read it on rejections: where nearly "
                "everything is approved, two sleepers agree, too.",
                "percentunit",
                Query(f"min by (queue) ({select('hitl_queue_agreement_ratio')})", "{{queue}}"),
                high=1,
            ),
            graph(
                "Errors that got through",
                "Of what ran without being looked at so much was wrong, by blind audits of thirty days.",
                "percentunit",
                Query(f"max by (queue) ({select('hitl_escaped_error_ratio')})", "{{queue}}"),
            ),
            graph(
                "What gates put to people",
                "Of all routed actions of a day so many were put to people by each gate. A gate that is hardly ever "
                "overturned may go, once planted errors are caught there: `hitl gates candidates`.",
                "percentunit",
                Query("hitl:gate_diverted:ratio1d", "{{gate}}"),
            ),
            graph(
                "What gates cost people",
                "Minutes that people looked at what each gate put to them, for 1,000 routed actions of a day.",
                "m",
                Query("hitl:gate_minutes_per_thousand:ratio1d", "{{gate}}"),
            ),
            graph(
                "Judged again",
                "Approvals of somebody who missed planted errors: asked of another person, or lost, because the log "
                "holds them no more.",
                "ops",
                Query(f"sum by (became) ({rate('hitl_rechecks_total')})", "{{became}}"),
            ),
            graph(
                "Refused judgements",
                "Judgements that count for nothing, by why. too_fast and level: somebody is held back on purpose; view "
                "and person: somebody tries something, or a page is broken.",
                "ops",
                Query(f"sum by (why) ({rate('hitl_verdicts_refused_total')})", "{{why}}"),
                Query(f"sum by (reason) ({rate('hitl_verdicts_rejected_total')})", "unsigned: {{reason}}"),
            ),
            graph(
                "What time did",
                "Items that time moved: OPEN is an escalation at half of the time, EXPIRED an end without anybody's "
                "word, STALE an action that another one overtook.",
                "ops",
                Query(f"sum by (state) ({rate('hitl_reviews_timed_total')})", "{{state}}"),
                Query(f"sum({rate('hitl_reviews_lapsed_total')})", "half of its time, nowhere to go"),
            ),
            graph(
                "Judgements looked at",
                "What the monitor takes in. Zero while people judge: the monitor is down, and levels stay as they are.",
                "ops",
                Query(f"sum by (queue) ({rate('hitl_observations_total')})", "{{queue}}"),
            ),
            graph(
                "Parked, and written anew",
                "Approvals that a kill switch holds, and actions that people wrote in place of an agent's.",
                "ops",
                Query(f"sum({rate('hitl_reviews_parked_total')})", "parked"),
                Query(f"sum({rate('hitl_reviews_proposed_total')})", "written by people"),
            ),
        ),
    )
