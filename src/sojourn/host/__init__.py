"""The host of one operating-system process: starts guests, keeps their records, output and ends."""
