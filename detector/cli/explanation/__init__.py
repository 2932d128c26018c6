"""What ``weirguard explain`` shows about a principal: contributions, sentences, plots and the page."""
