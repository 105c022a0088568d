"""`greenroom pool`: pools as resources, on a server on this machine or in Azure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greenroom.arm.ids import LOCAL_LOCATION, environment_id
from greenroom.arm.request import Lifecycle, Network, Wanted, changes, new_resource, template_of
from greenroom.arm.summary import summary_of
from greenroom.cli import place as places
from greenroom.cli.output import print_line
from greenroom.cli.place import Format, ListCommand, Output, Place, ResourceGroup, Server, Subscription, one_of
from greenroom.config.templates import read_template
from greenroom.errors import InvalidRequest
from greenroom.models import ContainerType

if TYPE_CHECKING:
    from greenroom.azure.management import Resource

app = typer.Typer(no_args_is_help=True, help="Create, change, list and delete pools, on a server or in Azure.")

_SIZE, _CONTAINER, _REGISTRY, _IDENTITY = "Size and lifetime", "Custom containers", "Registry", "In Azure only"

Name = Annotated[
    str, typer.Option("--name", "-n", help="The pool.", metavar="NAME", autocompletion=places.complete_pool)
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return as soon as the operation has started.")]
MaxSessions = Annotated[
    int | None, typer.Option(help="The maximum number of concurrent sessions.", metavar="N", rich_help_panel=_SIZE)
]
ReadySessions = Annotated[
    int | None,
    typer.Option(help="Sandboxes kept ready for new sessions.", metavar="N", rich_help_panel=_SIZE),
]
CooldownPeriod = Annotated[
    int | None,
    typer.Option(help="Seconds without use after which a session ends.", metavar="N", rich_help_panel=_SIZE),
]
MaxAlivePeriod = Annotated[
    int | None,
    typer.Option(help="Seconds after which a session ends, used or not.", metavar="N", rich_help_panel=_SIZE),
]
LifecycleType = Annotated[
    Lifecycle | None, typer.Option(help="What ends a session.", rich_help_panel=_SIZE, **one_of(Lifecycle))
]
NetworkStatus = Annotated[
    Network | None,
    typer.Option(help="Whether sessions reach the network.", rich_help_panel=_SIZE, **one_of(Network)),
]
Engine = Annotated[
    str | None,
    typer.Option(help='The engine on a greenroom serve, such as "docker:".', metavar="URL"),
]
Secrets = Annotated[
    list[str] | None,
    typer.Option("--secrets", "-s", help="NAME=VALUE …", metavar="NAME=VALUE", rich_help_panel=_CONTAINER),
]
Image = Annotated[str | None, typer.Option("--image", "-i", help="The image.", rich_help_panel=_CONTAINER)]
ContainerName = Annotated[str | None, typer.Option(help="The container.", rich_help_panel=_CONTAINER)]
Cpu = Annotated[float | None, typer.Option(help="Cores, such as 0.5.", rich_help_panel=_CONTAINER)]
Memory = Annotated[str | None, typer.Option(help="Memory, such as 1Gi.", rich_help_panel=_CONTAINER)]
EnvVars = Annotated[
    list[str] | None,
    typer.Option(help="NAME=VALUE or NAME=secretref:SECRET …", metavar="NAME=VALUE", rich_help_panel=_CONTAINER),
]
Command = Annotated[
    list[str] | None, typer.Option(help="The program, instead of the image's.", rich_help_panel=_CONTAINER)
]
Args = Annotated[list[str] | None, typer.Option(help="Its arguments.", rich_help_panel=_CONTAINER)]
TargetPort = Annotated[int | None, typer.Option(help="The container's port.", rich_help_panel=_CONTAINER)]
RegistryServer = Annotated[str | None, typer.Option(help="Its host.", rich_help_panel=_REGISTRY)]
RegistryUsername = Annotated[str | None, typer.Option(help="The user.", rich_help_panel=_REGISTRY)]
RegistryPassword = Annotated[
    str | None, typer.Option(help="The password, or secretref:SECRET.", rich_help_panel=_REGISTRY)
]
RegistryIdentity = Annotated[
    str | None, typer.Option(help="The managed identity that pulls the image.", rich_help_panel=_IDENTITY)
]
MiSystemAssigned = Annotated[
    bool, typer.Option("--mi-system-assigned", help="Assign the system identity.", rich_help_panel=_IDENTITY)
]
MiUserAssigned = Annotated[
    list[str] | None, typer.Option(help="The user-assigned identities.", metavar="ID", rich_help_panel=_IDENTITY)
]


@app.command(cls=ListCommand)
def create(
    *,
    name: Name,
    container_type: Annotated[
        ContainerType | None,
        typer.Option(help="What runs in its sandboxes.", show_default="PythonLTS", **one_of(ContainerType)),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(help="The pool as ARM JSON, in Azure's form; options take precedence.", metavar="FILE"),
    ] = None,
    max_sessions: MaxSessions = None,
    ready_sessions: ReadySessions = None,
    cooldown_period: CooldownPeriod = None,
    max_alive_period: MaxAlivePeriod = None,
    lifecycle_type: LifecycleType = None,
    network_status: NetworkStatus = None,
    engine: Engine = None,
    image: Image = None,
    target_port: TargetPort = None,
    cpu: Cpu = None,
    memory: Memory = None,
    command: Command = None,
    args: Args = None,
    env_vars: EnvVars = None,
    secrets: Secrets = None,
    container_name: ContainerName = None,
    registry_server: RegistryServer = None,
    registry_username: RegistryUsername = None,
    registry_password: RegistryPassword = None,
    registry_identity: RegistryIdentity = None,
    mi_system_assigned: MiSystemAssigned = False,
    mi_user_assigned: MiUserAssigned = None,
    location: Annotated[
        str | None,
        typer.Option("--location", "-l", help="The region, such as eastasia.", rich_help_panel=_IDENTITY),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(help="The managed environment of custom containers, name or id.", rich_help_panel=_IDENTITY),
    ] = None,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
) -> None:
    """Create a pool, or replace the existing one with that name.

    Options with several values accept them in a row, or can be repeated: --env-vars A=1 B=2.

    The location, the environment and identities have no effect on a greenroom serve.
    """
    place = Place.of(server, subscription, resource_group)
    if environment is not None:
        environment = environment_id(place.subscription, place.group, environment)
    content = None if template is None else template_of(read_template(template), str(template))
    if location is None and not place.in_azure and not (content or {}).get("location"):
        location = LOCAL_LOCATION
    wanted = _wanted(locals())
    resource = new_resource(name, wanted, content, in_azure=place.in_azure)
    pool = place.pool(name)

    async def work(on_state: Callable[[str], None]) -> Resource:
        async with place.client() as client:
            return await client.create(pool, resource, wait=not no_wait, on_state=on_state)

    _print_one(places.run(work, f"Creating {name}"), output)


@app.command(cls=ListCommand)
def update(
    *,
    name: Name,
    max_sessions: MaxSessions = None,
    ready_sessions: ReadySessions = None,
    cooldown_period: CooldownPeriod = None,
    max_alive_period: MaxAlivePeriod = None,
    lifecycle_type: LifecycleType = None,
    network_status: NetworkStatus = None,
    engine: Engine = None,
    image: Image = None,
    target_port: TargetPort = None,
    cpu: Cpu = None,
    memory: Memory = None,
    command: Command = None,
    args: Args = None,
    env_vars: EnvVars = None,
    secrets: Secrets = None,
    container_name: ContainerName = None,
    registry_server: RegistryServer = None,
    registry_username: RegistryUsername = None,
    registry_password: RegistryPassword = None,
    registry_identity: RegistryIdentity = None,
    mi_system_assigned: MiSystemAssigned = False,
    mi_user_assigned: MiUserAssigned = None,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
) -> None:
    """Change a pool. Existing sessions keep their properties; later ones get the new ones.

    A list replaces the pool's current one, and an empty value clears it: --env-vars "".
    """
    wanted = _wanted(locals())
    place = Place.of(server, subscription, resource_group)
    pool = place.pool(name)

    async def work(on_state: Callable[[str], None]) -> Resource:
        async with place.client() as client:
            changed = changes(wanted, await client.get(pool))
            return await client.update(pool, changed, wait=not no_wait, on_state=on_state)

    _print_one(places.run(work, f"Updating {name}"), output)


@app.command()
def show(
    *,
    name: Name,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
) -> None:
    """Show a pool."""
    place = Place.of(server, subscription, resource_group)
    pool = place.pool(name)

    async def work(_: Callable[[str], None]) -> Resource:
        async with place.client() as client:
            return await client.get(pool)

    _print_one(places.run(work, f"Getting {name}"), output)


@app.command("list")
def list_pools(
    *,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
) -> None:
    """List the pools of a resource group, or of the whole subscription."""
    place = Place.of(server, subscription, resource_group)

    async def work(_: Callable[[str], None]) -> list[Resource]:
        async with place.client() as client:
            return await client.list(place.subscription, place.resource_group)

    found = places.run(work, "Getting the pools")
    if output is Format.JSON:
        places.print_json(found)
    elif not found:
        print_line("There are no pools. Create one with: greenroom pool create --name NAME")
    else:
        _print_rows(found)


@app.command()
def delete(
    *,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    no_wait: NoWait = False,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
) -> None:
    """Delete a pool and its sessions, with their variables and files."""
    place = Place.of(server, subscription, resource_group)
    pool = place.pool(name)
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise InvalidRequest("Without a terminal, a deletion must be confirmed with --yes.")
        typer.confirm(f"Delete the pool {name} and its sessions?", abort=True, err=True)

    async def work(on_state: Callable[[str], None]) -> bool:
        async with place.client() as client:
            return await client.delete(pool, wait=not no_wait, on_state=on_state)

    if not places.run(work, f"Deleting {name}"):
        print_line(f"The pool {name!r} did not exist.")


def _wanted(given: dict[str, Any]) -> Wanted:
    """Return the properties among the values of a command's options, which have the same names."""
    return Wanted(**{name: given[name] for name in Wanted.__dataclass_fields__ if name in given})


def _print_one(resource: dict[str, Any], output: Format) -> None:
    if output is Format.JSON:
        places.print_json(resource)
        return
    pool = summary_of(resource)
    ready = f", {pool.ready_sessions} ready" if pool.ready_sessions else ""
    places.print_fields(
        {
            "name": pool.name,
            "type": pool.container_type,
            "state": pool.state,
            "sessions": f"at most {pool.max_sessions}{ready}" if pool.max_sessions else "",
            "end": pool.ends,
            "network": pool.network,
            "image": pool.image,
            "engine": pool.engine,
            "declared": "in the server's own options, so it cannot be changed here" if pool.declared else "",
            "resource group": pool.resource_group,
            "location": pool.location,
            "endpoint": pool.endpoint,
        }
    )


def _print_rows(found: list[dict[str, Any]]) -> None:
    pools = [summary_of(resource) for resource in found]
    groups = len({pool.resource_group.lower() for pool in pools}) > 1
    titles = ["name", *(["resource group"] if groups else []), "type", "state", "sessions", "ready", "session ends"]
    places.print_table(
        titles,
        [
            [
                f"{pool.name} (declared)" if pool.declared else pool.name,
                *([pool.resource_group] if groups else []),
                pool.container_type,
                pool.state,
                pool.max_sessions,
                pool.ready_sessions,
                pool.ends,
            ]
            for pool in pools
        ],
    )
