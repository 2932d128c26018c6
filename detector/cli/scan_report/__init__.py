"""What ``scan`` tells of a log: in sentences, as JSON and as an HTML page."""
