"""Translate a resource into a pool that this machine can open: its engine, its options, and Azure's objections."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from greenroom.arm.errors import ArmError
from greenroom.arm.resources import ENGINE_TAG, Resource
from greenroom.connecting import LocalChoice, read_choice, read_engine
from greenroom.engines import registry
from greenroom.errors import EngineUnavailable, InvalidRequest
from greenroom.local.settings import AUTO, AzureRangeWarning
from greenroom.models import ContainerType

_OWNERS = (
    "allow_unfiltered",
    "container",
    "docker_host",
    "fork",
    "log",
    "memory_reserve",
    "packages",
    "preload",
    "python",
    "secrets",
    "template",
)
"""Options that access this machine or expose it: only the server's owner can set them, with `--engine`."""

_READY, _LEAST_READY = "ready_session_instances", "min_ready_session_instances"
_CONTAINER = "properties.customContainerTemplate.containers[0]"
_LIFECYCLE = "properties.dynamicPoolConfiguration.lifecycleConfiguration"
_PATHS = {
    "max_concurrent_sessions": "properties.scaleConfiguration.maxConcurrentSessions",
    "ready_session_instances": "properties.scaleConfiguration.readySessionInstances",
    "cooldown_period": f"{_LIFECYCLE}.cooldownPeriodInSeconds",
    "max_alive_period": f"{_LIFECYCLE}.maxAlivePeriodInSeconds",
    "lifecycle": f"{_LIFECYCLE}.lifecycleType",
    "network": "properties.sessionNetworkConfiguration.status",
    "container.target_port": "properties.customContainerTemplate.ingress.targetPort",
    "container.startup": f"{_CONTAINER}.probes",
    "container.liveness": f"{_CONTAINER}.probes",
    "container.image": f"{_CONTAINER}.image",
    "container.command": f"{_CONTAINER}.command",
    "container.args": f"{_CONTAINER}.args",
    "container.env": f"{_CONTAINER}.env",
    "container": "properties.customContainerTemplate",
    "cpu": f"{_CONTAINER}.resources.cpu",
    "memory": f"{_CONTAINER}.resources.memory",
}
"""ARM's path for each option."""
_NAMES = "|".join(re.escape(name) for name in sorted(_PATHS, key=len, reverse=True))
_COMPOUND = "|".join(name for name in _PATHS if "_" in name and "." not in name)
# An option name that is also a common word matches only if the message calls it an option or shows its value.
_OPTION = re.compile(
    rf"The option ({_NAMES})(?:\.\w+)*(?!\w)|(?<![\w.])({_NAMES})(?:\.\w+)*(?==)|(?<![\w.])({_COMPOUND})(?!\w)"
)


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines on which pools are opened."""

    default: str | None = None
    """The engine URL for pools that do not name one; `None` for the best engine for their type."""

    def check(self) -> None:
        """Check the URL of the default engine.

        Raises:
            InvalidRequest: it does not name an engine on this machine.
        """
        if self.default is not None:
            read_engine(self.default)

    def choices(self, resource: Resource, preferred: str | None = None) -> Iterator[LocalChoice]:
        """Return the ways to open a resource, best first.

        Args:
            resource: the pool.
            preferred: the scheme of its current engine.

        Raises:
            InvalidRequest: an option is unknown or breaks a rule; an `ArmError`, which names ARM's property.
            EngineUnavailable: an engine's plug-in cannot be imported.
        """
        named = resource.engine
        if named is not None:
            scheme, options = _read(named)
            if given := sorted(options.keys() & set(_OWNERS)):
                raise ArmError(
                    "InvalidEngine",
                    f"The tag {ENGINE_TAG} must not have the option {given[0]}: only the server's owner can set it, "
                    "with --engine.",
                    f"tags.{ENGINE_TAG}",
                )
            yield self._choice(scheme, options, resource)
        elif self.default is not None:
            yield self._choice(_read(self.default)[0], {}, resource)
        elif resource.container_type is ContainerType.CUSTOM_CONTAINER:
            yield self._choice("docker", {}, resource)
        else:
            for scheme in sorted(registry.BUILT_IN, key=lambda scheme: scheme != preferred):
                yield self._choice(scheme, {}, resource)

    def judge(self, resource: Resource, *, strict: bool) -> list[str]:
        """Check the options of a resource before anything is done.

        Returns:
            A message for each value that Azure would refuse.

        Raises:
            ArmError: a value breaks a rule or, in strict mode, is out of Azure's range.
        """
        with warnings.catch_warnings(record=True) as caught:  # contains no await
            warnings.simplefilter("always", AzureRangeWarning)
            try:
                next(self.choices(resource))
            except EngineUnavailable as error:
                raise ArmError("EngineUnavailable", str(error), f"tags.{ENGINE_TAG}") from error
        found = [in_arms_words(str(each.message)) for each in caught if issubclass(each.category, AzureRangeWarning)]
        if strict and found:
            message, target = found[0]
            raise ArmError("InvalidParameterValueInSessionPool", message, target)
        return [message for message, _ in found]

    def _choice(self, scheme: str, options: Mapping[str, str], resource: Resource) -> LocalChoice:
        default, inherited = _read(self.default) if self.default is not None else ("", dict[str, str]())
        if resource.container_type is not ContainerType.CUSTOM_CONTAINER:
            inherited.pop("console_log", None)
        given: dict[str, Any] = {**(inherited if scheme == default else {}), **options, **resource.options}
        if options.get(_READY) == AUTO and _READY in resource.options:  # Azure's clients always send a number
            given = {_LEAST_READY: given[_READY], **given, _READY: AUTO}
        try:
            return read_choice(scheme, given)
        except ArmError:
            raise
        except InvalidRequest as error:
            raise ArmError("InvalidParameterValueInSessionPool", *in_arms_words(str(error))) from error


def in_arms_words(message: str) -> tuple[str, str | None]:
    """Return a message with the options' names replaced by ARM's, and the first of those."""
    first = _OPTION.search(message)
    return _OPTION.sub(_path, message), None if first is None else _path(first)


def _path(match: re.Match[str]) -> str:
    return _PATHS[next(name for name in match.groups() if name)]


def _read(url: str) -> tuple[str, dict[str, str]]:
    try:
        return read_engine(url)
    except InvalidRequest as error:
        raise ArmError("InvalidEngine", str(error), f"tags.{ENGINE_TAG}") from error
