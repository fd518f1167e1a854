"""Fuzz the readers of untrusted files; see :mod:`scripts.fuzz.runner`."""

import sys

from scripts.fuzz.runner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
