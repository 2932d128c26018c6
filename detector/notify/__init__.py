"""Sends alerts and dead letters to people and their tools: one thread and one consumer group for each receiver."""
