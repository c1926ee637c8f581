"""What a bucket holds: pure functions and frozen values, no I/O."""
