"""How a process ends."""

import subprocess
import sys

PROGRAM = """
import atexit
from eval.conclusion import leave
atexit.register(print, "registered")
print("written")
leave()
print("never")
"""


def test_whoever_leaves_has_written_all_and_done_what_was_registered(repository, tmp_path):
    with (tmp_path / "out").open("w") as out:  # a file: what is written waits in a buffer
        subprocess.run([sys.executable, "-c", PROGRAM], cwd=repository, stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "written\nregistered\n"
