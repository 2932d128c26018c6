"""All measures of a principal together."""
