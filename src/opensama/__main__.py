"""`python -m opensama` is the command `opensama`; so torchrun starts it."""

import sys

from opensama.apps.cli import main

if __name__ == "__main__":
    sys.exit(main())
