"""Pure detection: what a stream of queries says about who sends them. No Kafka, no clock, no files but the profile."""
