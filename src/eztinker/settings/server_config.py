"""Settings of a server, read from flags, then EZTINKER_* variables, then eztinker.toml, then defaults.

`ServerConfig` is the only list of them: flags and their help, variables, eztinker.toml and docs/configuration.md are
made from it.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from eztinker.errors import ConfigError
from eztinker.keys.key_format import check_api_key
from eztinker.settings.addresses import is_loopback
from eztinker.settings.data_dir import SETTINGS_FILE, default_data_dir
from eztinker.settings.home import expanded, require_utf8
from eztinker.settings.schema import Shown, complaint, settings_of

ENV_PREFIX = "EZTINKER_"
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+/?")


class ServerConfig(BaseSettings):
    """Settings of a server, as the operator decides them. Read once at start, never changed while the server runs."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on. Anything but loopback also needs allow_remote.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data_dir: Annotated[Path, Shown(flags=("--data-dir", "--checkpoints-dir"), default="~/.eztinker")] = Field(
        default_factory=default_data_dir,
        description="Directory for the key, the operation log and all checkpoints.",
    )
    base_model: Annotated[list[str], NoDecode, Shown(metavar="NAME[=DIRECTORY]", default="the embedded model")] = Field(
        default_factory=list,
        description="A base model to serve: a hub id, a directory, or the embedded model. NAME=DIRECTORY gives a "
        "directory a name. Several are separated by commas in the environment, and are a list in a file. By default "
        "Qwen/Qwen2-0.5B-Instruct is served too, where the hub's cache has it.",
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Numbers of the base weights. With auto they are bfloat16 where the device multiplies it fast.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where the engine computes; auto takes a GPU where there is one."
    )
    threads: Annotated[int | None, Shown(default="the physical cores")] = Field(
        None, ge=1, description="CPU threads of the engine."
    )
    max_batch_size: int = Field(128, ge=1, description="Sequences the sampler decodes at once.")
    max_train_tokens: int = Field(
        512,
        ge=1,
        description="Tokens in one training micro-batch. More need more memory, four times that if several keys train.",
    )
    max_runs: int = Field(256, ge=1, description="Training runs loaded at once. One key alone may have half of them.")
    root_path: str = Field("", description="Path under which a reverse proxy publishes the server.")
    allow_remote: bool = Field(
        False, description="Allow an address that other machines reach. EZTINKER_API_KEY must then be set."
    )
    api_key: Annotated[SecretStr | None, Shown(default="generated once into the data directory")] = Field(
        None, description="Key that clients must send; environment only."
    )
    max_wrong_keys: int = Field(
        1000,
        ge=1,
        description="Wrong keys that one address may send in a minute. Then only keys that were right before are "
        "looked at until the minute is over. Behind a proxy, all clients have its address.",
    )
    max_body_bytes: int = Field(
        2**30,
        ge=2**20,
        description="What the bodies of requests on their way may take in memory. Training batches take twice their "
        "size, and one key alone may have half of it. Beyond that clients are told to come again. The default has room "
        "for two batches of 120 MB of one key, or for the largest adapter that can be imported.",
    )
    session_timeout_seconds: Annotated[
        float, Shown(flags=("--session-timeout", "--session-timeout-seconds"), metavar="SECONDS")
    ] = Field(
        900.0,
        gt=0,
        description="A client silent for this long loses its session. Clients send a heartbeat every 10 s.",
    )
    snapshot_operations: int = Field(
        100, ge=1, description="Operations between two snapshots of a training run, for recovery from a crash."
    )
    snapshot_seconds: float = Field(
        60.0, gt=0, description="Longest time between two snapshots of a training run that is in use."
    )
    max_result_bytes: int = Field(
        2**30,
        ge=2**20,
        description="What results that wait for clients may take in the operation log. Beyond that the oldest go.",
    )
    max_recorded_bytes: int = Field(
        2**28,
        ge=2**20,
        description="What an owner's recorded samples may take in the operation log. They are recorded for "
        "stable_reinforce; those unused for longest go.",
    )
    engine_stall_seconds: float = Field(
        600.0, gt=0, description="An engine that has work and makes no progress for this long is killed and replaced."
    )
    poll_hold_seconds: float = Field(
        30.0,
        gt=0,
        le=40,
        description="How long a poll for a result is held open at most. The official client waits 45 s.",
    )

    @field_validator("base_model", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @field_validator("data_dir")
    @classmethod
    def _make_absolute(cls, value: Path) -> Path:
        return require_utf8(expanded(value), "The data directory").absolute()

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        if value and not _ROOT_PATH.fullmatch(value):
            raise ConfigError(f"The root path must look like /prefix, got {value!r}")
        return value.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_api_key(value.get_secret_value(), source="EZTINKER_API_KEY")
        return value

    @model_validator(mode="after")
    def _stay_on_this_machine_unless_told(self) -> Self:
        if is_loopback(self.host):
            return self
        if not self.allow_remote:
            raise ConfigError(
                f"Other machines could reach host {self.host!r}, and this server speaks plain HTTP; keep 127.0.0.1, "
                "or put TLS in front and add --allow-remote"
            )
        if self.api_key is None:
            raise ConfigError(f"Host {self.host!r} with --allow-remote needs a key of your own; set EZTINKER_API_KEY")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        above = (init_settings, env_settings, _SettingsFile(settings_cls, Path(SETTINGS_FILE)))
        named = next((values["data_dir"] for source in above if "data_dir" in (values := source())), None)
        data_dir = expanded(named) if named else default_data_dir()
        return (*above, _SettingsFile(settings_cls, data_dir / SETTINGS_FILE))


def load_config(**flags: Any) -> ServerConfig:
    """The settings in force; `flags` win over all other sources, and a flag that is None was not given.

    Raises:
        ConfigError: a setting is unknown or cannot work; the message says where it stands and what to do.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return ServerConfig(**given)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        where = "--" + name.replace("_", "-") if name in given else ENV_PREFIX + name.upper()
        raise ConfigError(f"{where}: {complaint(name, error)}") from error


class _SettingsFile(PydanticBaseSettingsSource):
    """Values of one eztinker.toml; an absent file has none."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path) -> None:
        super().__init__(settings_cls)
        self._path = path

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        try:
            text = self._path.read_text(encoding="utf-8")
            values = tomllib.loads(text)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be read ({error.strerror}); run as its owner") from error
        except ValueError as error:
            raise ConfigError(f"{self._path} cannot be read: {error}; correct it or remove it") from error
        for name, value in values.items():
            self._check(name, value, f"{self._path}, line {_line_of(name, text)}")
        return values

    def _check(self, name: str, value: object, where: str) -> None:
        settings = settings_of(self.settings_cls)
        if name not in settings:
            allowed = ", ".join(sorted(name for name, setting in settings.items() if not setting.is_secret))
            raise ConfigError(f"{where}: unknown setting {name!r}; remove it, or use one of {allowed}")
        if settings[name].is_secret:
            raise ConfigError(f"{where}: a key does not belong in a settings file; set {settings[name].variable}")
        try:
            settings[name].checked(value)
        except ValidationError as error:
            raise ConfigError(f"{where}: {complaint(name, error)}") from error


def _line_of(name: str, text: str) -> int:
    """Line number of a top-level key or table; the TOML reader of the standard library does not tell."""
    key = re.compile(rf"""\s*\[*\s*["']?{re.escape(name)}["']?\s*[=.\]]""")
    return next(number for number, line in enumerate([*text.splitlines(), f"{name}="], 1) if key.match(line))
