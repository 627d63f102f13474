"""Every setting of the server, read once from SHITU_* variables and the command line. The only module that reads the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shitu_models.repository import user_data_dir
from shitu_models.specs import Profile
from shitu_models.triton_config import Accelerator
from shitu_server.errors import ConfigurationError

_PREFIX: Final = "SHITU_"
LEAST_AGE_S: Final = 0.1
"""Clients that connect anew more often do nothing else."""
_WEB_ADDRESS: Final = re.compile(r"https?://[^/\s]+:[0-9]+/?")


class Role(str, Enum):
    """Which part of the server a process is."""

    ALL = "all"
    GATEWAY = "gateway"
    GALLERY = "gallery"


class MilvusConsistency(str, Enum):
    """Who waits until a write is seen by every search."""

    STRONG = "strong"
    """Searches, about 0.2 s each."""
    BOUNDED = "bounded"
    """Writes, 0.5 s each."""


class SearchDevice(str, Enum):
    """What compares the vectors of flat galleries."""

    CPU = "cpu"
    GPU = "gpu"


class LogLevel(str, Enum):
    """The least of what is logged, to stderr."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shitu"


class Settings(BaseSettings):
    """Frozen. Each field is the variable SHITU_<NAME IN CAPITALS>; most are options of `shitu serve` too."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address that the gateways listen on; 0.0.0.0 for all."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8200
    """0 takes a free one."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Gateway processes; they share the port."""
    data_dir: Path = Field(default_factory=user_data_dir)
    """Galleries and logs."""
    cache_dir: Path = Field(default_factory=_cache_home)
    """The assembled Triton and the records of runs; may be deleted while nothing runs."""
    model_repository: Path | None = None
    """Folder of the models; the one that comes with shitu where unset."""
    detector: str = "demo_det"
    encoder: str = "demo_rec"
    """One or more, with commas between; new galleries are bound to the first where they name none."""
    encoder_versions: Annotated[int, Field(ge=1, le=2)] = 2
    """Of each encoder the newest ones; with 1 it takes half the memory, and a new version ends the galleries of the former."""
    profile: Profile = Profile.TRAINED
    """Whose preprocessing pictures go through on their way to the encoders."""
    served_file: Path | None = None
    """Tells a gateway of `--role all` what Triton runs; a gateway alone looks into its model repository."""
    instances: Annotated[int, Field(ge=1, le=64)] = 1
    """Of each model in the embedded Triton; each has its own session, and a process."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Of one instance on the CPU; 0 shares the processors evenly among the instances of a model."""
    accelerator: Accelerator = Accelerator.NONE
    """What the embedded Triton runs the models with."""
    max_queue_delay_us: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """How long the embedded Triton holds a request back to merge it with others. Unset it is 1000 on a GPU, and 0 without one: there
    requests gather at the gateways while a model runs, and to wait for more is time in which it could run."""
    gallery_address: str = ""
    """unix:/path or host:port of the gallery process; `--role all` makes a socket of its own where unset."""
    milvus_address: str = ""
    """http://host:port or https://host:port of a Milvus that keeps the galleries instead of a gallery process."""
    milvus_token: str = ""
    """user:password, or an API key."""
    milvus_consistency: MilvusConsistency = MilvusConsistency.BOUNDED
    """Who waits until a write is seen by every search; the same at all gateways."""
    snapshots: str = ""
    """Files with commas between: a gallery process alone serves the galleries in them, and takes no writes."""
    triton_address: str = ""
    """host:port of Triton's gRPC; `--role all` starts an embedded one where unset."""
    triton_shared_memory: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,160}$")] = ""
    """How the segments in /dev/shm begin through which pixels go to a Triton elsewhere on the same host, which must run as the same
    user; in messages where unset. The embedded Triton gets them so anyway."""
    triton_shared_memory_bytes: Annotated[int, Field(ge=1024 * 1024, le=16 * 1024**3)] = 32 * 1024 * 1024
    """Of each gateway; what does not fit goes in messages."""

    max_image_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    max_image_pixels: Annotated[int, Field(ge=1024)] = 50_000_000
    min_image_side_px: Annotated[int, Field(ge=1)] = 8
    max_boxes: Annotated[int, Field(ge=1, le=1000)] = 100
    max_top_k: Annotated[int, Field(ge=1, le=1000)] = 100
    max_message_bytes: Annotated[int, Field(ge=64 * 1024)] = 64 * 1024 * 1024
    max_batch_entries: Annotated[int, Field(ge=1)] = 64
    max_stream_in_flight: Annotated[int, Field(ge=1)] = 16
    max_pictures_in_flight: Annotated[int, Field(ge=1)] = 48
    """In one gateway: about three times the detector's max_batch. Over it requests are refused at once."""
    max_pictures_at_work: Annotated[int, Field(ge=0)] = 0
    """Of those in flight, at one time, of one gateway; the others stand in line. 0 takes six for each processor, shared among the
    `workers`; all that are in flight where the models run on a GPU, or in a Triton elsewhere."""
    max_pixels_in_flight: Annotated[int, Field(ge=1024)] = 300_000_000
    """Of decoded pictures in one gateway, three bytes each; requests over it wait."""
    max_bulk_calls_in_flight: Annotated[int, Field(ge=1)] = 32
    """Batches and bulk writes of one gateway; each may hold a message of the largest size."""
    max_streams_in_flight: Annotated[int, Field(ge=1)] = 64
    max_calls_in_flight: Annotated[int, Field(ge=1)] = 1024
    """Calls of any kind at one gateway, health among them; gRPC itself refuses what is over it."""
    max_crops_in_flight: Annotated[int, Field(ge=1)] = 96
    """At each encoder, from one gateway: about three times its max_batch."""
    image_threads: Annotated[int, Field(ge=0, le=64)] = 0
    """Threads that decode and crop, of one gateway; 0 shares the processors among the `workers`, at least one each, and half of them
    where the models run on them, too."""
    search_threads: Annotated[int, Field(ge=0, le=64)] = 0
    """Threads of one search in the gallery process; 0 takes half of the processors."""
    search_device: SearchDevice = SearchDevice.CPU
    """Of the gallery process. `gpu` needs the extra server-gpu; where there is none, the CPU does it, with a warning."""
    max_connection_age_s: Annotated[float, Field(ge=0, le=7 * 24 * 3600)] = 300.0
    """After which a gateway asks a client to connect anew, calls in flight aside: so that connections spread over gateways that
    were started later, too. 0 never does."""
    drain_timeout_s: Annotated[float, Field(ge=0, le=600)] = 10.0
    """After SIGTERM, how long calls in flight may go on."""
    start_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """How long Triton may take to answer, and then to load each model and warm it up."""

    log_level: LogLevel = LogLevel.WARNING
    """Of all processes; -v sets INFO."""

    @field_validator("encoder")
    @classmethod
    def _names(cls, text: str) -> str:
        names = [name.strip() for name in text.split(",")]
        if not all(names) or len(set(names)) < len(names):
            raise ValueError("expected one or more different names with commas between")
        return ",".join(names)

    @field_validator("max_connection_age_s")
    @classmethod
    def _age(cls, seconds: float) -> float:
        if 0 < seconds < LEAST_AGE_S:
            raise ValueError(f"expected 0 or at least {LEAST_AGE_S:g}")
        return seconds

    @field_validator("milvus_address")
    @classmethod
    def _web_address(cls, text: str) -> str:
        if text and not _WEB_ADDRESS.fullmatch(text):
            raise ValueError("expected http://host:port or https://host:port")
        return text

    @property
    def encoders(self) -> tuple[str, ...]:
        """The names in `encoder`."""
        return tuple(self.encoder.split(","))

    @property
    def snapshot_files(self) -> tuple[Path, ...]:
        """The paths in `snapshots`."""
        return tuple(Path(name.strip()) for name in self.snapshots.split(",") if name.strip())

    def as_environment(self) -> dict[str, str]:
        """Return the variables from which a child process reads these same settings."""
        values = self.model_dump(mode="json", exclude_none=True)
        return {_PREFIX + name.upper(): str(value) for name, value in values.items()}


def load_settings(overrides: Mapping[str, Any], file: Path | None = None) -> Settings:
    """Read the environment; `overrides`, from the command line, win where they are not None.

    Args:
        overrides: by field.
        file: of lines SHITU_NAME=value, as `shitu tune` writes it; the environment wins over it.

    Raises:
        ConfigurationError: names every setting that is wrong, what was expected and what came.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**{**(_of_file(file) if file is not None else {}), **given})
    except ValidationError as error:
        faults = "; ".join(
            f"{_PREFIX}{'_'.join(str(part) for part in fault['loc']).upper()}: {fault['msg']}, got {fault['input']!r}"
            for fault in error.errors()
        )
        raise ConfigurationError(f"settings are wrong: {faults}") from error


def _of_file(path: Path) -> dict[str, str]:
    """Return what a file of lines NAME=value says, as far as the environment says nothing else; # begins a comment line."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"settings: {path} cannot be read: {error}") from error
    values = {}
    for number, line in enumerate(lines, 1):
        variable, separator, value = line.partition("=")
        if not line or line.startswith("#"):
            continue
        if not separator or not variable.startswith(_PREFIX):
            raise ConfigurationError(f"settings: {path}, line {number}: expected {_PREFIX}NAME=value, got {line!r}")
        if variable not in os.environ:
            values[variable.removeprefix(_PREFIX).lower()] = value
    return values


def inherited_environment() -> dict[str, str]:
    """Return a copy of this process' environment, for a child."""
    return dict(os.environ)


def default_environment(variables: Mapping[str, str]) -> None:
    """Put variables into this process' environment where they are not set; libraries read them when they are loaded."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
