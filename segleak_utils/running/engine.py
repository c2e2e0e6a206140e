"""Papermill's engine, but for two things: when it saves, and an answer that it may not see."""

from __future__ import annotations

from nbclient.output_widget import OutputWidget
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines
from papermill.log import logger
from zmq import EVENTS

NAME = "segleak"


class _Output(OutputWidget):
    """An `Output` of ipywidgets, which tells the kernel what it shows while a cell runs.

    It does so by the very socket on which the end of the cell is awaited, and sending may take note
    of that answer without waking who waits for it: seen once in a hundred notebooks, where four ran
    on two cores, and then nothing went on until the cell's timeout. So look again.
    """

    def send(self, *args: object, **kwargs: object) -> None:
        super().send(*args, **kwargs)
        self.kernel_client.shell_channel.socket.get(EVENTS)


class Client(PapermillNotebookClient):
    """Papermill's, with an `Output` that does not hide an answer."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.widget_registry = {"@jupyter-widgets/output": {"OutputModel": _Output}}


class Engine(NBClientEngine):
    """Saves a notebook when it has ended, well or not; papermill's own does twice a cell.

    With the pictures of sliders in it that takes a second of a core for every thirty cells.
    """

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: NotebookExecutionManager,
        kernel_name: str,
        *,
        start_timeout: float,
        execution_timeout: float,
        resources: dict,
        **_: object,
    ) -> None:
        path, nb_man.output_path = nb_man.output_path, None
        limits = {"startup_timeout": start_timeout, "timeout": execution_timeout}
        how = {"kernel_name": kernel_name, "resources": resources, "log": logger}
        try:
            Client(nb_man, **limits, **how).execute()
        finally:
            nb_man.output_path = path


papermill_engines.register(NAME, Engine)
