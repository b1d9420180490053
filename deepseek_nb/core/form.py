"""AnswerForm: the shape of an answer as the server itself is told it, apart from the messages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from deepseek_nb.core.tools import call_pieces

__all__ = ["AnswerForm", "Structured", "Way", "json_instruction"]

Structured = Literal["json", "tool", "responses"]
"""How an answer in a shape is asked for.

"json": JSON mode, the schema in the system message. "tool": a function the model has to call, whose
arguments the server holds to the schema (strict mode of the beta address). "responses": the address
``/responses``, whose body has a place for the schema.
"""

Way = Literal["tool", "responses"]
"""Those of them that tell the server the schema apart from the messages."""


def json_instruction(schema_json: str) -> str:
    """What a system message says about the shape, where it is said there."""
    return (
        f"Answer with one JSON object that fits this JSON Schema: {schema_json}\nWrite only the JSON object."
    )


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """A function or a format of this name and schema (JSON text): the only thing to answer with."""

    name: str
    schema_json: str
    way: Way = "tool"

    @property
    def told(self) -> str:
        """All of it, as text: part of the question's fingerprint, and of what its prompt weighs."""
        told = f"{self.name} {self.schema_json}"
        return told if self.way == "tool" else f"{self.way} {told}"

    def fields(self) -> dict[str, Any]:
        """What the body of the request says of it."""
        if self.way == "responses":
            schema = json.loads(self.schema_json)
            return {"text": {"format": {"type": "json_schema", "name": self.name, "schema": schema}}}
        function = {
            "name": self.name,
            "description": "Give the answer.",
            "parameters": json.loads(self.schema_json),
            "strict": True,
        }
        return {
            "tools": [{"type": "function", "function": function}],
            "tool_choice": {"type": "function", "function": {"name": self.name}},
        }

    @staticmethod
    def arguments(piece: Any) -> str:
        """The text of the call in a message, or in a piece of a streamed one; empty where it holds none."""
        # of the first call only: a model that calls twice has answered with the first
        return "".join(call.arguments for call in call_pieces(piece)[:1] if call.index <= 0)
