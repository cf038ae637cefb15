"""LangChain's standard tests of a chat model, for `.venv-conformance`: `SUITE_URL` and `SUITE_KEY` say against what."""

import os
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestChat(ChatModelIntegrationTests):
    """All of them; what a model this small cannot do fails directly, too."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        """See ChatModelTests."""
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """See ChatModelTests."""
        return {
            "model": "smollm2",
            "base_url": os.environ["SUITE_URL"],
            "api_key": os.environ["SUITE_KEY"],
            "temperature": 0,
            "max_tokens": 24,
            "max_retries": 0,
            "timeout": 60,
            "stream_usage": True,
        }
