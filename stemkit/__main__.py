"""``python -m stemkit``."""

import sys

from stemkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
