"""A program run under observation (`tritonsync run`): what its processes report, and what came of it.

It may not change what the program does.

Imports: errors, settings.
"""
