"""Thieves, one file each. A thief is asked for inputs, shown the answers, and at any time gives up his clone."""
