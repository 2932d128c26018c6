"""Pure detection: what a stream of queries reveals about its senders. No Kafka, no clock, no files but the profile."""
