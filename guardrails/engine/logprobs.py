"""The text that the tokens in `logprobs` make up."""

from typing import Any


def tokens_of(logprobs: dict[str, Any]) -> str:
    """The tokens as one text. They may run ahead of the text itself while the model server looks out for a stop string."""
    chat = logprobs.get("content")
    tokens = (
        [item.get("token") for item in chat if isinstance(item, dict)]
        if isinstance(chat, list)
        else logprobs.get("tokens")
    )
    return "".join(token for token in tokens or [] if isinstance(token, str))
