"""The ``sojourn`` command. Talks to a client of the local host; holds no logic of its own."""
