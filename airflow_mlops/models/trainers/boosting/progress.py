"""Follow the rounds of a training: early stopping, reports, checkpoints and SIGTERM."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from airflow_mlops.core.errors import TrainingError
from airflow_mlops.models.trainers.base import TrainingRun
from airflow_mlops.models.trainers.boosting import checkpoint
from airflow_mlops.models.trainers.boosting.checkpoint import State
from airflow_mlops.models.trainers.spec import BoostingTrainerSpec
from airflow_mlops.models.trainers.termination import SigtermHandler

# Rounds between two reports of the validation loss to MLflow and to a search.
REPORT_EVERY = 25
# Time between two progress messages, in seconds.
_PROGRESS_SECONDS = 10.0


class Progress:
    """The progress of one training. A library calls :meth:`after` after each round.

    :param spec: the trainer
    :param run: the training set, the checkpoint and the log functions; ``None`` for rows in memory
    :param start: number of the model version of a warm start, or ``None``
    """

    def __init__(self, spec: BoostingTrainerSpec, run: TrainingRun | None, start: int | None) -> None:
        self.spec, self.run = spec, run
        self.state = State(start)
        self._terminated = False
        self._error: BaseException | None = None
        self._last_message = time.monotonic()

    def resume(self) -> bytes | None:
        """Continue from the checkpoint, and return the library's file in it; ``None`` if no checkpoint exists."""
        found = None
        if self.run is not None:
            found = checkpoint.read(self.run.dataset.store, self.run.checkpoint, self.state.start)
        if found is None:
            return None
        self.state, content = found
        self.message(f"Resuming from the checkpoint after round {self.state.round:,} of {self.spec.rounds:,}.")
        return content

    @property
    def is_finished(self) -> bool:
        """Return whether the training needs no further round."""
        return self.state.round >= self.spec.rounds or self._stops_early()

    def message(self, text: str) -> None:
        if self.run is not None:
            self.run.progress(text)

    def after(self, loss: float | None, content: Callable[[], bytes | None]) -> bool:
        """Record the end of a round, and return whether the training must stop.

        An error is stored and raised by :meth:`following`, because some libraries swallow exceptions of callbacks.

        :param loss: validation loss after the round; ``None`` without validation rows
        :param content: function that returns the library's file for a checkpoint; ``None`` if there is none yet
        """
        try:
            self._note(loss, content)
        except BaseException as error:  # noqa: BLE001 - raised again by following()
            self._error = error
        return self._error is not None or self._terminated or self._stops_early()

    def record(self, rounds: int, losses: Sequence[float]) -> None:
        """Record all rounds of a training that never called :meth:`after`.

        :param rounds: number of completed rounds
        :param losses: validation loss after each round; empty without validation rows
        :raises TrainingError: a loss is not a finite number
        """
        for number, loss in enumerate(losses, start=1):
            _check(loss, number)
        self.state.round, self.state.losses = rounds, list(losses)

    def _note(self, loss: float | None, content: Callable[[], bytes | None]) -> None:
        state = self.state
        state.round += 1
        if loss is not None:
            _check(loss, state.round)
            state.losses.append(loss)
        if self.run is None:
            return
        last = state.round == self.spec.rounds
        if loss is not None and (state.round % REPORT_EVERY == 0 or last):
            self.run.log(state.round - 1, {"validation_loss": loss})
        if time.monotonic() - self._last_message > _PROGRESS_SECONDS:
            self._last_message = time.monotonic()
            self.message(
                f"Round {state.round:,} of {self.spec.rounds:,}{'' if loss is None else f': validation loss {loss:.5f}'}."
            )
        if (self._terminated or state.round % self.spec.checkpoint_every == 0) and not last:
            saved = content()
            if saved is not None:
                checkpoint.write(self.run.dataset.store, self.run.checkpoint, state, saved)

    def _stops_early(self) -> bool:
        patience, state = self.spec.patience, self.state
        return patience is not None and bool(state.losses) and state.round - state.best_round >= max(1, patience)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Return a context manager for the calls of the library.

        At the end of the block, it raises the error that :meth:`after` stored. If SIGTERM was received and the training
        is not finished, it ends the process.
        """

        def terminate() -> None:
            self._terminated = True

        with SigtermHandler(terminate):
            yield
        if self._error is not None:
            raise self._error
        if self._terminated and not self.is_finished:
            self.message(
                "The training received SIGTERM and ends. The next try of the task continues from the last checkpoint."
            )
            raise SystemExit(128 + signal.SIGTERM)


def _check(loss: float, number: int) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"The validation loss is {loss} after round {number:,}. Use a smaller learning rate, or check the labels."
        )
