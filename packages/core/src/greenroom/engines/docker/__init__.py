"""Sandboxes as containers of a Docker engine, and the image that they are created from."""

from __future__ import annotations

import shlex

from greenroom.engines.base import Engine, EnginePlugin, IsolationOptions
from greenroom.engines.packages import OptionPackages, Packages
from greenroom.errors import EngineUnavailable


class DockerOptions(IsolationOptions):
    """The options of `docker:`."""

    image: str | None = None
    """The image of the sandboxes; by default this version's image for the container type, such as
    `greenroom-python:<version>`. For custom containers, which have their own image, this is the image of their
    relay."""
    runtime: str | None = None
    """The OCI runtime, such as `runsc` for gVisor; by default Docker's own."""
    docker_host: str | None = None
    """The URL of the Docker engine; by default that of Docker's own command line."""
    packages: OptionPackages = Packages()
    """Not available: on this engine, packages are part of the image."""


def _make(options: DockerOptions) -> Engine:
    if options.packages:
        words = [*options.packages.requirements, *map(str, options.packages.files)]
        kind = " --container-type NodeLTS" if options.packages.node_lock is not None else ""
        given = " ".join(f"--with {shlex.quote(word)}" for word in words)
        raise EngineUnavailable(
            f"Packages for the engine docker must be in its image, not in the option packages. Run greenroom image "
            f"build{kind} {given} --tag NAME, then set image=NAME."
        )
    from greenroom.engines.docker.engine import DockerEngine  # noqa: PLC0415  loaded only when used

    return DockerEngine(
        image=options.image,
        runtime=options.runtime,
        docker_host=options.docker_host,
        allow_unfiltered=options.allow_unfiltered,
    )


PLUGIN = EnginePlugin(DockerOptions, _make)
