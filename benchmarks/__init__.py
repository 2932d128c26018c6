"""Benchmarks: each module is a program that prints a table; ``make bench`` runs them all."""
