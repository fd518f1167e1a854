"""Start of the process: signals, imports and errors around :mod:`seme_bench.run`."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from seme_bench.interruption import (
    end_after_runs,
    end_at_once,
    exit_code,
    is_ending,
    limit_end,
    raise_if_interrupted,
    say_interrupted,
)


def start(root: Path) -> NoReturn:
    """Run the command line in ``sys.argv`` and end the process; errors are one line each.

    Args:
        root: Folder that relative folders start from; the process moves there.
    """
    gc.disable()  # imports make no garbage; looking for it takes a quarter of a short merge
    end_at_once()
    # only now: what follows takes seconds
    from eval.configuration import check_lengths  # noqa: PLC0415
    from eval.sweep import is_spread  # noqa: PLC0415
    from seme_bench.configuration_files import check_aliases, config_folders  # noqa: PLC0415
    from seme_bench.folders import CONF  # noqa: PLC0415
    from seme_bench.run import main  # noqa: PLC0415

    in_full = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its own message and exits
    gc.freeze()  # what is imported stays to the end
    gc.enable()
    try:
        end_after_runs()
        os.chdir(root)
        with _errors_explained(in_full=in_full):
            check_lengths(sys.argv[1:])
            check_aliases(config_folders(sys.argv[1:], CONF))
            main()
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, KeyboardInterrupt) or is_ending():
            say_interrupted()
            limit_end()
            sys.exit(exit_code())
        if end.code or sys.getprofile() is not None:  # a profile is shown at the very end
            raise
    finally:
        end_at_once()  # nothing is left to do but what libraries do at the end
    if is_spread():  # the launcher ends its processes when this one is taken apart
        sys.exit(0)
    _leave()


@contextmanager
def _errors_explained(*, in_full: bool) -> Iterator[None]:
    """Exit with one line for what the user can change, and for a launcher that failed."""
    from hydra.errors import HydraException  # noqa: PLC0415
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    from eval.override_errors import explain  # noqa: PLC0415
    from eval.sweep import end_early  # noqa: PLC0415
    from seme_bench.folders import CONF  # noqa: PLC0415

    try:
        yield
    except Exception as error:
        raise_if_interrupted(error)
        if in_full:
            raise
        if isinstance(error, HydraException | OmegaConfBaseException | ValueError):
            sys.exit(f"error: {explain(error, sys.argv[1:], CONF)}")
        end_early(error)
        raise


def _leave() -> NoReturn:
    """End the process with 0, without taking the interpreter apart module by module.

    That takes a tenth of a short merge and frees nothing that the system does not.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
