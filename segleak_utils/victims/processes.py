"""Processes that train one network together: torchrun starts them, `processes` joins them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from segleak_utils.victims.asking import best_device

JOINED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets for each process
PATIENCE = timedelta(days=30)  # gloo and NCCL would give up a wait after 30 or 10 minutes
T = TypeVar("T")

_patient: list[dist.ProcessGroup] = []  # at most one: all processes, on CPUs


def launch(n: int, module: str, arguments: Sequence[str] = ()) -> list[str]:
    """The command that runs `module` in `n` processes on this machine, by torchrun.

    It works without a network. ValueError for less than one process.
    """
    if n < 1:
        raise ValueError(f"{n} processes; expected at least 1")
    options = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={n}"]
    # the address is given since a machine's own name need not resolve
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", module, *arguments]


def run_processes(n: int, module: str, arguments: Sequence[str] = ()) -> int:
    """Run `module` in `n` processes, see `launch`; return torchrun's exit code.

    Ctrl-C ends them all, which may take some seconds, and is raised again; so does a SIGTERM.
    """
    agent = subprocess.Popen(launch(n, module, arguments))
    main = threading.current_thread() is threading.main_thread()
    if main:  # a scheduler's SIGTERM comes to this process alone; they would go on training
        before = signal.signal(signal.SIGTERM, lambda *_: agent.terminate())
    try:
        return agent.wait()
    except KeyboardInterrupt:
        # torchrun got it, too, if a terminal sent it; killed, it would leave its processes training
        try:
            agent.wait(timeout=30 if sys.stdin and sys.stdin.isatty() else 2)
        except subprocess.TimeoutExpired:
            agent.terminate()
            agent.wait()
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def processes() -> Iterator[None]:
    """Join the processes torchrun started (NCCL on GPUs, else gloo); alone, do nothing.

    Raises ValueError where WORLD_SIZE is set by something else than torchrun, or where there are
    more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield
        return
    if missing := [name for name in JOINED if name not in os.environ]:
        raise ValueError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} not set: start "
            "the processes by torchrun, or unset WORLD_SIZE"
        )
    if torch.cuda.is_available():
        local, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= found:
            raise ValueError(f"process {local + 1} of this machine has no GPU: there are {found}")
        torch.cuda.set_device(local)
        dist.init_process_group("nccl", device_id=torch.device("cuda", local))
    else:
        dist.init_process_group("gloo")
    try:
        yield
    finally:
        _patient.clear()
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return rank() == 0


def joined() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if joined() else 0


def world() -> int:
    """How many processes train together; 1 alone."""
    return dist.get_world_size() if joined() else 1


def wait() -> None:
    """Wait until all processes are here, however long one of them works; alone, do nothing."""
    if joined():
        dist.barrier(_group())


def of_first(value: T) -> T:
    """The first process's value (what can be pickled), in all of them; alone, the value itself.

    >>> of_first([3, 1])
    [3, 1]
    """
    if not joined():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_group())
    return values[0]


def _group() -> dist.ProcessGroup:
    if not _patient:
        _patient.append(dist.new_group(backend="gloo", timeout=PATIENCE))
    return _patient[0]


def device() -> torch.device:
    """Where this process trains: on a GPU of its own if it has joined others and there is one."""
    if joined() and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return best_device()
