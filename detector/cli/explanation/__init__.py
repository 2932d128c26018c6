"""What ``weirguard explain`` says of a principal: what counts, in words, in plots and as a page."""
