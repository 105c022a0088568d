"""ipykernel's additions to IPython's shell, as far as they are useful without a person at a screen."""

from __future__ import annotations

import sys
from shlex import quote
from subprocess import CalledProcessError
from typing import Any, NoReturn

from .commands import run

_WITHOUT_EFFECT = {
    "autosave": "no notebook is open",
    "connect_info": "there is no kernel to connect to",
    "debug": "this session is not interactive",
    "edit": "there is no editor",
    "pdb": "this session is not interactive",
    "qtconsole": "there is no kernel to connect to",
    "subshell": "subshells are not supported",
}
"""The reason per magic. They do not fail, so that notebooks that use them continue."""


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def like_ipykernels(base: Any) -> Any:
    """Return a subclass of IPython's shell that has the name and the magics of ipykernel's."""
    from IPython.core import page as _page
    from IPython.core.autocall import ExitAutocall
    from IPython.core.error import UsageError

    page: Any = _page

    def less(line: str) -> None:
        """Show a file."""
        if not line:
            raise UsageError("Missing filename.")
        with open(line, encoding="utf-8", errors="replace") as file:
            page.page(file.read())

    def clear(_line: str) -> None:
        """Do nothing: there is no terminal."""

    def without_effect(name: str, reason: str) -> Any:
        def explain(_line: str) -> None:
            print(f"%{name} has no effect: {reason}.", file=sys.stderr)

        return explain

    class Exit(ExitAutocall):
        """`exit` and `quit`: they end the code, as in a script."""

        def __call__(self, code: object = None) -> NoReturn:
            raise SystemExit(code) if code is not None else SystemExit

    class ZMQInteractiveShell(base):
        """IPython's shell with the options and the magics of a notebook's."""

        def _exiter_default(self) -> Any:
            return Exit(self)

        def ask_exit(self) -> None:
            raise SystemExit

        def init_magics(self) -> None:
            inherited: Any = super()
            inherited.init_magics()

            def man(line: str) -> None:
                """Show a page of the manual."""
                page.page(self.getoutput(f"man {line} | col -b", split=False))

            def installer(name: str) -> Any:
                def install(line: str) -> None:
                    """Run an installer of packages for this interpreter."""
                    self.system(f"{quote(sys.executable)} -m {name} {line}")
                    if self.user_ns["_exit_code"] == 0 and "install" in line:
                        print("Note: restart the session if it has loaded an earlier version of a package.")

                return install

            functions = {"less": less, "more": less, "man": man, "clear": clear}
            functions |= {name: installer(name) for name in ("pip", "uv")}
            functions |= {name: without_effect(name, reason) for name, reason in _WITHOUT_EFFECT.items()}
            for name, function in functions.items():
                self.register_magic_function(function, magic_name=name)

        def init_extension_manager(self) -> None:
            inherited: Any = super()
            inherited.init_extension_manager()
            self.extension_manager.load_extension("storemagic")

        def enable_matplotlib(self, gui: str | None = None) -> Any:
            inherited: Any = super()
            return inherited.enable_matplotlib("inline")  # nobody would see a window

        def system_piped(self, cmd: str) -> None:
            if cmd.rstrip().endswith("&"):
                raise OSError("Background processes not supported.")
            code = run(self.var_expand(cmd, depth=1), _write)
            self.user_ns["_exit_code"] = code
            if self.system_raise_on_error and code:
                raise CalledProcessError(code, cmd)

        system = system_piped

    return ZMQInteractiveShell
