"""Kill sweeps at random moments; see :mod:`scripts.kill_runs.trials`."""

import sys

from scripts.kill_runs.trials import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
