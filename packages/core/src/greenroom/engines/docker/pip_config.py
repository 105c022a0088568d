"""The settings with which pip on this machine reaches packages, for a pip elsewhere on the same network."""

from __future__ import annotations

import ast
import os
import re
import ssl
import subprocess
import sys
from pathlib import Path

CERTIFICATES = "certificates.pem"
CONFIGURATION = "pip.conf"

_LINE = re.compile(r"(global|install|:env:)\.([\w.-]+)=(.+)")
_ADDRESSES = ("index-url", "extra-index-url", "find-links")
_AS_THEY_ARE = ("default-timeout", "no-index", "proxy", "retries", "timeout", "trusted-host")
_CERTIFICATE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def pip_files(directory: str, *, wheels: bool = False) -> dict[str, bytes]:
    """Return files that configure another pip like this machine's, with `PIP_CONFIG_FILE` set to their `pip.conf`.

    Settings that name local files are left out, except for certificates, which are copied.

    Args:
        directory: where the files will be.
        wheels: whether `directory/wheels` holds wheels for the build.
    """
    settings = _settings()
    lines = [f"{name} = {settings[name]}" for name in _AS_THEY_ARE if name in settings]
    for name in _ADDRESSES:
        places = [place for place in settings.get(name, "").split() if place.startswith(("http://", "https://"))]
        if name == "find-links" and wheels:
            places.append(f"{directory}/wheels")
        if places:
            lines.append(f"{name} = {' '.join(places)}")
    files: dict[str, bytes] = {}
    if (bundle := _certificates(settings)) is not None:
        files[CERTIFICATES] = bundle.read_bytes()
        lines.append(f"cert = {directory}/{CERTIFICATES}")
    files[CONFIGURATION] = "\n".join(["[global]", *lines, ""]).encode()
    return files


def proxies() -> dict[str, str]:
    """The proxies in this process's environment; Docker takes them as build arguments and keeps them out of images."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
    return {name: os.environ[name] for upper in names for name in (upper, upper.lower()) if os.environ.get(name)}


def _settings() -> dict[str, str]:
    """Merge pip's settings in its own order: the environment, then the command's section, then the global one."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for kind, name, value in _LINE.findall(_config_list()):
        found[kind][name] = str(ast.literal_eval(value))
    return {**found["global"], **found["install"], **found[":env:"]}


def _config_list() -> str:
    for command in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        try:
            result = subprocess.run(
                [*command, "config", "list"], capture_output=True, text=True, check=True, timeout=30
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return result.stdout
    # An environment without pip, such as uv's: its PIP_ variables still count.
    variables = {name[4:].lower().replace("_", "-"): value for name, value in os.environ.items() if name[:4] == "PIP_"}
    return "\n".join(f":env:.{name}={value!r}" for name, value in variables.items())


def _certificates(settings: dict[str, str]) -> Path | None:
    """The certificates that this machine trusts: newer versions of pip use the system's even without a setting."""
    candidates = [settings.get("cert"), *(os.environ.get(name) for name in _CERTIFICATE_VARIABLES)]
    candidates.append(ssl.get_default_verify_paths().cafile)
    candidates.append("/etc/ssl/certs/ca-certificates.crt")
    return next((Path(path) for path in candidates if path and Path(path).is_file()), None)
