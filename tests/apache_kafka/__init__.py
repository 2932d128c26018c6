"""Tests that need Apache Kafka itself; run with ``pytest --broker apache``."""
