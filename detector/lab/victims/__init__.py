"""Models worth stealing, one file each."""
