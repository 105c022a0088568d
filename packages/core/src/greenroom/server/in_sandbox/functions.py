"""Functions whose source is sent into a sandbox and runs there: each imports what it needs, all standard library.

Their results return through `call`, and are as untrustworthy as everything from a sandbox.
"""

from __future__ import annotations

from typing import Any

# ruff: noqa: PLC0415  they run elsewhere


def run_shell_command(command: str, timeout: float, limit: int) -> dict[str, Any]:
    """Run a command as a login shell would, in `/mnt/data`.

    Args:
        command: for bash, or sh where that is missing.
        timeout: seconds until its whole process group is killed, and its exit code is -1.
        limit: bytes that are kept of each stream; the rest is read and dropped.
    """
    import os
    import shutil
    import signal
    import subprocess
    import tempfile
    import threading
    import time

    shell = [bash, "-l"] if (bash := shutil.which("bash")) else ["/bin/sh"]
    script = None
    if len(command.encode()) < 100_000:
        shell += ["-c", command]
    else:  # Linux takes no argument of 128 KiB
        script = tempfile.TemporaryFile()  # noqa: SIM115  the shell reads it by its descriptor
        script.write(command.encode())
        script.seek(0)
        shell += [f"/proc/self/fd/{script.fileno()}"]
    directory = "/mnt/data" if os.path.isdir("/mnt/data") else None  # noqa: PTH112
    began = time.perf_counter()
    process = subprocess.Popen(
        shell,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=() if script is None else (script.fileno(),),
    )
    if script is not None:
        script.close()
    kept = {"stdout": b"", "stderr": b""}

    def read(name: str, pipe: Any) -> None:
        with pipe:
            while data := pipe.read1(65536):
                kept[name] += data[: limit - len(kept[name])]

    readers = [
        threading.Thread(target=read, args=(name, pipe), daemon=True)
        for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr))
    ]
    for reader in readers:
        reader.start()
    ended = False
    exit_code = -1
    try:
        exit_code = process.wait(timeout)
        ended = True
    except subprocess.TimeoutExpired:
        pass
    finally:
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for reader in readers:  # a background process can keep the pipes open for as long as it lives
        reader.join(1)
    return {
        "exit_code": 128 - exit_code if ended and exit_code < 0 else exit_code,
        "stdout": kept["stdout"].decode("utf-8", "replace"),
        "stderr": kept["stderr"].decode("utf-8", "replace"),
        "duration": time.perf_counter() - began,
    }


def take_inventory() -> dict[str, Any]:
    """The interpreter's version, its packages' versions by name, and IPython's."""
    import importlib.metadata
    import platform

    packages = {
        str(found.metadata["Name"]): str(found.version)
        for found in importlib.metadata.distributions()
        if found.metadata["Name"]
    }
    return {
        "python": platform.python_version(),
        "ipython": packages.get("ipython", ""),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }
