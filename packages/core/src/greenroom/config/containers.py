"""The description of a custom container, in terms of Azure's template."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from greenroom.untrusted import brief

DEFAULT_PORT = 80
_IMAGE = re.compile(r"[A-Za-z0-9_][\w./:@-]{0,999}", re.ASCII)
_PATH = re.compile("/[!-~]*")
_HEADER = re.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_VALUE = re.compile(r"[\t -~\x80-\ud7ff\ue000-\U0010ffff]{0,8000}")
_FRAMING = frozenset({"connection", "content-length", "expect", "te", "trailer", "transfer-encoding", "upgrade"})
"""Headers that a probe must not have, because they concern the connection or a body."""

# What Azure accepts; other values work here, with a warning.
_AZURE_RANGES = {
    "initial_delay": (1, 60),
    "period": (1, 240),
    "timeout": (1, 240),
    "failure_threshold": (1, 10),
}


class Probe(BaseModel):
    """A check whether a container works: an HTTP request if `path` is set, otherwise a connection.

    Times are in seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = None
    """The path of a GET request; a status from 200 to 399 is a success."""
    port: int | None = Field(None, ge=1, le=65535)
    """By default the container's `target_port`."""
    headers: Mapping[str, str] = Field(default_factory=dict[str, str])
    initial_delay: float = Field(0, ge=0, le=3600)
    period: float = Field(10, gt=0, le=3600)
    timeout: float = Field(1, gt=0, le=3600)
    failure_threshold: int = Field(3, ge=1, le=1000)
    """How many consecutive failures count as a failure."""
    success_threshold: int = Field(1, ge=1, le=1000)
    """How many consecutive successes count as a success: 1, as Kubernetes requires for startup and liveness probes.
    With more, a probe that fails now and then might never finish."""

    @field_validator("path")
    @classmethod
    def _path(cls, path: str | None) -> str | None:
        if path is not None and not _PATH.fullmatch(path):
            raise ValueError("must begin with a slash and be percent-encoded")
        return path

    @field_validator("headers")
    @classmethod
    def _headers(cls, headers: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in headers.items():
            if not _HEADER.fullmatch(name) or name.lower() in _FRAMING:
                raise ValueError(f"must have names of GET request headers, not {brief(name)}")
            if not _VALUE.fullmatch(value) or value != value.strip():
                raise ValueError(f"must have a valid header value for {name}, not {brief(value)}")
        return headers

    def outside_azure(self, name: str) -> Iterator[str]:
        """Yield a message for each value that Azure does not accept."""
        for field in sorted(self.model_fields_set & _AZURE_RANGES.keys()):
            least, most = _AZURE_RANGES[field]
            if not least <= (value := getattr(self, field)) <= most:
                yield f"{name}.{field}={value:g} works here, but Azure accepts {least} to {most}."


class RegistryCredentials(BaseModel):
    """The credentials for pulling the image if Docker does not have it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: str = Field(min_length=1)
    username: str = Field(min_length=1)
    password: SecretStr


class CustomContainer(BaseModel):
    """One container per session, from your own image, that serves HTTP on `target_port`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    image: str
    target_port: int = Field(DEFAULT_PORT, ge=1, le=65535)
    command: tuple[str, ...] = ()
    """Replaces the image's entry point and command."""
    args: tuple[str, ...] = ()
    """The arguments of `command` or of the image's entry point."""
    env: Mapping[str, SecretStr] = Field(default_factory=dict[str, SecretStr])
    """Environment variables; values are not shown."""
    startup: Probe | None = None
    """No request is sent until this probe succeeds; by default a connection to `target_port`, at most every half
    second."""
    liveness: Probe | None = None
    """When this probe fails, the container and its session are ended."""
    registry: RegistryCredentials | None = None

    @field_validator("image")
    @classmethod
    def _name(cls, image: str) -> str:
        if not _IMAGE.fullmatch(image):
            raise ValueError("must be the name of an image, such as registry.example/model:1.0")
        return image

    @field_validator("env")
    @classmethod
    def _names(cls, env: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        if not all(name and "=" not in name and "\0" not in name for name in env):
            raise ValueError("must have variable names that are not empty and do not contain '='")
        return env

    @model_validator(mode="after")
    def _one_success_counts(self) -> Self:
        for name in ("startup", "liveness"):
            probe: Probe | None = getattr(self, name)
            if probe is not None and probe.success_threshold != 1:
                raise ValueError(
                    f"must have a success_threshold of 1 for its {name} probe, not {probe.success_threshold}"
                )
        return self

    @model_validator(mode="after")
    def _image_of_the_registry(self) -> Self:
        if self.registry is not None and not self.image.startswith(f"{self.registry.server}/"):
            raise ValueError(f"must have an image from its registry {self.registry.server}, not {self.image!r}")
        return self

    def outside_azure(self) -> Iterator[str]:
        """Yield a message for each value that Azure does not accept."""
        for name in ("startup", "liveness"):
            probe: Probe | None = getattr(self, name)
            if probe is not None:
                yield from probe.outside_azure(name)
