"""Several servers on one PostgreSQL database and one artifact store, each with its own data folder and engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from databases import new_database
from lives import Gate, Loader
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services
from samples import write_tensors
from scripted import serving
from weights import BASE


def base_model(folder: Path) -> Path:
    """A base model of one layer, as far as shapes go."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    write_tensors(folder / "model.safetensors", BASE)
    return folder


@asynccontextmanager
async def replicas(folder: Path, count: int, **changes: Any) -> AsyncIterator[list[Services]]:
    """Servers on one database. Their engines read the files of adapters, as vLLM does, and their gate passes all.

    The server that takes an upload checks it: the tokenizers of fake engines differ.
    """
    base = base_model(folder / "base")
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(new_database("postgresql", folder))
        opened = []
        for number in range(count):
            settings = Settings(
                engine="fake", model=str(base), gate=False, profile_every=1000, data_dir=folder / f"server-{number}",
                database_url=SecretStr(url), artifact_url=str(folder / "shared"), publication_poll_s=60,
            )  # fmt: skip
            changed = settings.model_copy(update=changes)
            services = await stack.enter_async_context(serving(changed, Loader(base)))
            services.publications._publisher._gate = Gate()
            opened.append(services)
        yield opened
