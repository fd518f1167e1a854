"""Signals of a run, in a process of their own."""

import subprocess
import sys

import pytest

from seme_bench.interruption import LINE, WAITS

SCRIPT = """
import os, signal, sys
from seme_bench.interruption import end_after_runs, exit_code, finishing_run, say_interrupted
end_after_runs()
def send(names):
    for name in names.split():
        os.kill(os.getpid(), getattr(signal, name))
try:
    send(sys.argv[1])
    with finishing_run():
        send(sys.argv[2])
        print("first run")
    send(sys.argv[3])
    with finishing_run():
        print("second run")
except KeyboardInterrupt:
    say_interrupted()
    sys.exit(exit_code())
"""


@pytest.mark.parametrize(
    ("before", "during", "between", "runs", "lines", "code"),
    [
        ("", "", "", ["first run", "second run"], [], 0),
        ("", "SIGINT", "", ["first run"], [WAITS, LINE], 130),
        ("", "SIGINT SIGINT", "", [], [WAITS, LINE], 130),
        ("", "SIGINT", "SIGINT", ["first run"], [WAITS, LINE], 130),
        ("", "", "SIGINT", ["first run"], [LINE], 130),
        ("SIGINT", "", "", [], [LINE], 130),
        ("", "SIGTERM", "", [], [LINE], 143),
        ("", "SIGINT SIGTERM", "", [], [WAITS, LINE], 143),
        ("", "SIGHUP", "", [], [LINE], 129),
    ],
)
def test_a_first_ctrl_c_waits_for_the_run_in_hand(
    before, during, between, runs, lines, code, repository
):
    command = [sys.executable, "-c", SCRIPT, before, during, between]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository)
    assert (done.stdout.splitlines(), done.returncode) == (runs, code)
    assert [line for line in done.stderr.splitlines() if line] == lines


def test_a_signal_during_imports_ends_at_once(repository):
    code = (
        "import os, signal\nfrom seme_bench.interruption import end_at_once\nend_at_once()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nprint('not reached')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=repository,
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "", f"\n{LINE}\n")


def test_an_end_that_waits_for_ever_is_cut_short(repository):
    code = (
        "import atexit, os, signal, sys, threading\n"
        "from seme_bench import interruption\n"
        "interruption._LONGEST_END = 0.2\n"
        "interruption.end_after_runs()\n"
        "atexit.register(threading.Event().wait)\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "except KeyboardInterrupt:\n    interruption.limit_end()\n"
        "    sys.exit(interruption.exit_code())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=repository, timeout=60)
    assert done.returncode == 143


def test_an_error_that_takes_the_place_of_an_interruption_is_one(repository):
    code = (
        "import os, signal\n"
        "from seme_bench.interruption import end_after_runs, raise_if_interrupted\n"
        "end_after_runs()\n"
        "try:\n    raise_if_interrupted(ValueError())\n    print('none yet')\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGHUP)\n"
        "    finally:\n        file.close()\n"
        "except NameError as error:\n"
        "    try:\n        raise_if_interrupted(error)\n"
        "    except KeyboardInterrupt:\n        print('interrupted')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository
    )
    assert done.stdout.split("\n") == ["none yet", "interrupted", ""]


@pytest.mark.parametrize("last", ["quiet=true", "tau=7"])
def test_a_signal_at_exit_ends_at_once_after_success_and_failure(last, repository):
    code = (
        "import atexit, os, signal, sys\nfrom pathlib import Path\n"
        "from seme_bench.start import start\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGHUP))\n"
        f"sys.argv[1:] = ['models=zoo', 'suite=none', 'tracker=none', 'plan=true', {last!r}]\n"
        "start(Path.cwd())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, cwd=repository,
    )  # fmt: skip
    assert done.returncode == 129
    assert done.stderr.endswith(f"\n{LINE}\n")
    assert "Traceback" not in done.stderr
