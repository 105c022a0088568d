"""Execute the notebooks of this folder and write them back with their outputs.

    python notebooks/build.py [NAME …]

The outputs are committed, so they must be the same each time: no ids, no times, no paths of a machine. Settings
such as GREENROOM_POOL and GREENROOM_DEMO_MODEL count when a person runs a notebook, but not here.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

_nbformat: Any = nbformat  # its types are unknown in part

FOLDER = Path(__file__).parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as quick_start; by default all")
    names: list[str] = parser.parse_args().names
    for path in [FOLDER / f"{name.removesuffix('.ipynb')}.ipynb" for name in names] or NOTEBOOKS:
        began = time.monotonic()
        _nbformat.write(execute(path), path)
        print(f"{path.name}: {time.monotonic() - began:.0f} s")


def execute(path: Path, **environment: str) -> Any:
    """The notebook with its outputs, as it is to be committed.

    Args:
        path: the notebook's file; it runs in that file's folder, with this Python.
        environment: variables for it.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = _nbformat.read(path, as_version=4)
    kernels = KernelSpecManager(kernel_dirs=[str(Path(sys.prefix, "share", "jupyter", "kernels"))])
    with tempfile.TemporaryDirectory() as profile:
        client: Any = NotebookClient(
            notebook,
            timeout=120,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": str(path.parent)}},
        )
        client.create_kernel_manager().kernel_spec_manager = kernels
        client.execute(
            env={**_inherited(), "IPYTHONDIR": profile, **environment},
            stdout=subprocess.DEVNULL,  # the kernel repeats there what it hears
            stderr=subprocess.DEVNULL,
        )
    notebook.metadata = _METADATA
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    return notebook


def _inherited() -> dict[str, str]:
    """The environment without settings of Greenroom, and without pytest's, under which no subprocess is heard."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("GREENROOM_", "PYTEST_"))}


def _joined(outputs: list[Any]) -> list[Any]:
    """The outputs with text that came in pieces in one."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == "stream" and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


if __name__ == "__main__":
    main()
