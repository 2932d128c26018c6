"""Weirguard: detects model extraction on live prediction APIs from their inference logs."""

__version__ = "0.1.0"
