"""The exactly-once edge: from a partition of the log, through a step, to other partitions of the log."""
