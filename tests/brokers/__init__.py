"""Brokers for tests and benchmarks: the embedded one and a real Apache Kafka node."""
