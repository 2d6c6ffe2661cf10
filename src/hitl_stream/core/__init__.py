"""The decision itself: values in, values out. No I/O, no clock, no randomness, no logging."""
