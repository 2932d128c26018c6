"""Tells people and their tools about alerts and dead letters: one thread and one consumer group for each receiver."""
