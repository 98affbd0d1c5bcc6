"""The training loop of a network with optimizer steps, checkpoints and early stopping, in one or several processes."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.models.trainers.termination import SigtermHandler
from airflow_mlops.models.trainers.torch.batches import Batches
from airflow_mlops.models.trainers.torch.checkpoint import State, read_checkpoint, write_checkpoint
from airflow_mlops.models.trainers.torch.reader import Batch, Share
from airflow_mlops.models.trainers.torch.task import TrainingTask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.data.store import ArtifactStore

_TYPES = {"bf16": torch.bfloat16, "16": torch.float16}
# Time between two progress messages, in seconds.
_PROGRESS_SECONDS = 10.0


class Loop:
    """The training of a network in one process, or in one of several processes that torchrun started.

    Each process trains on its share of every batch. All processes have the same state.

    :param task: the trainer, the data and the checkpoint
    :param network: the untrained network
    :param device: the device to train on
    :param progress: function that writes a message to the task's log; called in the first process only
    :param log: function that logs the metrics of one epoch; called in the first process only
    """

    def __init__(
        self,
        task: TrainingTask,
        network: torch.nn.Module,
        device: torch.device,
        progress: Callable[[str], None],
        log: Callable[[int, dict[str, float]], None],
    ) -> None:
        spec = task.spec
        self.task, self.spec, self.device, self.progress, self.log = task, spec, device, progress, log
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
        self.network = network.to(device)
        several = distributed.is_initialized()
        self.share = Share(distributed.get_rank(), distributed.get_world_size()) if several else Share()
        self.wrapped = DistributedDataParallel(self.network) if several else self.network
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay
        )
        # Multiplying the loss by a large number keeps half-precision gradients from becoming 0.
        self.scaler = torch.amp.GradScaler(device.type, enabled=spec.precision == "16")
        regression = task.reader.task == "regression"
        self.loss = torch.nn.MSELoss() if regression else torch.nn.CrossEntropyLoss()
        self.row_loss = type(self.loss)(reduction="none")
        self.batches = Batches(
            task.dataset,
            task.part,
            task.reader,
            batch_size=spec.batch_size,
            validation=spec.validation,
            seed=task.seed,
            share=self.share,
            pinned=device.type == "cuda",
        )
        self.state = State()
        self._last_message = time.monotonic()
        self._terminated = False

    def resume(self) -> None:
        """Continue from the checkpoint, if a checkpoint exists."""
        saved = read_checkpoint(self._store, self.task.checkpoint)
        if saved is None:
            return
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.state = State(**saved["state"])
        self._report(
            f"Resuming from the checkpoint after step {self.state.step:,}, batch {self.state.batch:,} of epoch "
            f"{self.state.epoch + 1}."
        )
        if (before := len(saved["random"])) != self.share.processes:
            self._report(
                f"The number of processes was {before} and is now {self.share.processes}. Therefore dropout differs from "
                "an uninterrupted training."
            )
            torch.manual_seed(hash((self.task.seed, self.state.step, self.share.rank)))
            return
        processor, gpu = saved["random"][self.share.rank]
        torch.set_rng_state(processor)
        if gpu is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(gpu, self.device)

    def save(self) -> None:
        """Write the checkpoint, with the random state of every process. All processes must call this method."""
        gpu = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        random: list[Any] = [(torch.get_rng_state(), gpu)]
        if self.share.processes > 1:
            mine, random = random[0], [None] * self.share.processes
            distributed.gather_object(mine, random if self._first else None)
        if not self._first:
            return
        content = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random,
            "state": vars(self.state),
        }
        write_checkpoint(self._store, self.task.checkpoint, content)

    @property
    def _store(self) -> ArtifactStore:
        return self.task.dataset.store

    @property
    def _first(self) -> bool:
        return self.share.rank == 0

    def _report(self, message: str) -> None:
        if self._first:
            self.progress(message)

    def train(self) -> None:
        """Run the remaining epochs, or fewer if early stopping ends the training.

        On SIGTERM, the current step is finished and a checkpoint is written before the process exits.

        :raises TrainingError: no row is left for training, the network cannot be trained, or its loss is infinite or
            NaN
        """
        state, spec = self.state, self.spec
        with SigtermHandler(self._terminate):
            while state.epoch < spec.epochs and not self._stops_early():
                started, rows = time.monotonic(), state.epoch_rows
                self._train_epoch()
                if not state.epoch_rows:
                    raise TrainingError(
                        f"No row of training set {self.task.dataset.manifest.name!r} is left for training with "
                        f"validation={spec.validation:g}. Use more rows, or a smaller `validation`."
                    )
                seconds = max(1e-9, time.monotonic() - started)
                found = {"train_loss": state.epoch_loss / state.epoch_rows}
                if spec.validation:
                    found["validation_loss"] = self._validate()
                self._update_best(found.get("validation_loss", found["train_loss"]))
                speed = (state.epoch_rows - rows) / seconds
                losses = ", ".join(f"{name.replace('_', ' ')} {value:.5f}" for name, value in found.items())
                self._report(f"Epoch {state.epoch + 1} of {spec.epochs}: {losses}, {speed:,.0f} rows/s.")
                if self._first:
                    self.log(state.epoch, found)
                state.epochs.append(found)
                state.epoch, state.batch, state.epoch_loss, state.epoch_rows = state.epoch + 1, 0, 0.0, 0
        if state.best is None:
            raise TrainingError(
                f"The validation loss is {state.epochs[-1]['validation_loss']} after {counted(state.epoch, 'epoch')}, and was "
                "never a finite number. Use a smaller `learning_rate`, or set precision='32'."
            )

    def _terminate(self) -> None:
        self._terminated = True

    def _stops_early(self) -> bool:
        patience, state = self.spec.patience, self.state
        return patience is not None and state.best_epoch >= 0 and state.epoch - state.best_epoch > patience

    def _train_epoch(self) -> None:
        state, spec = self.state, self.spec
        self.wrapped.train()
        self.optimizer.zero_grad(set_to_none=True)
        batches = self.batches.training(state.epoch, skip=state.batch)
        while group := list(itertools.islice(batches, spec.accumulate)):
            self._step(group)

    def _step(self, group: list[Batch]) -> None:
        """Make one optimizer step with the mean gradient of all rows in ``group``."""
        state, spec = self.state, self.spec
        rows = sum(map(len, group))
        total = torch.zeros((), device=self.device)
        for place, batch in enumerate(group):
            with self._without_sync(last=place == len(group) - 1):
                loss = self._forward(self.wrapped, batch) * (len(batch) / rows)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        # Values are read from the GPU only once per step, because the CPU waits for the GPU during a read.
        loss_sum, seen, terminated = self._sum(total.double() * rows, rows, self._terminated)
        if not np.isfinite(loss_sum):
            raise TrainingError(
                f"The training loss is {loss_sum / seen} after step {state.step:,}. Use a smaller `learning_rate`, or set "
                "precision='32'."
            )
        state.losses.append(loss_sum / seen)
        state.epoch_loss += loss_sum
        state.epoch_rows += int(seen)
        state.batch += len(group)
        state.step += 1
        if time.monotonic() - self._last_message > _PROGRESS_SECONDS:
            self._last_message = time.monotonic()
            self._report(f"Epoch {state.epoch + 1}, step {state.step:,}: loss {loss_sum / seen:.5f}.")
        if terminated or state.step % spec.checkpoint_every == 0:
            self.save()
        if terminated:
            self._report(
                f"The training received SIGTERM and ends. The next try of the task continues from the checkpoint of step "
                f"{state.step:,}."
            )
            raise SystemExit(128 + signal.SIGTERM)

    def _without_sync(self, *, last: bool) -> AbstractContextManager[None]:
        # Processes exchange gradients only after the last batch of a step.
        return (
            nullcontext() if last or not isinstance(self.wrapped, DistributedDataParallel) else self.wrapped.no_sync()
        )

    def _sum(self, *values: torch.Tensor | float) -> list[float]:
        """Return the sum of each value over all processes."""
        if self.share.processes == 1:
            return [float(value) for value in values]
        summed = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values])
        distributed.all_reduce(summed)
        found: list[float] = summed.tolist()
        return found

    def _forward(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        inputs = [self._tensor(values) for values in batch.inputs]
        with torch.autocast(self.device.type, _TYPES.get(self.spec.precision), self.spec.precision in _TYPES):
            found = network(*inputs)
        # The loss is a sum of many small numbers, so it is computed in full precision.
        found = found.float()
        regression = self.task.reader.task == "regression"
        answers, labels = found[:, 0] if regression else found, self._tensor(batch.labels)
        loss: torch.Tensor
        if batch.weights is None:
            loss = self.loss(answers, labels)
        else:
            loss = (self.row_loss(answers, labels) * self._tensor(batch.weights)).mean()
        return loss

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)

    def _validate(self) -> float:
        self.network.eval()
        total, rows = torch.zeros((), dtype=torch.float64, device=self.device), 0
        with torch.inference_mode():
            for batch in self.batches.validation():
                total += self._forward(self.network, batch).double() * len(batch)
                rows += len(batch)
        loss, seen = self._sum(total, rows)
        if not seen:
            raise TrainingError(
                f"No row of training set {self.task.dataset.manifest.name!r} is held out for validation. Use more rows, set a "
                "larger `validation`, or set validation=0."
            )
        return loss / seen

    def _update_best(self, loss: float) -> None:
        state = self.state
        if loss < state.best_loss:
            state.best_loss, state.best_epoch = loss, state.epoch
            state.best = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
