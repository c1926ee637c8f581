"""`python -m tritonsync`: the command line.

Imports: cli.
"""

from tritonsync.cli import main

if __name__ == "__main__":
    main()
