"""PRADA, by its default and by its published test."""
