"""Planning: what a profile would cost for the jobs of a trace, how long these would wait, and the cheapest way to a wait."""
