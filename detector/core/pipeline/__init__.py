"""The path of a micro-batch: flatten, plan, run, log."""
