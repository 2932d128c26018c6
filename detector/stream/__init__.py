"""The partition owner and everything about Kafka: the only layer that imports faust."""
