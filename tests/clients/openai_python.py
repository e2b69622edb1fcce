"""OpenAI's own client for Python."""

from __future__ import annotations

from typing import Any

import openai

from openai_shaped import OWN, OpenAIShaped
from surface import Target, same

PACKAGES = ("openai",)


class Client(OpenAIShaped):
    """The client, connected to a server."""

    bad_request = openai.BadRequestError
    not_found = openai.NotFoundError

    def __init__(self, target: Target) -> None:
        self._client = openai.OpenAI(base_url=target.url, api_key="none", max_retries=0, timeout=300)

    def close(self) -> None:
        self._client.close()

    def ask(self, **body: Any) -> Any:
        return self._client.chat.completions.create(**body)

    def complete(self, **body: Any) -> Any:
        return self._client.completions.create(**body)

    def respond(self, **body: Any) -> Any:
        return self._client.responses.create(**body)

    def list_models(self) -> None:
        assert "base" in [model.id for model in self._client.models.list()]

    def retrieve_model(self) -> None:
        same(self._client.models.retrieve("user/ann").id, "user/ann")

    def personal(self) -> None:
        same(self.ask(**OWN).mindprint["mode"], "personal")
