"""How the owner's honest traffic becomes thresholds: pure functions of logs and a seed."""
