"""What crosses a wire: queries, alerts, decisions, commands, their codecs, topic names and errors.

Importing this package, or any module in it, loads the standard library alone; numpy and msgspec are
imported where a codec is called.
"""
