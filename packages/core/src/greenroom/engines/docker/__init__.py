"""Sandboxes as containers of a Docker engine, and the image that they are made from."""

from __future__ import annotations

from greenroom.engines.base import Engine, EnginePlugin, IsolationOptions


class DockerOptions(IsolationOptions):
    """The options of `docker:`."""

    image: str | None = None
    """The image of the sandboxes; by default that of this version for the container type, such as
    `greenroom-python:<version>`. Custom containers have an image of their own; their relay is made from this one."""
    runtime: str | None = None
    """The OCI runtime, such as `runsc` for gVisor; by default Docker's own."""
    docker_host: str | None = None
    """The URL of the Docker engine; by default that of Docker's own command line."""


def _make(options: DockerOptions) -> Engine:
    from greenroom.engines.docker.engine import DockerEngine  # noqa: PLC0415  loaded only when used

    return DockerEngine(
        image=options.image,
        runtime=options.runtime,
        docker_host=options.docker_host,
        allow_unfiltered=options.allow_unfiltered,
    )


PLUGIN = EnginePlugin(DockerOptions, _make)
