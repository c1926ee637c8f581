"""A program run under observation: what its processes report, and what came of it."""
