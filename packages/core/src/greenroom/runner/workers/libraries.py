"""Features of a notebook that libraries rely on, provided when the libraries are imported."""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import os
import re
import sys
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

_INLINE = "module://matplotlib_inline.backend_inline"

# The correct one, and those that code provides itself. matplotlib's own are for screens, which do not exist here, or
# for files, which need no choice.
_KEPT_BACKEND = re.compile(r"inline|module://(?!matplotlib[._]|ipympl)")


def adjust_when_imported() -> None:
    """Adjust libraries from now on."""
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        adjust = _ADJUSTMENTS.get(fullname)
        if adjust is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = functools.partial(_execute, loader.exec_module, adjust)
        return spec


def _execute(execute: Callable[[ModuleType], None], adjust: Callable[[Any], None], module: ModuleType) -> None:
    execute(module)
    with contextlib.suppress(Exception):  # another version of the library: it works as well as without the adjustment
        adjust(module)


def _draw_inline(pyplot: Any) -> None:
    """Show the figures of code that chooses a backend out of habit, as most backends would lose them."""
    switch: Callable[[Any], None] = pyplot.switch_backend

    @functools.wraps(switch)
    def switch_backend(newbackend: Any) -> None:
        if not isinstance(newbackend, str) or not _KEPT_BACKEND.match(newbackend):
            newbackend = pyplot.rcParams["backend"] = _INLINE  # before its import, which reads this
        switch(newbackend)

    pyplot.switch_backend = switch_backend


def _draw_without_pyplot(figure: Any) -> None:
    """Show figures that are made without pyplot, whose backend would prepare IPython for figures."""
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()

    def draw(drawn: Any) -> Any:
        from matplotlib import pyplot

        pyplot.switch_backend(_INLINE)
        printer = png.type_printers.get(figure.Figure)
        return None if printer in {None, draw} else printer(drawn)

    if shell is not None:
        png = shell.display_formatter.formatters["image/png"]
        png.for_type(figure.Figure, draw)


def _count_cores(context: Any) -> None:
    """loky takes the machine's number of cores as that of its processors, or warns that it cannot determine it."""
    context.physical_cores_cache = os.cpu_count()


def _render_without_nbformat(renderers: Any) -> None:
    """plotly requires nbformat to be installed, but does not use it to make a MIME bundle."""
    if renderers.nbformat is None:
        renderers.nbformat = SimpleNamespace(__version__="4.2.0")


def _show_finished_bars(notebook: Any) -> None:
    """Show a progress bar again at its end: without a browser, a widget does not change after it is displayed."""
    bar = notebook.tqdm_notebook
    display: Callable[..., Any] = notebook.display
    close: Callable[[Any], None] = bar.close

    def show(container: Any) -> None:
        container.handle_of_display = display(container, display_id=True)

    @functools.wraps(close)
    def close_and_show(self: Any) -> None:
        ends = not self.disable and self.leave
        close(self)
        handle = getattr(getattr(self, "container", None), "handle_of_display", None)
        if ends and handle is not None:
            handle.update(self.container)

    notebook.display, bar.close = show, close_and_show


def _keep_what_is_not_in_widgets(module: Any) -> None:
    """Without a browser, an Output widget shows what it captures in its cell, and clears only that."""
    from IPython.core.getipython import get_ipython

    enter: Callable[..., Any] = module.Output.__enter__
    leave: Callable[..., Any] = module.Output.__exit__

    @functools.wraps(enter)
    def enter_area(self: Any) -> Any:
        shell: Any = get_ipython()
        area = shell.display_pub.area()
        area.__enter__()
        self.__dict__.setdefault("_areas", []).append(area)
        return enter(self)

    @functools.wraps(leave)
    def leave_area(self: Any, *error: Any) -> Any:
        try:
            return leave(self, *error)
        finally:
            self._areas.pop().__exit__(None, None, None)

    module.Output.__enter__, module.Output.__exit__ = enter_area, leave_area


_ADJUSTMENTS: dict[str, Callable[[Any], None]] = {
    "ipywidgets.widgets.widget_output": _keep_what_is_not_in_widgets,
    "joblib.externals.loky.backend.context": _count_cores,
    "loky.backend.context": _count_cores,
    "matplotlib.figure": _draw_without_pyplot,
    "matplotlib.pyplot": _draw_inline,
    "plotly.io._renderers": _render_without_nbformat,
    "tqdm.notebook": _show_finished_bars,
}
