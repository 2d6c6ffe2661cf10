"""What a newcomer and a test need and production does not: a broker, a simulator, the demo."""
