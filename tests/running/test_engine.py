"""An answer that arrives while an `Output` is told something is not missed."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import zmq
import zmq.asyncio
from nbclient.output_widget import OutputWidget

from segleak_utils.running.engine import _Output


async def _waited(kind: type[OutputWidget]) -> float:
    """Seconds until an answer is seen that arrives just before such a widget sends something."""
    context = zmq.asyncio.Context()
    ours, theirs = context.socket(zmq.PAIR), zmq.Context().socket(zmq.PAIR)
    port = theirs.bind_to_random_port("tcp://127.0.0.1")
    ours.connect(f"tcp://127.0.0.1:{port}")
    await ours.send(b"begin")
    theirs.recv()
    shadow = zmq.Socket.shadow(ours.underlying)  # as jupyter_client sends
    channel = SimpleNamespace(socket=ours, send=lambda message: shadow.send(b"comm"))
    session = SimpleNamespace(msg=lambda *_, **__: {})
    widget = kind(
        "id", {"outputs": []}, SimpleNamespace(shell_channel=channel, session=session), None
    )
    widget.parent_header = {}
    began, answer = time.monotonic(), asyncio.ensure_future(ours.poll(2000))
    await asyncio.sleep(0.05)  # now it waits
    theirs.send(b"answer")
    time.sleep(0.1)  # it is there before the loop looks
    widget.send({})
    assert await answer
    took = time.monotonic() - began
    for socket in (ours, theirs):
        socket.close(linger=0)
    return took


def test_the_end_of_a_cell_is_seen_although_an_output_speaks():
    assert asyncio.run(_waited(_Output)) < 1
    # what this is for: once it sees it at once, too, ours can go
    assert asyncio.run(_waited(OutputWidget)) > 1.5
