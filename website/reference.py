"""Writes docs/settings.md and docs/cli.md from the code: `make reference`. Runs in `.venv`, as it imports Greenroom."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, cast

import annotated_types
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from greenroom.azure.settings import AzureSettings
from greenroom.cli.app import app
from greenroom.config import values
from greenroom.engines.bubblewrap import BubblewrapOptions
from greenroom.engines.docker import DockerOptions
from greenroom.local import PoolSettings
from greenroom.server.settings import ServerSettings

HERE, DOCS = Path(__file__).parent, Path(__file__).parent.parent / "docs"
MODELS: dict[str, type[BaseModel]] = {
    "POOL": PoolSettings,
    "BUBBLEWRAP": BubblewrapOptions,
    "DOCKER": DockerOptions,
    "AZURE": AzureSettings,
    "SERVER": ServerSettings,
}
UNITS = ("bytes", "KiB", "MiB", "GiB")


def settings_page() -> str:
    """The page of all settings: settings.md.template with a table for each model."""
    page = (HERE / "settings.md.template").read_text()
    for name, model in MODELS.items():
        page = page.replace(f"{{{name}}}\n", _settings_table(model))
    return page


def cli_page() -> str:
    """The page of the command line: cli.md.template with a section for each command."""
    root: Any = typer.main.get_command(app)
    sections = "\n".join(section for name, command in root.commands.items() for section in _sections(name, command))
    return (HERE / "cli.md.template").read_text().replace("{COMMANDS}\n", sections)


PAGES = {DOCS / "settings.md": settings_page, DOCS / "cli.md": cli_page}


def _settings_table(model: type[BaseModel]) -> str:
    meanings = _attribute_docstrings(model)
    rows = [
        f"| `{name}` | {_values(field)} | {_default(field)} | {_cell(meanings.get(name, ''))} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(["| option | values | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The text below each field, of the class and of those that it inherits from."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not (issubclass(cls, BaseModel) and cls is not BaseModel):
            continue
        definition = cast("ast.ClassDef", ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0])
        for statement, following in zip(definition.body, definition.body[1:], strict=False):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
                case _:
                    pass
    return found


def _values(field: FieldInfo) -> str:
    """The values that a setting accepts: its type and its bounds."""
    size = _is_size(field)
    bounds: list[str] = []
    for item in field.metadata:
        match item:
            case annotated_types.Ge(ge=bound):
                bounds.append(f"at least {_amount(bound, size)}")
            case annotated_types.Gt(gt=bound):
                bounds.append(f"more than {_amount(bound, size)}")
            case annotated_types.Le(le=bound):
                bounds.append(f"at most {_amount(bound, size)}")
            case _:
                pass
    return ", ".join(["size" if size else _kind(field.annotation), *bounds])


def _is_size(field: FieldInfo) -> bool:
    """Whether a setting is a number of bytes. pydantic moves the annotation of a `Size` into the field's metadata, but
    leaves that of a `Size | None` in its type."""
    validator = typing.get_args(values.Size)[1]
    return validator in field.metadata or values.Size in typing.get_args(field.annotation)


def _kind(annotation: Any) -> str:
    """The type of a setting in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(_kind(argument) for argument in arguments if argument is not type(None))
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin in {tuple, frozenset}:
        return "list"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    words = {
        "int": "whole number",
        "float": "number",
        "bool": "`true` or `false`",
        "str": "text",
        "Path": "path",
        "Any": "object",
    }
    words |= {
        "SecretStr": "text",
        "Environment": "mapping",
        "CustomContainer": "mapping",
        "EntraSettings": "mapping",
        "Packages": "list",
        "SSLContext": "object",
    }
    return words.get(annotation.__name__, f"`{annotation.__name__}`")


def _default(field: FieldInfo) -> str:
    size = _is_size(field)
    words: Iterable[str] = field.default  # of a tuple; pyright would narrow field.default itself to unknown items
    match field.default:
        case None | frozenset():
            return ""
        case bool() as value:
            return f"`{str(value).lower()}`"
        case int() | float() as value:
            return _amount(value, size)
        case Enum() as value:
            return f"`{value.value}`"
        case str() | Path() as value:
            return f"`{value}`"
        case tuple():
            return f"`{', '.join(words)}`"
        case _:
            return ""


def _amount(value: Any, size: bool) -> str:
    if not size:
        return f"{value:.10g}"
    unit = 0
    while value >= 1024 and value % 1024 == 0 and unit < len(UNITS) - 1:
        value, unit = value // 1024, unit + 1
    return f"{value:,} {UNITS[unit] if value != 1 or unit else 'byte'}"


def _sections(path: str, command: Any) -> Iterator[str]:
    """The section of a command, then those of its own commands."""
    commands: dict[str, Any] = getattr(command, "commands", {})
    if commands:
        for name, inner in commands.items():
            yield from _sections(f"{path} {name}", inner)
        return
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    usage = " ".join([f"greenroom {path}", *(["[OPTIONS]"] if options else []), *map(_argument, arguments)])
    yield f"## greenroom {path}\n\n```\n{usage}\n```\n\n{_prose(command.help)}\n"
    rows = [f"| `{_argument_name(each)}` | {_cell(each.help or '')} | |" for each in arguments]
    rows += [
        f"| {_names(each)} | {_cell(each.help or '')} | {_option_default(each)} |"
        for each in options
        if each.name != "help"
    ]
    if rows:
        yield "\n".join(["| argument or option | meaning | default |", "|---|---|---|", *rows]) + "\n"


def _argument(argument: Any) -> str:
    name = _argument_name(argument) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _argument_name(argument: Any) -> str:
    return (argument.metavar or argument.name.upper()).strip("[]")


def _names(option: Any) -> str:
    value = "" if option.is_flag or option.count else f" {_value_name(option)}"
    return ", ".join(f"`{name}{value}`" for name in [*option.opts, *option.secondary_opts])


def _value_name(option: Any) -> str:
    """What stands for an option's value."""
    choices = [str(getattr(choice, "value", choice)) for choice in option.type_descriptor.choices or ()]
    name = option.metavar or "|".join(choices) or option.name.replace("_", "-").upper()
    return f"{{{name.replace('|', ',')}}}" if "|" in name else name


def _option_default(option: Any) -> str:
    if option.required:
        return "required"
    shown = option.show_default
    if isinstance(shown, str):
        return _cell(shown)
    default = option.default
    if callable(default) or default is None or default is False or default == [] or shown is False:
        variable = option.envvar
        return f"`${variable}`" if isinstance(variable, str) else ""
    return f"`{default.value if isinstance(default, Enum) else str(default).lower() if default is True else default}`"


def _prose(text: str | None) -> str:
    """A help text as paragraphs of Markdown."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc((text or "").replace("\b", "").replace("\f", "")))
    return "\n\n".join(
        paragraph if re.search(r"^ ", paragraph, re.MULTILINE) else " ".join(paragraph.split())
        for paragraph in paragraphs
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page())
