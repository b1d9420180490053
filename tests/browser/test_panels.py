"""The panels in a real JupyterLab: what is typed and clicked is heard, and what is saved reads well."""

from __future__ import annotations

from .lab import until

LOAD = "import deepseek_nb as ds"


def test_a_chat_is_typed_into(open_notebook, sandbox):
    """Type, Send: the question and a rendered answer stand in the panel; the next question knows them."""
    notebook = open_notebook("chat", LOAD, "ds.chat('sky')")
    notebook.run_all()
    panel = notebook.output(1).first
    question = panel.locator("textarea")
    question.wait_for()
    send = panel.get_by_role("button", name="Send")
    question.fill("Why is the sky blue?")
    question.press("Tab")
    send.click()
    panel.locator("table td").first.wait_for()
    until(lambda: send.is_enabled())
    question.fill("And at night?")
    question.press("Tab")
    send.click()
    until(lambda: "You said: And at night?" in panel.inner_text())
    until(lambda: send.is_enabled())
    assert len(sandbox.log) == 2
    assert sandbox.log[1].prompt_tokens > sandbox.log[0].prompt_tokens, "what was said before goes along"
    assert panel.locator("script, img").count() == 0
    notebook.screenshot("asked")
    again = open_notebook("chat_saved", saved=notebook.save())
    again.output(1).last.locator("summary").click()
    for said in ("Why is the sky blue?", "450 nm", "You said: And at night?"):
        assert said in again.output(1).last.inner_text()
    again.screenshot("without_kernel")
