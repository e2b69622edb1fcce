"""Reads an uploaded adapter_config.json, within the bounds of uploads."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mindprint.adapter_config import AdapterConfig, WrongAdapterConfig, judge_config
from mindprint_server.bounded_json import JsonRefused, parse_json
from mindprint_server.exceptions import Invalid
from mindprint_server.settings import AdapterSettings


def read_config(
    text: bytes,
    *,
    max_rank: int,
    targets: Collection[str],
    settings: AdapterSettings,
    ignored: Collection[str] = (),
) -> AdapterConfig:
    """Parse adapter_config.json, and check that the engine does what it says.

    Args:
        text: Content of the file.
        max_rank: Largest rank.
        targets: Names of the modules that may be adapted.
        settings: Bounds of uploads.
        ignored: Those of `rank_pattern` and `alpha_pattern` that this release of the engine ignores.

    Raises:
        Invalid: The adapter cannot be served.
    """
    try:
        return judge_config(
            _parse(text, settings),
            max_rank=max_rank,
            targets=targets,
            max_alpha=settings.max_lora_alpha,
            ignored=ignored,
        )
    except WrongAdapterConfig as error:
        raise Invalid(error.code, str(error), param=error.param) from None


def _parse(text: bytes, settings: AdapterSettings) -> dict[str, Any]:
    if len(text) > settings.max_adapter_config_bytes:
        raise Invalid(
            "adapter_config",
            f"adapter_config.json has {len(text)} bytes, more than {settings.max_adapter_config_bytes}: "
            "upload the file that PEFT wrote, or raise max_adapter_config_bytes",
        )
    try:
        config = parse_json(text, max_depth=settings.max_upload_json_depth)
    except JsonRefused as error:
        raise Invalid(
            "adapter_config",
            f"adapter_config.json cannot be read ({error}): upload the file that PEFT wrote",
            param=f"config.{error.path}" if error.path else "config",
        ) from None
    if not isinstance(config, dict):
        raise Invalid("adapter_config", "adapter_config.json is no JSON object: upload the file that PEFT wrote")
    return config
