from typing import Any

from deepseek_nb.adapters.joblib_backend import memory as memory
from deepseek_nb.batch.apply import apply as apply
from deepseek_nb.batch.job import Job as Job
from deepseek_nb.batch.plan import Plan as Plan
from deepseek_nb.batch.plan import plan as plan
from deepseek_nb.batch.submit import submit as submit
from deepseek_nb.client.aio import AsyncClient as AsyncClient
from deepseek_nb.client.local_model import LocalModel as LocalModel
from deepseek_nb.client.routes import Route as Route
from deepseek_nb.client.structured import Schema as Schema
from deepseek_nb.client.sync import Client as Client
from deepseek_nb.core import errors as errors
from deepseek_nb.core.chat import Answer as Answer
from deepseek_nb.core.errors import DeepSeekError as DeepSeekError
from deepseek_nb.core.secret import Secret as Secret
from deepseek_nb.core.template import Template as Template
from deepseek_nb.notebook.chat_panel import chat as chat
from deepseek_nb.notebook.dashboard import dashboard as dashboard
from deepseek_nb.playground import use_sandbox as use_sandbox
from deepseek_nb.sandbox import Sandbox as Sandbox
from deepseek_nb.session import aask as aask
from deepseek_nb.session import ask as ask
from deepseek_nb.session import configure as configure
from deepseek_nb.session import conversation as conversation
from deepseek_nb.session import default_client as default_client
from deepseek_nb.session import stream as stream

__version__: str
__all__: list[str]

def load_ipython_extension(shell: Any) -> None: ...
def unload_ipython_extension(shell: Any) -> None: ...
