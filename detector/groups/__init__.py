"""Accounts that share one theft: links between their queries, and groups that go farther than honest accounts do."""
