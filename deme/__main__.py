"""`python -m deme` is `deme`."""

import sys

from deme.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
