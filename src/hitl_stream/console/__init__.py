"""The console: where people see what waits for them, decide it, and stop what must stop."""
