"""The stack: the processes of one home, from their start until they are ready and to their end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from lineside.bus.auth.keyring import Keyring, keys_folder, listen_key_pair
from lineside.bus.broker.address_lock import AddressLock
from lineside.bus.checkpoints.hold import write_limits
from lineside.bus.client.reader import Reader
from lineside.bus.errors import (
    AddressInUse,
    BrokerUnreachable,
    LinesideError,
    UsageError,
)
from lineside.bus.protocol.addresses import check_tcp_address
from lineside.bus.protocol.messages import LIVE
from lineside.bus.settings import Settings, make_private_folder
from lineside.bus.wording import describe_exit
from lineside.cli.stack.home_lock import HomeLock
from lineside.cli.stack.http_probe import http_problem
from lineside.cli.stack.packages import check_packages, missing_sampler
from lineside.cli.stack.programs import programs
from lineside.cli.stack.subscriber_check import check_subscribers
from lineside.cli.stack.supervisor import Supervisor

if TYPE_CHECKING:
    from lineside.cli.configuration.loading import StackConfiguration
    from lineside.cli.configuration.schema import Dashboard, Exporter


class StackFailed(LinesideError):
    """A process of the stack ended or was not ready in time; the message has its last output."""

    def __init__(self, sentence: str, exit_code: int = LinesideError.exit_code) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class Stack:
    """The processes of one home that ``configuration`` enables.

    ``report`` receives a sentence at each exit and restart. A server on port 0 gets a free one, and
    keeps it when it is restarted. ``allow_any_port`` replaces a port in use by a free one.
    """

    def __init__(
        self,
        settings: Settings,
        configuration: StackConfiguration,
        *,
        allow_any_port: bool = False,
        report: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.configuration = configuration
        self.logs = settings.home / "logs"
        self.addresses: dict[str, str] = {}
        """The URLs of the dashboard and the exporter that are enabled, once they are known."""
        if configuration.values.broker.listen:
            check_tcp_address(configuration.values.broker.listen, to_listen=True)
        self._allow_any_port = allow_any_port
        self._report = report
        self._home_lock: HomeLock | None = None
        self._reader: Reader | None = None
        self._broker_answers = False
        self._written_restarts: tuple[int, ...] | None = None
        self.supervisor: Supervisor | None = None

    @property
    def dashboard(self) -> str:
        """The dashboard's address; empty if none is enabled."""
        return self.addresses.get("dashboard", "")

    @property
    def ready_url(self) -> str:
        """The dashboard's readiness endpoint."""
        return f"{self.dashboard}/readyz"

    def start(self) -> None:
        """Check everything the processes need, then start them.

        Raises:
            MissingExtra: a package is not installed.
            AddressInUse: another stack runs on this home, or another process uses its addresses.
            UsageError: an address is invalid, or a subscriber cannot be run.
            SettingsError: a folder cannot be written, or ``listen`` is set and no key exists.
        """
        check_packages(self.configuration)
        self._home_lock = HomeLock(self.settings.home)
        AddressLock(self.settings.broker).release()
        keyring = Keyring(keys_folder(self.settings.home))
        values = self.configuration.values
        if values.broker.listen:
            listen_key_pair(keyring, values.broker.listen)
        ports = self._reserve_ports(keyring)
        children = programs(self.settings, self.configuration, ports)
        check_subscribers(children)
        if missing := missing_sampler(self.configuration):
            self._report(missing)
        make_private_folder(self.logs)
        if not self.configuration.runs_archiver:
            write_limits(self.settings.home, None)  # trainings hold no checkpoints for an archive
        self.supervisor = Supervisor(children, self.logs, report=self._report)
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
            StackFailed: a process of Lineside ended by itself. Before readiness that means a
                permanent error.
        """
        for child in self.supervisor.children if self.supervisor else ():
            code = child.exit_code()
            if child.program.is_required and code is not None and code >= 0:
                raise StackFailed(
                    f"the {child.program.name} ended ({describe_exit(code)}): "
                    f"{child.last_output()} (see {child.log.path})",
                    UsageError.exit_code if code == UsageError.exit_code else 1,
                )
        self.run_once()
        is_dashboard_ready = not self.dashboard or http_problem(self.ready_url) is None
        return self._is_broker_ready() and is_dashboard_ready

    def not_ready_reason(self) -> str:
        """Why a stack whose processes answer is not ready: the store, or a recorder that is behind.

        Raises:
            StackFailed: a process does not answer at all.
        """
        if not self._broker_answers:
            raise StackFailed(f"the broker does not answer; see {self.logs / 'broker.log'}")
        if problem := http_problem(f"{self.dashboard}/healthz"):
            raise StackFailed(f"the dashboard is not ready: {problem}; see {self.logs}")
        return http_problem(self.ready_url) or "it is ready"

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

    def _reserve_ports(self, keyring: Keyring) -> dict[str, int]:
        """A port that is free for each HTTP server of the stack, by its name."""
        values = self.configuration.values
        ports = {}
        for name, options in (("dashboard", values.dashboard), ("exporter", values.exporter)):
            if options.enabled:
                self.addresses[name], ports[name] = self._reserve_port(name, options, keyring)
        return ports

    def _reserve_port(
        self, name: str, options: Dashboard | Exporter, keyring: Keyring
    ) -> tuple[str, int]:
        from lineside.bus.auth.listener import address, check_tokens, listen

        if options.tokens:
            check_tokens(keyring)
        try:
            listener = listen(options.host, options.port, keyring, name)
        except AddressInUse:
            if not self._allow_any_port:
                raise
            listener = listen(options.host, 0, keyring, name)
        with listener:
            return address(listener), int(listener.getsockname()[1])

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
                    **({"dashboard": self.dashboard} if self.dashboard else {}),
                    "broker": self.settings.broker,
                    "restarts": dict(zip(names, restarts, strict=True)),
                }
            )
