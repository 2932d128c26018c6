"""Recorded queries, from log files or topics, judged by the engine and policy of the service; scans and profiles."""
