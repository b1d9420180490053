"""DeepSeek in the notebook: cell magics, DataFrame jobs and a client that gets its work through a busy server."""

__version__ = "0.1.0.dev0"
