"""The text that the tokens in `logprobs` make up."""

from typing import Any


def tokens_of(logprobs: dict[str, Any]) -> str:
    """The tokens as one text. They may run ahead of the text itself while the model server looks out for a stop string."""
    tokens: list[Any] = []
    for name in ("content", "refusal", "tokens"):
        found = logprobs.get(name)
        if isinstance(found, list):
            tokens += [item.get("token") if isinstance(item, dict) else item for item in found]
    return "".join(token for token in tokens if isinstance(token, str))
