"""A scripted busy DeepSeek on loopback: a SIMULATION of the service, for demos, tests and measurements.

Real sockets, the real service's bytes as far as they are known, its errors, prefix cache, prices
and balance, and every way it is known to fail, by name. The answers are made by plain rules and
mean nothing, or are replayed from a recording.
"""

from deepseek_nb.sandbox.faults import FAULTS, Fault, FaultSpec, fault_table
from deepseek_nb.sandbox.log import RequestLog, RequestRecord
from deepseek_nb.sandbox.questions import Call, Completion, ParsedRequest, Refused
from deepseek_nb.sandbox.replay import Replay
from deepseek_nb.sandbox.script import Ask, FaultScript
from deepseek_nb.sandbox.server import Sandbox
from deepseek_nb.sandbox.setup import Setup
from deepseek_nb.sandbox.weather import SCENARIOS, Weather, ideal_s, weather_of

__all__ = [
    "FAULTS",
    "SCENARIOS",
    "Ask",
    "Call",
    "Completion",
    "Fault",
    "FaultScript",
    "FaultSpec",
    "ParsedRequest",
    "Refused",
    "Replay",
    "RequestLog",
    "RequestRecord",
    "Sandbox",
    "Setup",
    "Weather",
    "fault_table",
    "ideal_s",
    "weather_of",
]
