"""Processes that train together: joined, waited for, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from segleak_utils.victims.processes import is_first, launch, processes, run_processes


def test_alone_there_is_nothing_to_join(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes():
        assert is_first() and not torch.distributed.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ValueError, match=r"WORLD_SIZE is 2, but .*MASTER_PORT"), processes():
        pass
    with pytest.raises(ValueError, match="0 processes"):
        launch(0, "module")


@pytest.mark.parametrize(("terminal", "patience"), [(True, 30), (False, 2)])
def test_ctrl_c_waits_until_torchrun_has_ended_its_processes(monkeypatch, terminal, patience):
    """Without a terminal nobody has told torchrun of the Ctrl-C."""
    did = []

    class Agent:
        def __init__(self, command):
            did.append(command[-3:])

        def wait(self, timeout=None):
            did.append(timeout)
            if timeout is None and len(did) == 2:
                raise KeyboardInterrupt
            if timeout is not None:
                raise subprocess.TimeoutExpired("torchrun", timeout)
            return 1

        def terminate(self):
            did.append("terminate")

    monkeypatch.setattr(subprocess, "Popen", Agent)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: terminal))
    with pytest.raises(KeyboardInterrupt):
        run_processes(2, "module", ["argument"])
    assert did == [["-m", "module", "argument"], None, patience, "terminate", None]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_schedulers_sigterm_ends_torchrun_too(monkeypatch):
    did = []

    class Agent:
        def __init__(self, command):
            pass

        def wait(self, timeout=None):
            os.kill(os.getpid(), signal.SIGTERM)
            return 1

        def terminate(self):
            did.append("terminate")

    monkeypatch.setattr(subprocess, "Popen", Agent)
    before = signal.getsignal(signal.SIGTERM)
    assert run_processes(2, "module") == 1
    assert did == ["terminate"] and signal.getsignal(signal.SIGTERM) is before
