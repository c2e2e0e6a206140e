"""One command for everything: it makes its own environment if need be, then runs, tests or opens.

    python3 -m segleak_utils.run            run all notebooks, print the table
    python3 -m segleak_utils.run test       ruff and the tests
    python3 -m segleak_utils.run lab        open JupyterLab
    python3 -m segleak_utils.run site       executed notebooks, docs and docstrings as pages
    python3 -m segleak_utils.run weights    retrain what is shipped in weights/
    python3 -m segleak_utils.run camvid --root DIR
    python3 -m segleak_utils.run defenses [--only NAME] [--camvid DIR]
    python3 -m segleak_utils.run beyond [--camvid DIR] | epsilon | growth | risk
    python3 -m segleak_utils.run audit audit.yml    your own model, see docs/audit.md
    python3 -m segleak_utils.run paper CONFIG STEP --root NAME=DIR    see docs/reproduce.md

Only the standard library is imported at module level, and the syntax is kept old, so that a bare
Python can start this room and an outdated one still says what is wrong.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from segleak_utils.run.commands import dispatch
from segleak_utils.run.environment import INTERRUPTED, bootstrap, check_python
from segleak_utils.run.options import parse

REFUSED = ("EACCES", "EPERM", "EROFS", "ENOSPC", "ENOTDIR", "EISDIR", "EEXIST")  # writing was


def complaint(error: OSError) -> str:
    """What the system refused, in one sentence: which file or folder, and why."""
    if error.filename is None or errno.errorcode.get(error.errno) not in REFUSED:
        return str(error)
    path = Path(os.fsdecode(error.filename))
    unread = path.is_file() and not os.access(path, os.R_OK)
    deed = "read" if unread else "written"
    return f"{path} cannot be {deed}: {error.strerror}. Mend that, or name another folder"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, see to the packages, run the command; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # a Windows console may know no "…"
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    check_python(tuple(sys.version_info[:3]))
    options = parse(arguments)
    try:
        code = None if options.no_install else bootstrap(arguments)
        return dispatch(options) if code is None else code
    except KeyboardInterrupt:
        print("\nsegleak: stopped. The same line starts again.", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:  # a ConnectionError, too
        print(f"segleak: {complaint(error)}", file=sys.stderr)
        return 1
