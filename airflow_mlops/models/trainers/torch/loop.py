"""The training of a network: steps, checkpoints, early stopping; in one process or in several that train together."""

from __future__ import annotations

import io
import itertools
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from airflow_mlops.core import imports
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.models.trainers.spec import TorchTrainerSpec
from airflow_mlops.models.trainers.torch.data import Batch, Batches, Reader, Share
from airflow_mlops.models.trainers.torch.network import TabularNetwork

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.data.datasets import Dataset
    from airflow_mlops.data.store import ArtifactStore

_TYPES = {"bf16": torch.bfloat16, "16": torch.float16}
# Between two lines about how far it is.
_PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class Task:
    """What is trained, on what.

    :param part: the part to learn from
    :param checkpoint: key in the dataset's store
    """

    spec: TorchTrainerSpec
    reader: Reader
    seed: int
    dataset: Dataset
    part: str
    checkpoint: str


def make_network(spec: TorchTrainerSpec, reader: Reader) -> torch.nn.Module:
    """The untrained network.

    :raises SpecError: there is no such module, or it does not take the parameters
    :raises TrainingError: it is no network
    """
    make: Any = imports.load(spec.module, "module") if spec.module else TabularNetwork
    try:
        network = make(**reader.shape, **spec.params)
    except TypeError as error:
        takes = "".join(f"{name}, " for name in reader.shape)
        raise SpecError(
            f"The network {spec.module or 'TabularNetwork'} cannot be made with {spec.params}: {error}. It takes "
            f"{takes}and the trainer's params."
        ) from None
    if not isinstance(network, torch.nn.Module):
        raise TrainingError(f"{spec.module!r} made a {type(network).__name__}, which is no torch.nn.Module.")
    return network


def find_device(name: str, place: int = 0) -> torch.device:
    """:param place: which of several GPUs
    :raises SpecError: there is no GPU where one was asked for
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SpecError("device='cuda' was asked for, and PyTorch finds no GPU here: take the CUDA image and gpus=1.")
    return torch.device("cuda", place)


@dataclass
class State:
    """How far a training is."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    epoch_loss: float = 0.0
    epoch_rows: int = 0
    best: dict[str, torch.Tensor] | None = None
    best_loss: float = float("inf")
    best_epoch: int = -1


class Loop:
    """One training. Under torchrun, one process of it: each sees its share of every batch, and all have the same state.

    :param progress: says how far it is; called in the first process only
    :param log: takes the metrics of one epoch; called in the first process only
    """

    def __init__(
        self,
        task: Task,
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
        together = distributed.is_initialized()
        self.share = Share(distributed.get_rank(), distributed.get_world_size()) if together else Share()
        self.wrapped = DistributedDataParallel(self.network) if together else self.network
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay
        )
        # Gradients of half precision vanish unless the loss is scaled up.
        self.scaler = torch.amp.GradScaler(device.type, enabled=spec.precision == "16")
        regression = task.reader.task == "regression"
        self.loss = torch.nn.MSELoss() if regression else torch.nn.CrossEntropyLoss()
        self.batches = Batches(
            task.dataset,
            task.part,
            task.reader,
            batch_size=spec.batch_size,
            validation=spec.validation,
            seed=task.seed,
            share=self.share,
        )
        self.state = State()
        self._told = time.monotonic()
        self._asked_to_end = False

    # Where it was

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        saved = read_checkpoint(self._store, self.task.checkpoint, self.device)
        if saved is None:
            return
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.state = State(**saved["state"])
        self._tell(
            f"Going on from the checkpoint after step {self.state.step:,}, batch {self.state.batch:,} of epoch "
            f"{self.state.epoch + 1}."
        )
        if len(saved["random"]) != self.share.of:
            self._tell(f"It was written by {len(saved['random'])} processes and not {self.share.of}: dropout differs.")
            torch.manual_seed(hash((self.task.seed, self.state.step, self.share.rank)))
            return
        processor, gpu = saved["random"][self.share.rank]
        torch.set_rng_state(processor.cpu())
        if gpu is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(gpu.cpu(), self.device)

    def save(self) -> None:
        """Write the checkpoint. All processes must call it."""
        gpu = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        random: list[Any] = [(torch.get_rng_state(), gpu)]
        if self.share.of > 1:
            mine, random = random[0], [None] * self.share.of
            distributed.gather_object(mine, random if self._first else None)
        if not self._first:
            return
        buffer = io.BytesIO()
        torch.save(
            {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "random": random,
                "state": vars(self.state),
            },
            buffer,
        )
        # Written whole or not at all, so there is one that can be read whenever the pod dies.
        self._store.write_bytes(self.task.checkpoint, buffer.getvalue())

    @property
    def _store(self) -> ArtifactStore:
        return self.task.dataset.store

    @property
    def _first(self) -> bool:
        return self.share.rank == 0

    def _tell(self, message: str) -> None:
        if self._first:
            self.progress(message)

    # On it goes

    def train(self) -> None:
        """Run the epochs that are left.

        When the process is asked to end (SIGTERM), it finishes its step and writes a checkpoint first.

        :raises TrainingError: the network cannot be trained, or its loss is no number any more
        """
        state, spec = self.state, self.spec
        with _Terminations(self._ask_to_end):
            while state.epoch < spec.epochs and not self._patience_is_over():
                started, rows = time.monotonic(), state.epoch_rows
                self._train_epoch()
                if not state.epoch_rows:
                    raise TrainingError(
                        "There is no row to learn from: the training set is too small for its validation."
                    )
                seconds = max(1e-9, time.monotonic() - started)
                found = {"train_loss": state.epoch_loss / state.epoch_rows}
                if spec.validation:
                    found["validation_loss"] = self._validate()
                self._keep_best(found.get("validation_loss", found["train_loss"]))
                speed = (state.epoch_rows - rows) / seconds
                losses = ", ".join(f"{name.replace('_', ' ')} {value:.5f}" for name, value in found.items())
                self._tell(f"Epoch {state.epoch + 1} of {spec.epochs}: {losses}, {speed:,.0f} rows/s.")
                if self._first:
                    self.log(state.epoch, found)
                state.epochs.append(found)
                state.epoch, state.batch, state.epoch_loss, state.epoch_rows = state.epoch + 1, 0, 0.0, 0

    def _ask_to_end(self) -> None:
        self._asked_to_end = True

    def _patience_is_over(self) -> bool:
        patience, state = self.spec.patience, self.state
        return patience is not None and state.best_epoch >= 0 and state.epoch - state.best_epoch > patience

    def _train_epoch(self) -> None:
        state, spec = self.state, self.spec
        self.wrapped.train()
        self.optimizer.zero_grad(set_to_none=True)
        batches = self.batches.training(state.epoch, skip=state.batch)
        try:
            while group := list(itertools.islice(batches, spec.accumulate)):
                self._step(group)
        except torch.cuda.OutOfMemoryError as error:
            raise TrainingError(
                f"The GPU has too little memory for batches of {spec.batch_size:,} rows: take a smaller batch_size and "
                f"more accumulate. ({error})"
            ) from None

    def _step(self, group: list[Batch]) -> None:
        """One step of the optimizer, with the mean gradient of all rows of ``group``."""
        state, spec = self.state, self.spec
        rows = sum(map(len, group))
        total = torch.zeros((), device=self.device)
        for place, batch in enumerate(group):
            with self._apart(last=place == len(group) - 1):
                loss = self._forward(self.wrapped, batch) * (len(batch) / rows)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        # Read back once a step: each time the processor waits for the GPU.
        loss_sum, seen, asked = self._summed(total.double() * rows, rows, self._asked_to_end)
        if not np.isfinite(loss_sum):
            raise TrainingError(
                f"The loss is {loss_sum / seen} after step {state.step:,}: take a smaller learning_rate, or "
                "precision='32'."
            )
        state.losses.append(loss_sum / seen)
        state.epoch_loss += loss_sum
        state.epoch_rows += int(seen)
        state.batch += len(group)
        state.step += 1
        if time.monotonic() - self._told > _PROGRESS_SECONDS:
            self._told = time.monotonic()
            self._tell(f"Epoch {state.epoch + 1}, step {state.step:,}: loss {loss_sum / seen:.5f}.")
        if asked or state.step % spec.checkpoint_every == 0:
            self.save()
        if asked:
            self._tell(
                f"Asked to end: a checkpoint of step {state.step:,} is written, from which the next try goes on."
            )
            raise SystemExit(128 + signal.SIGTERM)

    def _apart(self, *, last: bool) -> AbstractContextManager[None]:
        # Processes exchange gradients once a step.
        return (
            nullcontext() if last or not isinstance(self.wrapped, DistributedDataParallel) else self.wrapped.no_sync()
        )

    def _summed(self, *values: torch.Tensor | float) -> list[float]:
        """The sums over all processes."""
        if self.share.of == 1:
            return [float(value) for value in values]
        summed = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values])
        distributed.all_reduce(summed)
        found: list[float] = summed.tolist()
        return found

    def _forward(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        inputs = [self._tensor(values) for values in batch.inputs]
        with torch.autocast(self.device.type, _TYPES.get(self.spec.precision), self.spec.precision in _TYPES):
            found = network(*inputs)
        # In full precision, as a loss sums many small numbers.
        found = found.float()
        regression = self.task.reader.task == "regression"
        loss: torch.Tensor = self.loss(found[:, 0] if regression else found, self._tensor(batch.labels))
        return loss

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(values)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def _validate(self) -> float:
        self.network.eval()
        total, rows = 0.0, 0
        with torch.inference_mode():
            for batch in self.batches.validation():
                total += float(self._forward(self.network, batch)) * len(batch)
                rows += len(batch)
        total, seen = self._summed(total, rows)
        if not seen:
            raise TrainingError("No row was kept for validation: the training set is too small; give validation=0.")
        return total / seen

    def _keep_best(self, loss: float) -> None:
        state = self.state
        if loss < state.best_loss:
            state.best_loss, state.best_epoch = loss, state.epoch
            state.best = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}


def read_checkpoint(store: ArtifactStore, key: str, device: torch.device) -> dict[str, Any] | None:
    """The checkpoint, if there is one."""
    try:
        content = store.read_bytes(key)
    except FileNotFoundError:
        return None
    # Weights only: a checkpoint cannot run code.
    saved: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    return saved


class _Terminations:
    """While it is entered, SIGTERM calls ``notice``; a second one does what it did before."""

    def __init__(self, notice: Callable[[], None]) -> None:
        self._notice = notice
        self._before: Any = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._heard)

    def _heard(self, *_: object) -> None:
        self._restore()
        self._notice()

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None
