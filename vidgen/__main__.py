"""`python -m vidgen` is `vidgen`."""

from vidgen.cli import main

if __name__ == "__main__":
    main()
