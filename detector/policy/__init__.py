"""Policy: verdicts and commands become alerts and decisions. Pure: no clock, no files, no Kafka."""
