"""Faults against running workers, and an audit of what they left that shares no code with them."""
