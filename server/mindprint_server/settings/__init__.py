"""Every bound, time-out and default of the server: a TOML file, then `MINDPRINT_*` variables, then flags."""

from __future__ import annotations

from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from mindprint_server.settings.access import AccessSettings
from mindprint_server.settings.adapters import AdapterSettings
from mindprint_server.settings.artifacts import ArtifactSettings
from mindprint_server.settings.auto_mode import AutoModeSettings
from mindprint_server.settings.engine import EngineSettings
from mindprint_server.settings.gate import GateSettings
from mindprint_server.settings.generation import GenerationSettings
from mindprint_server.settings.limits import LimitSettings
from mindprint_server.settings.memory import MemorySettings
from mindprint_server.settings.operation import OperationSettings
from mindprint_server.settings.personal_data import PersonalDataSettings
from mindprint_server.settings.queue import QueueSettings
from mindprint_server.settings.quotas import QuotaSettings
from mindprint_server.settings.server import ServerSettings
from mindprint_server.settings.verdicts import VerdictSettings

__all__ = [
    "AccessSettings",
    "AdapterSettings",
    "ArtifactSettings",
    "AutoModeSettings",
    "EngineSettings",
    "GateSettings",
    "GenerationSettings",
    "LimitSettings",
    "MemorySettings",
    "OperationSettings",
    "PersonalDataSettings",
    "QueueSettings",
    "QuotaSettings",
    "ServerSettings",
    "Settings",
    "VerdictSettings",
]


class Settings(
    AutoModeSettings,
    GateSettings,
    AdapterSettings,
    ArtifactSettings,
    QueueSettings,
    VerdictSettings,
    GenerationSettings,
    MemorySettings,
    QuotaSettings,
    LimitSettings,
    EngineSettings,
    AccessSettings,
    PersonalDataSettings,
    OperationSettings,
    ServerSettings,
    BaseSettings,
):
    """All settings of the server. Flags win over the environment, the environment over the TOML file.

    Names are flat, as in vLLM's `AsyncEngineArgs`. Annotate a service's settings with the group that it reads.
    """

    model_config = SettingsConfigDict(
        env_prefix="MINDPRINT_",
        toml_file="mindprint.toml",
        env_parse_none_str="null",
        extra="forbid",
        hide_input_in_errors=True,  # a misspelt setting may hold a password
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of settings, the strongest first: flags, environment, TOML file.

        Args:
            settings_cls: The class of settings.
            init_settings: What was passed as arguments, that is, the flags.
            env_settings: The environment.
            dotenv_settings: Not used.
            file_secret_settings: Not used.
        """
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
