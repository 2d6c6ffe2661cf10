"""*Pipeline internals*: for whoever looks for the reason, role by role."""

from __future__ import annotations

from boards.panels import (
    ORANGE,
    RED,
    Json,
    Query,
    dashboard,
    graph,
    quantile,
    rate,
    right_axis,
    select,
)  # fmt: skip


def by_role(q: float, metric: str) -> str:
    """Return a quantile of a histogram for each role."""
    return f"histogram_quantile({q}, sum by (le, role) ({rate(metric + '_bucket')}))"


def board() -> Json:
    """Return the dashboard."""
    return dashboard(
        "hitl-internals",
        "hitl: Pipeline internals",
        "Why is it slow, or stuck? Batches, commits, partitions, platform calls and processes, role by role.",
        (
            graph(
                "Records by role",
                "Input records in batches that are known to be committed.",
                "ops",
                Query(f"sum by (role) ({rate('hitl_records_total')})", "{{role}}"),
            ),
            graph(
                "Commits by role",
                "Transactions that are known to be committed.",
                "ops",
                Query(f"sum by (role) ({rate('hitl_commits_total')})", "{{role}}"),
            ),
            graph(
                "Aborts",
                "Batches that did not commit. epoch, lease: a switch; revoked: a rebalance; fenced: somebody took the "
                "partition over; unknown: nobody can say, the partition is reopened; error: see the log.",
                "ops",
                Query(f"sum by (role, why) ({rate('hitl_aborts_total')})", "{{role}}: {{why}}"),
            ),
            graph(
                "Deciding a batch",
                "Time in our own code, 50 and 99 of 100. Slow: a rule, a validator, or a machine that is full.",
                "s",
                Query(by_role(0.5, "hitl_decide_seconds"), "{{role}}, 50 of 100"),
                Query(by_role(0.99, "hitl_decide_seconds"), "{{role}}, 99 of 100"),
            ),
            graph(
                "Committing a batch",
                "From sending a batch to its commit, 50 and 99 of 100. Slow: Kafka's disks, its network, or its "
                "transaction coordinator.",
                "s",
                Query(by_role(0.5, "hitl_commit_seconds"), "{{role}}, 50 of 100"),
                Query(by_role(0.99, "hitl_commit_seconds"), "{{role}}, 99 of 100"),
            ),
            graph(
                "Batch size",
                "Records in a batch, on average. It grows under load by itself; 1 under load: commits are too slow to "
                "gather, or a topic is nearly empty.",
                "short",
                Query(
                    f"sum by (role) ({rate('hitl_batch_records_sum')}) / "
                    f"sum by (role) ({rate('hitl_batch_records_count')})",
                    "{{role}}",
                ),
            ),
            graph(
                "Event age by role",
                "Commit minus append, 99 of 100: how old what was just decided is.",
                "s",
                Query(by_role(0.99, "hitl_event_age_seconds"), "{{role}}"),
            ),
            graph(
                "Lag by role",
                "How long the oldest undecided input waits.",
                "s",
                Query(f"max by (role) ({select('hitl_lag_seconds')})", "{{role}}"),
            ),
            graph(
                "Partitions by role",
                "Open and opening. A partition that is open nowhere decides nothing; twice: look at the log at once.",
                "short",
                Query(f"sum by (role) ({select('hitl_partitions_open')})", "{{role}} open"),
                Query(f"sum by (role) ({select('hitl_partitions_opening')})", "{{role}} opening"),
            ),
            graph(
                "Opening a partition",
                "From assignment to the first decision, 99 of 100, and records read back for it (right axis).",
                "s",
                Query(by_role(0.99, "hitl_opening_seconds"), "{{role}}"),
                Query(f"sum({rate('hitl_restored_records_total')})", "records read back"),
                overrides=(right_axis("records read back", "ops"),),
            ),
            graph(
                "Remembered ids",
                "Ids kept against duplicates, by partition. They fall out of the window by age.",
                "short",
                Query(f"sum by (role, partition) ({select('hitl_window_ids')})", "{{role}}/{{partition}}"),
            ),
            graph(
                "Dead letters by role",
                "Records that could not be read. seal: somebody writes who may not; schema, json: a publisher is "
                "broken; `hitl dlq` shows them.",
                "ops",
                Query(f"sum by (role, error) ({rate('hitl_dead_letters_total')})", "{{role}}: {{error}}"),
            ),
            graph(
                "Platform calls",
                "Results of execute records by status. unresolved: nobody could find out what became of a call.",
                "ops",
                Query(f"sum by (status) ({rate('hitl_execute_total')})", "{{status}}"),
            ),
            graph(
                "Time of a platform call",
                "From the beginning of a call to its answer, 50 and 99 of 100, and calls open now (right axis).",
                "s",
                Query(quantile(0.5, "hitl_execute_seconds"), "50 of 100"),
                Query(quantile(0.99, "hitl_execute_seconds"), "99 of 100"),
                Query(f"sum({select('hitl_executor_calls_in_flight')})", "open now"),
                overrides=(right_axis("open now", "short"),),
            ),
            graph(
                "Calls in doubt",
                "Calls of which nobody knew for a while what became of them, those of which nobody ever will, and "
                "execute records that were done already.",
                "ops",
                Query(f"sum({rate('hitl_executor_unknown_total')})", "unknown for a while"),
                Query(f"sum({rate('hitl_executor_unresolved_total')})", "unresolved"),
                Query(f"sum({rate('hitl_executor_repeated_total')})", "done already"),
            ),
            graph(
                "Read once more",
                "Verdicts and observations that had counted already: after a restart, some; all the time: a loop.",
                "ops",
                Query(f"sum({rate('hitl_verdicts_repeated_total')})", "verdicts"),
                Query(f"sum({rate('hitl_observations_repeated_total')})", "observations"),
            ),
            graph(
                "Ended early by role",
                "Actions that were closed without execution, by who closed them and why.",
                "ops",
                Query(f"sum by (role, why) ({rate('hitl_closed_total')})", "{{role}}: {{why}}"),
            ),
            graph(
                "Garbage collection",
                "Collections a second, by generation. Many of the oldest: memory is short, or something leaks.",
                "ops",
                Query(f"sum by (generation) ({rate('python_gc_collections_total')})", "generation {{generation}}"),
            ),
            graph(
                "Processor by instance",
                "Cores in use. A process runs on one; near 1 it is full and another one is needed.",
                "short",
                Query(rate("process_cpu_seconds_total"), "{{instance}}"),
                steps=((0.9, ORANGE),),
            ),
            graph(
                "Memory by instance",
                "Resident memory. It rises with the window of a router, the open items of a desk, the people of a "
                "monitor.",
                "bytes",
                Query(select("process_resident_memory_bytes"), "{{instance}}"),
            ),
            graph(
                "Open files",
                "Descriptors in use, as a share of the limit.",
                "percentunit",
                Query(f"{select('process_open_fds')} / {select('process_max_fds')}", "{{instance}}"),
                high=1,
                steps=((0.8, RED),),
            ),
        ),
    )
