"""What programs report: under observation (`tritonsync run`), and to a fleet's own monitoring (metrics.py).

It may not change what the program does.

Imports: errors, times, settings, _version, format, local.
"""
