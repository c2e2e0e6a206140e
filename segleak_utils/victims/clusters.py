"""Trainings side by side: on the cores of one machine, or on the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def engine(cluster: str | None) -> Iterator[None]:
    """What `joblib.Parallel` does runs on the Dask cluster at that address; here for None.

    ConnectionError where no scheduler answers.
    """
    if cluster is None:
        yield
        return
    import joblib
    from distributed import Client

    try:
        client = Client(cluster, timeout=5)
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Dask scheduler answers at {cluster}: {error}") from error
    with client, joblib.parallel_config(backend="dask"):
        yield


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A worker of several takes one core: a network this small gains little from a second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
