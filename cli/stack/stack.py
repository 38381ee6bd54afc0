"""The stack: broker, recorder, dashboard, and a stopper where the home has rules."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable

from lineside.bus.auth.keyring import Keyring, keys_folder, listen_key_pair
from lineside.bus.broker.address_lock import AddressLock
from lineside.bus.client.reader import Reader
from lineside.bus.errors import (
    AddressInUse,
    BrokerUnreachable,
    LinesideError,
    MissingExtra,
    UsageError,
)
from lineside.bus.module_process import module_command
from lineside.bus.protocol.addresses import check_tcp_address
from lineside.bus.protocol.messages import LIVE
from lineside.bus.settings import Settings, make_private_folder
from lineside.cli.stack.home_lock import HomeLock
from lineside.cli.stack.http_probe import http_problem
from lineside.cli.stack.supervisor import Program, Supervisor, describe_exit

REQUIRED_PACKAGES = ("sqlalchemy", "alembic", "fastapi", "uvicorn", "jinja2", "plotly")


class StackFailed(LinesideError):
    """A process of the stack ended or was not ready in time; the message has its last output."""

    def __init__(self, sentence: str, exit_code: int = LinesideError.exit_code) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class Stack:
    """The processes of one home. ``report`` receives a sentence at each exit and restart.

    The broker also listens at ``listen`` (``tcp://HOST:PORT``) for clients with a key. ``port`` 0
    picks a free port, and a restarted dashboard keeps it. ``allow_any_port`` replaces a port in use
    by a free one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        host: str = "127.0.0.1",
        port: int,
        tokens: bool = False,
        listen: str = "",
        allow_any_port: bool = False,
        report: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.logs = settings.home / "logs"
        self.dashboard = ""
        self._host, self._port, self._allow_any_port = host, port, allow_any_port
        self.listen = check_tcp_address(listen, to_listen=True) if listen else ""
        self._tokens = tokens
        self._report = report
        self._home_lock: HomeLock | None = None
        self._reader: Reader | None = None
        self._broker_answers = False
        self._written_restarts: tuple[int, ...] | None = None
        self.supervisor: Supervisor | None = None

    @property
    def ready_url(self) -> str:
        """The dashboard's readiness endpoint."""
        return f"{self.dashboard}/readyz"

    def start(self) -> None:
        """Check everything the processes need, then start them.

        Raises:
            MissingExtra: the packages of the extra ``server`` are not installed.
            AddressInUse: another stack runs on this home, or another process uses its addresses.
            UsageError: an address or the rules are invalid.
            SettingsError: a folder cannot be written, or ``listen`` is set and no key exists.
        """
        for package in REQUIRED_PACKAGES:
            if importlib.util.find_spec(package) is None:
                raise MissingExtra("the stack", package, "server")
        stopper = [("stopper",)] if self._has_rules() else []
        self._home_lock = HomeLock(self.settings.home)
        AddressLock(self.settings.broker).release()
        keyring = Keyring(keys_folder(self.settings.home))
        if self.listen:
            listen_key_pair(keyring, self.listen)
        port = self._reserve_port(keyring)
        make_private_folder(self.logs)
        broker = ("broker", "--listen", self.listen) if self.listen else ("broker",)
        token_option = ("--tokens",) if self._tokens else ()
        serve = ("dashboard", "--host", self._host, "--port", str(port), *token_option)
        programs = [
            Program(
                command[0],
                module_command("lineside.cli", *command),
                environment(self.settings),
            )
            for command in (broker, ("recorder",), serve, *stopper)
        ]
        self.supervisor = Supervisor(programs, self.logs, report=self._report)
        self.supervisor.start()
        self._update_status()

    def run_once(self) -> None:
        """Restart processes that ended. Returns at once."""
        if self.supervisor is not None:
            self.supervisor.run_once()
            self._update_status()

    def ready(self) -> bool:
        """Whether the broker answers and the dashboard is ready; a killed process is restarted.

        Raises:
            StackFailed: a process ended by itself. Before readiness that means a permanent error.
        """
        for child in self.supervisor.children if self.supervisor else ():
            code = child.exit_code()
            if code is not None and code >= 0:
                raise StackFailed(
                    f"the {child.program.name} ended ({describe_exit(code)}): "
                    f"{child.last_output()} (see {child.log.path})",
                    UsageError.exit_code if code == UsageError.exit_code else 1,
                )
        self.run_once()
        return self._is_broker_ready() and http_problem(self.ready_url) is None

    def not_ready_error(self) -> StackFailed:
        """The error for a stack that was not ready in time."""
        if not self._broker_answers:
            return StackFailed(f"the broker does not answer; see {self.logs / 'broker.log'}")
        return StackFailed(
            f"the dashboard is not ready: {http_problem(self.ready_url)}; see {self.logs}"
        )

    def stop(self) -> None:
        """End every process and release the home."""
        self._close_reader()
        if self.supervisor is not None:
            self.supervisor.stop()
        if self._home_lock is not None:
            self._home_lock.release()

    def new_lines(self) -> list[tuple[str, str]]:
        """Log lines since the last call, each with the name of its process."""
        children = self.supervisor.children if self.supervisor else []
        return [(child.program.name, line) for child in children for line in child.log.new_lines()]

    def _reserve_port(self, keyring: Keyring) -> int:
        from lineside.bus.auth.listener import address, check_tokens, listen

        if self._tokens:
            check_tokens(keyring)
        try:
            listener = listen(self._host, self._port, keyring)
        except AddressInUse:
            if not self._allow_any_port:
                raise
            listener = listen(self._host, 0, keyring)
        with listener:
            self.dashboard = address(listener)
            port: int = listener.getsockname()[1]
        return port

    def _has_rules(self) -> bool:
        """Whether the home has a file of rules.

        Raises:
            UsageError: the rules are invalid.
        """
        from lineside.subscribers.stopper import rule_parser

        path = self.settings.home / rule_parser.FILE_NAME
        return path.exists() and bool(rule_parser.load(path))

    def _is_broker_ready(self) -> bool:
        if self._broker_answers:
            return True
        if self._reader is None:
            self._reader = Reader(self.settings.broker, start=LIVE)
        with contextlib.suppress(BrokerUnreachable):
            self._reader.wait_connected(0.1)
            self._broker_answers = True
            self._close_reader()
        return self._broker_answers

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _update_status(self) -> None:
        if self.supervisor is None or self._home_lock is None:
            return
        restarts = tuple(child.restarts for child in self.supervisor.children)
        if restarts != self._written_restarts:
            self._written_restarts = restarts
            names = [child.program.name for child in self.supervisor.children]
            self._home_lock.write_status(
                {
                    "dashboard": self.dashboard,
                    "broker": self.settings.broker,
                    "restarts": dict(zip(names, restarts, strict=True)),
                }
            )


def environment(settings: Settings) -> dict[str, str]:
    """``settings`` as environment variables for a child process."""
    return {
        "LINESIDE_HOME": str(settings.home),
        "LINESIDE_BROKER": settings.broker,
        "LINESIDE_SPOOL": str(settings.spool),
        "LINESIDE_STORE": settings.store,
    }
