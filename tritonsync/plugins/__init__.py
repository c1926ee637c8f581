"""The edges inside other programs: they talk to the session only, catch, say it once, and let the program compile."""
