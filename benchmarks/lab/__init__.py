"""The tables of docs/lab.md: what each attack of the lab reaches, and what defences do to it."""
