"""hitl-stream: human in the loop for AI agents, as a Kafka pipeline that decides every action exactly once."""

__version__ = "0.1.0"
