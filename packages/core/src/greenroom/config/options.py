"""The options of `greenroom.connect`, for type checkers. A test keeps them equal to the settings."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from greenroom.config.containers import CustomContainer
from greenroom.models import ContainerType

Bytes = int | str


class PoolOptions(TypedDict, total=False):
    """The options of `connect`. Times are in seconds, sizes in bytes or as `"512Mi"`."""

    # Every pool

    container_type: ContainerType | Literal["PythonLTS", "NodeLTS", "Shell", "CustomContainer"]
    timeout: float
    acquire_timeout: float
    output_limit: Bytes
    file_limit: Bytes
    trace_content: bool

    # A pool on this machine: `greenroom.PoolSettings`

    max_concurrent_sessions: int
    ready_session_instances: int | Literal["auto"]
    ready_wait_target: float
    min_ready_session_instances: int | None
    max_ready_session_instances: int | None
    idle_after: float | None
    memory_reserve: Bytes | None
    lifecycle: Literal["timed", "on_container_exit"]
    cooldown_period: float
    max_alive_period: float
    interrupt_grace: float
    network: bool | Literal["enabled", "disabled", "EgressEnabled", "EgressDisabled"]
    cpu: float
    memory: Bytes
    disk: Bytes
    pids: int
    display_limit: Bytes
    preload: Sequence[str] | str
    env: Mapping[str, str] | str
    log: str | Path | None
    console_log: bool
    container: CustomContainer | Mapping[str, Any] | None
    forward_authorization: bool
    template: str | Path | Mapping[str, Any]
    secrets: Mapping[str, str]

    # Its engine: `BubblewrapOptions`, `DockerOptions`

    allow_unfiltered: bool
    fork: bool
    python: str | None
    packages: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    image: str | None
    runtime: str | None
    docker_host: str | None

    # A pool in Azure: `AzureSettings`

    credential: Any
    client_id: str | None
    api_key: str | None
    server: str | None
    management_key: str | None
    api_version: str
    proxy: str | None
    ssl_context: ssl.SSLContext | None
