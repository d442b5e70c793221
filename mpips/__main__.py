"""`python -m mpips` is the `mpips` command."""

import sys

from mpips.cli import main

if __name__ == "__main__":
    sys.exit(main())
