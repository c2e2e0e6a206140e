"""`python3 -m segleak_utils.run`."""

import sys

from segleak_utils.run import main

if __name__ == "__main__":  # a process that is spawned imports this, too
    sys.exit(main())
