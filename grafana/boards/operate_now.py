"""*Operate now*: is it working, how fast, and does anything wait or fail? On one screen."""

from __future__ import annotations

from boards.panels import (
    BLUE,
    EXECUTED,
    GREEN,
    ORANGE,
    OUTCOMES,
    RED,
    ROUTER,
    YELLOW,
    Json,
    Query,
    dashboard,
    graph,
    quantile,
    rate,
    right_axis,
    select,
    stat,
    stop,
    words,
)  # fmt: skip


def board() -> Json:
    """Return *Operate now*: is it working, how fast, and does anything wait or fail? On one screen."""
    return dashboard(
        "hitl-operate-now",
        "hitl: Operate now",
        "Is it working, how fast, and does anything wait or fail? Left to right: state, flow, backlog, trouble.",
        (
            stat(
                "Ready",
                "Whether every chosen process passes all its readiness checks. If not: open /readyz of the instance "
                "that shows 0 under Ready by instance; it names the check.",
                "none",
                f"min({select('hitl_ready')})",
                ((None, RED), (1, GREEN)),
                (words({"0": ("not ready", RED), "1": ("ready", GREEN)}),),
            ),
            stat(
                "Actions per second",
                "Input records in batches that are known to be committed. Zero while agents publish: look at Lag and "
                "at Partitions.",
                "ops",
                f"sum({rate('hitl_records_total', ROUTER)})",
                ((None, BLUE),),
                decimals=0,
            ),
            stat(
                "Executed without a person",
                "Share of routed actions that went straight to execution. A jump in either direction means that the "
                "policy, the agents or the switches changed.",
                "percentunit",
                f"sum({rate('hitl_actions_total', EXECUTED)}) / sum({rate('hitl_actions_total')})",
                ((None, BLUE),),
                decimals=1,
                high=1,
            ),
            stat(
                "Event age, 99 of 100",
                "From the broker's append of an action to the commit of its decision. Target: 150 ms, no more than "
                "500 ms at 1,000 a second. Over it: see Batches and Lag.",
                "s",
                quantile(0.99, "hitl_event_age_seconds", ROUTER),
                ((None, GREEN), (0.5, YELLOW), (1, RED)),
            ),
            stat(
                "Longest wait",
                "How long the oldest undecided input of any partition has waited. It grows while a partition is "
                "closed, stuck or overloaded.",
                "s",
                f"max({select('hitl_lag_seconds')})",
                ((None, GREEN), (5, YELLOW), (30, RED)),
            ),
            stat(
                "Fullest window",
                "Ids remembered against duplicates, as a share of what a process may remember. At 100 % new "
                "actions are refused, none is forgotten: raise window_ids_max, lower max_age, or start another one.",
                "percentunit",
                f"max(sum by (job, instance) ({select('hitl_window_ids')}) / "
                f"sum by (job, instance) ({select('hitl_window_ids_max')}))",
                ((None, GREEN), (0.8, YELLOW), (0.95, RED)),
                decimals=1,
                high=1,
            ),
            graph(
                "Route mix",
                "What the router answered, by outcome. EXECUTE acts at once; REVIEW and ESCALATE wait for people; HOLD "
                "is parked by a switch; REFUSE is closed; RECOMMEND never runs.",
                "ops",
                Query(f"sum by (outcome) ({rate('hitl_actions_total')})", "{{outcome}}"),
                stacked=True,
                overrides=OUTCOMES,
            ),
            graph(
                "Execute rate by class",
                "Actions that run without a person, by the policy's class. A class that grows alone points at one kind "
                "of agent; stop it with a switch on the console's kill page.",
                "ops",
                Query(f"sum by (class) ({rate('hitl_actions_total', EXECUTED)})", "{{class}}"),
                stacked=True,
                links=(stop("class", "type"),),
            ),
            graph(
                "Event age",
                "From append to commit. The dashed line is the most that 99 of 100 may take at 1,000 a second.",
                "s",
                Query(quantile(0.5, "hitl_event_age_seconds", ROUTER), "50 of 100"),
                Query(quantile(0.99, "hitl_event_age_seconds", ROUTER), "99 of 100"),
                steps=((0.5, RED),),
            ),
            graph(
                "Lag in records",
                "Committed inputs that wait for a decision, by role and partition. One partition alone: a hot account, "
                "or a step that fails there. All of them: too few processes, or a switch that holds.",
                "short",
                Query(f"sum by (role, partition) ({select('hitl_lag_records')})", "{{role}}/{{partition}}"),
            ),
            graph(
                "Since last progress",
                "Time since a partition last committed. It also grows where nothing arrives; together with lag it "
                "means that a partition is stuck.",
                "s",
                Query(
                    f"time() - max by (role, partition) ({select('hitl_last_progress_timestamp_seconds')})",
                    "{{role}}/{{partition}}",
                ),
            ),
            graph(
                "Partitions",
                "Partitions that decide, and those being restored. Their sum over all processes must be the "
                "topic's count; opening for more than seconds: see the instance's log.",
                "short",
                Query(f"sum by (role) ({select('hitl_partitions_open')})", "{{role}} open"),
                Query(f"sum by (role) ({select('hitl_partitions_opening')})", "{{role}} opening"),
            ),
            graph(
                "Ended early",
                "Actions that ended without execution, by why. duplicate and late: an agent repeats itself or is slow; "
                "conflict and identity: an agent misbehaves; policy: the policy refused.",
                "ops",
                Query(f"sum by (why) ({rate('hitl_closed_total')})", "{{why}}"),
                stacked=True,
            ),
            graph(
                "Dead letters and aborts",
                "Records that could not be read, by error, and batches that did not commit, by why. `unknown` aborts "
                "are reopened by themselves; many in a row mean that Kafka's transaction coordinator is in trouble.",
                "ops",
                Query(f"sum by (error) ({rate('hitl_dead_letters_total')})", "dead: {{error}}"),
                Query(f"sum by (why) ({rate('hitl_aborts_total')})", "abort: {{why}}"),
            ),
            graph(
                "Batches",
                "Time to decide and time to commit a batch, 99 of 100, and how many records a batch holds on average "
                "(right axis). Deciding slow: a rule or a validator; committing slow: Kafka.",
                "s",
                Query(quantile(0.99, "hitl_decide_seconds"), "decide, 99 of 100"),
                Query(quantile(0.99, "hitl_commit_seconds"), "commit, 99 of 100"),
                Query(
                    f"sum({rate('hitl_batch_records_sum')}) / sum({rate('hitl_batch_records_count')})",
                    "records, average",
                ),
                overrides=(right_axis("records, average", "short"),),
            ),
            graph(
                "Ready by instance",
                "1 while an instance passes all its readiness checks.",
                "none",
                Query(f"min by (instance) ({select('hitl_ready')})", "{{instance}}"),
                width=6,
                height=5,
                high=1,
            ),
            graph(
                "Memory",
                "Resident memory of each process. It rises with the window: about 195 MB a million ids.",
                "bytes",
                Query(select("process_resident_memory_bytes"), "{{instance}}"),
                width=6,
                height=5,
            ),
            graph(
                "Processor",
                "Cores in use. A process runs on one; near 1 it is full and more processes are needed.",
                "short",
                Query(rate("process_cpu_seconds_total"), "{{instance}}"),
                width=6,
                height=5,
                steps=((0.9, ORANGE),),
            ),
            graph(
                "Beside the route",
                "Actions moved to their home partition (publishers that use another partitioner), recommendations of "
                "level 1, and copies for audit.",
                "ops",
                Query(f"sum({rate('hitl_moved_total')})", "moved"),
                Query(f"sum({rate('hitl_recommendations_total')})", "recommended"),
                Query(f"sum({rate('hitl_audit_copies_total')})", "audit copies"),
                width=6,
                height=5,
            ),
        ),
    )
