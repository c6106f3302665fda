"""Programs, grants, limits, process states: plain values. No I/O, no clocks, no threads."""
