"""The partition owner and everything about Kafka: the only layer that imports faust (in ``app`` and ``faust_edges``)."""
