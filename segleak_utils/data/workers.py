"""Worker processes that are lean to start and never outlive the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

THREADS = [f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL", "VECLIB")]


def end_with_parent() -> None:
    """In a worker: end as soon as the parent is gone, however it went.

    A worker that waits for work would otherwise wait for good, and hold the pipes of its parent.
    """
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def follow_parent() -> None:
    """The same, and leave Ctrl-C to the parent, who tells the workers when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


@contextmanager
def lean_children() -> Iterator[None]:
    """Processes spawned inside run one thread each and do not run the caller's script again."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), main.__dict__.pop("__file__", None)
    before = {name: os.environ.get(name) for name in THREADS}
    try:
        main.__spec__ = None
        os.environ.update(dict.fromkeys(THREADS, "1"))
        yield
    finally:
        main.__spec__ = spec
        if file is not None:
            main.__file__ = file
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
