"""`python -m tritonsync`: the command line."""

from tritonsync.cli import main

if __name__ == "__main__":
    main()
