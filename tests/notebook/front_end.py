"""A front end with widgets for tests: it keeps what a kernel shows, and clicks, over the Jupyter protocol."""

from __future__ import annotations

import ast
import json
import queue
import time
from collections.abc import Callable
from typing import Any

from kernels import CELL_S, DISPLAYS, Kernel

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class FrontEnd:
    """What a browser page would hold: the outputs by their display ids, and the state of each widget."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.widgets: dict[str, dict[str, Any]] = {}
        """Widgets that are open, by comm id."""
        self.outputs: dict[str, dict[str, Any]] = {}
        """The latest bundle of each display, in the order they appeared."""
        self.messages: list[dict[str, Any]] = []
        self.subshell_id: str | None = None
        """Where clicks are sent; None: to the main shell. See :meth:`click_in_a_subshell`."""
        self.idle: set[str] = set()

    # -- listening

    def run(self, code: str) -> dict[str, Any]:
        """Run a cell to its end; gives the reply's content."""
        return self.end(self.start(code))

    def end(self, message_id: str) -> dict[str, Any]:
        """Listen to the end of a cell that was started; gives the reply's content."""
        self.wait(lambda: message_id in self.idle, CELL_S)
        while True:
            reply = self.kernel.client.get_shell_msg(timeout=CELL_S)
            if reply["parent_header"].get("msg_id") == message_id:
                return dict(reply["content"])

    def value(self, expression: str) -> Any:
        """What an expression is in there; it must be plain JSON. Nothing is missed or printed meanwhile."""
        asked = {"value": f"__import__('json').dumps({expression})"}
        told = self.end(str(self.kernel.client.execute("", user_expressions=asked)))["user_expressions"][
            "value"
        ]
        assert told["status"] == "ok", told
        return json.loads(ast.literal_eval(told["data"]["text/plain"]))

    def start(self, code: str) -> str:
        """Begin a cell, without waiting; gives the id of the request."""
        return str(self.kernel.client.execute(code))

    def wait(self, condition: Callable[[], Any], within_s: float = 15.0) -> None:
        """Listen until it holds; fails if it does not in time."""
        end_s = time.monotonic() + within_s
        while not condition():
            left_s = end_s - time.monotonic()
            assert left_s > 0, "it did not come true in time"
            self._listen(min(left_s, 0.1))

    def listen(self, seconds: float) -> None:
        """Listen for so long."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._listen(left_s)

    def _listen(self, timeout_s: float) -> None:
        try:
            message = self.kernel.client.get_iopub_msg(timeout=timeout_s)
        except queue.Empty:
            return
        self.messages.append(message)
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and content["execution_state"] == "idle":
            self.idle.add(message["parent_header"].get("msg_id", ""))
        elif kind in DISPLAYS:
            place = content["transient"].get("display_id", message["header"]["msg_id"])
            if kind == "display_data" or place in self.outputs:
                self.outputs[place] = content["data"]
        elif kind == "comm_open":
            self.widgets[content["comm_id"]] = dict(content["data"]["state"])
        elif kind == "comm_msg" and content["comm_id"] in self.widgets:
            self.widgets[content["comm_id"]].update(content["data"].get("state", {}))
        elif kind == "comm_close":
            self.widgets.pop(content["comm_id"], None)

    # -- looking

    def find(self, **state: Any) -> str:
        """The comm id of the one open widget with that state, such as ``description="Send"``."""
        (found,) = self.find_all(**state)
        return found

    def find_all(self, **state: Any) -> list[str]:
        """The comm ids of all open widgets with that state, in the order they were opened."""
        return [
            comm_id
            for comm_id, held in self.widgets.items()
            if all(held.get(name) == value for name, value in state.items())
        ]

    def html(self) -> str:
        """The values of all open HTML widgets, one below the other."""
        return "\n".join(
            held["value"] for held in self.widgets.values() if held["_model_name"] == "HTMLModel"
        )

    def texts(self, kind: str = "text/markdown") -> list[str]:
        """What is on the page now, as a saved notebook keeps it."""
        return [bundle[kind] for bundle in self.outputs.values() if kind in bundle]

    def errors(self) -> list[str]:
        """What was printed or raised: nothing may."""
        return [
            json.dumps(message["content"])
            for message in self.messages
            if message["msg_type"] in ("stream", "error")
        ]

    # -- acting

    def click(self, **state: Any) -> str:
        """Click the button with that state; gives the id of the message."""
        return self._send(self.find(**state), {"method": "custom", "content": {"event": "click"}})

    def set(self, comm_id: str, **state: Any) -> str:
        """Change a control as a user does."""
        return self._send(comm_id, {"method": "update", "state": state, "buffer_paths": []})

    def click_in_a_subshell(self) -> None:
        """From now on clicks go to a thread of their own, as JupyterLab's do: also while a cell runs."""
        client = self.kernel.client
        client.control_channel.send(client.session.msg("create_subshell_request", {}))
        while (reply := client.get_control_msg(timeout=CELL_S))["msg_type"] != "create_subshell_reply":
            pass
        self.subshell_id = reply["content"]["subshell_id"]

    def _send(self, comm_id: str, data: dict[str, Any]) -> str:
        client = self.kernel.client
        message = client.session.msg("comm_msg", {"comm_id": comm_id, "data": data})
        if self.subshell_id is not None:
            message["header"]["subshell_id"] = self.subshell_id
        client.shell_channel.send(message)
        return str(message["header"]["msg_id"])
