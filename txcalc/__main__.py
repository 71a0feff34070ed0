"""The ``txcalc`` program, and ``python -m txcalc``: a process that loads, answers once and ends."""

import atexit
import gc
import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line as a process of its own."""
    # A short run makes many objects that live to its end: looking through them for garbage is a tenth of its time.
    gc.set_threshold(1_000_000, 50, 50)
    # Pydantic's plugins are for servers that trace their validation; to look for them reads every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from txcalc.cli.app import main as run

    try:
        run()
    except SystemExit as end:
        code = 0 if end.code is None else end.code
        if isinstance(code, int):
            _leave(code)
        raise
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End at once: taking the interpreter apart, object by object, takes longer than most counts."""
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except (OSError, ValueError):
        sys.exit(code)  # as an interpreter ends that cannot write
    atexit._run_exitfuncs()
    os._exit(code)


if __name__ == "__main__":
    main()
