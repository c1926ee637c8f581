"""Everything goes wrong at once, for a minute or for half an hour: `python -m tests.faults --minutes 30`."""
