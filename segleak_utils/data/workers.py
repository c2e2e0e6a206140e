"""Worker processes that are lean to start and never outlive the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

MOST = 61  # the limit on Windows
Job, Made = TypeVar("Job"), TypeVar("Made")
THREADS = [f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL", "VECLIB")]


def end_with_parent() -> None:
    """In a worker: end as soon as the parent is gone, however it went.

    A worker that waits for work would otherwise wait for good, and hold the pipes of its parent.
    """
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _follow_parent() -> None:
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


def _cores() -> int:
    share = os.environ.get("OMP_NUM_THREADS", "")
    return int(share) if share.isdecimal() and int(share) else os.cpu_count() or 1


def in_processes(
    work: Callable[[Job], Made], jobs: Sequence[Job], workers: int | None, *, chunksize: int = 1
) -> Iterator[Made]:
    """What `work`, which must be picklable, makes of the jobs, in order; None: a worker a core.

    Where OMP_NUM_THREADS says how many cores are this process's share, so many. With one worker
    all is done here. Closing the iterator cancels what has not begun, and waits.
    """
    workers = min(workers or _cores(), MOST, len(jobs))
    if workers <= 1:
        yield from map(work, jobs)
        return
    # spawn: forking beside torch's threads may deadlock
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, initializer=_follow_parent)
    try:
        with lean_children():  # map starts all workers before it returns
            made = pool.map(work, jobs, chunksize=chunksize)
        yield from made
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
