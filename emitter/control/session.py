"""Starts and stops control for one training: this rank's executor and its SIGTERM handler."""

from __future__ import annotations

from typing import Any

from lineside.emitter.control.follower import FollowerExecutor
from lineside.emitter.control.leader import LeaderExecutor
from lineside.emitter.control.sigterm import SigtermHandler
from lineside.emitter.spool.confirmation import Unconfirmed
from lineside.emitter.training.attempts import Options
from lineside.emitter.training.publisher import Publisher
from lineside.emitter.training.run_sync import abandon_control


class NullExecutor:
    """The executor of a training that takes no commands."""

    is_paused = False
    syncs_evaluations = False

    def is_due(self, _state: Any) -> bool:
        return False

    def unconfirmed(self) -> list[Unconfirmed]:
        return []

    def _ignore(self, *_: object) -> None:
        pass

    apply_commands = wait_while_paused = before_evaluation = sync_evaluation = close = _ignore


class ControlSession:
    """Control of the training that a callback is in.

    ``executor`` takes no commands before ``start`` and after ``stop``.
    """

    def __init__(self) -> None:
        self.executor: LeaderExecutor | FollowerExecutor | NullExecutor = NullExecutor()
        self._sigterm_handler: SigtermHandler | None = None

    def start(self, publisher: Publisher, control: Any, step: int, options: Options) -> None:
        """Take commands from ``step`` on.

        Raises:
            SettingsError, OSError: the folder for commands and answers cannot be made.
        """
        executor = self._open_executor(publisher, control, step, options.wait_for_stopper)
        self.executor = executor
        if options.stop_on_sigterm:
            self._sigterm_handler = SigtermHandler.install(executor, publisher)

    def stop(self) -> list[Unconfirmed]:
        """Take no more commands; answers that the bus may not have confirmed yet."""
        handler, self._sigterm_handler = self._sigterm_handler, None
        if handler is not None:
            handler.uninstall()
        executor, self.executor = self.executor, NullExecutor()
        executor.close()
        return executor.unconfirmed()

    @staticmethod
    def _open_executor(
        publisher: Publisher, control: Any, step: int, wait_for_stopper: float
    ) -> LeaderExecutor | FollowerExecutor:
        if publisher.identity.rank_info.rank > 0:
            return FollowerExecutor(publisher, control, step)
        try:
            return LeaderExecutor(publisher, control, step, wait_for_stopper)
        except Exception as error:
            abandon_control(publisher.identity, error)
            raise
