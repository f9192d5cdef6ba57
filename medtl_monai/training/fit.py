"""The training loop: MONAI's SupervisedTrainer and SupervisedEvaluator under a freeze policy.

Every handler here is a function of the epoch or step it is called for; nothing is switched "once". A run that is
interrupted and resumed therefore goes through the same states.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from medtl_monai.config import TrainingConfig
from medtl_monai.data.loader import EpochSampler, evaluation_loader, training_loader
from medtl_monai.errors import RunError
from medtl_monai.modules import Batch, Metric
from medtl_monai.training.assemble import Assembly
from medtl_monai.training.checkpoint import CheckpointStore, Progress
from medtl_monai.training.datasets import Datasets
from medtl_monai.training.features import PhaseLoader
from medtl_monai.training.folder import RunFolder
from medtl_monai.training.inference import BatchInferer
from medtl_monai.training.prefix import FrozenPrefix
from medtl_monai.training.reporter import Reporter
from medtl_monai.training.saver import Saver, State
from medtl_monai.training.scores import HeadMetric, better
from medtl_monai.training.tuning import Tuning, apply_format, format_batch, keep_fp32
from medtl_monai.transfer.adapters import adapter_state, load_states, merged_state
from medtl_monai.transfer.freeze import Freezer
from medtl_monai.transfer.lr import schedule_factor


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How training ended.

    Attributes:
        epochs: Epochs finished.
        best_epoch: Epoch (from 0) of the best checkpoint, or None without a validation part.
        best_value: Its value of the key metric.
        stopped_early: Whether patience ran out.
    """

    epochs: int
    best_epoch: int | None
    best_value: float | None
    stopped_early: bool


class Fit:
    """One training run.

    Args:
        assembly: What to train.
        datasets: On what.
        folder: Where records and checkpoints go.
        tuning: Memory format and precision.
        reporter: Who is told.
    """

    def __init__(
        self, assembly: Assembly, datasets: Datasets, folder: RunFolder, tuning: Tuning, reporter: Reporter
    ) -> None:
        self.assembly = assembly
        self.datasets = datasets
        self.config: TrainingConfig = assembly.config.training
        self.folder = folder
        self.tuning = tuning
        self.reporter = reporter
        self.model = assembly.model.to(assembly.device)
        apply_format(self.model, tuning.channels_last, assembly.record.context.spatial_dims)
        self.model.precision = tuning.precision
        keep_fp32(self.model, tuning.fp32_layers)
        self.freezer = Freezer(self.model, assembly.schedule, warmup=self.config.warmup)
        self.optimizer = make_optimizer(self.freezer, self.config)
        self.store = CheckpointStore(folder.checkpoints)
        self.saver = Saver(self.store)
        self.progress = Progress()
        self.metrics: Mapping[str, Metric] = self.model.head.metrics()
        self.key = next(iter(self.metrics))
        self._losses: list[float] = []
        self._val_losses: list[float] = []
        self._epoch_started = 0.0
        self._quiet: set[str] = set()
        self._stopped_early = False
        self.trainer = self._make_trainer()
        self.evaluator = self._make_evaluator()
        self.prefix = FrozenPrefix(assembly, datasets, folder, tuning, reporter, self._train_loader, self._val_loader)

    def save(self) -> None:
        """Store model, optimizer and counters as they are now.

        Called before the first epoch too: a run killed in it resumes from the very weights it started with.

        Raises:
            StorageError: If the disk is full; the checkpoint before is intact.
        """
        self.saver.save(self._state())

    def resume(self) -> None:
        """Go back to the state of the last checkpoint."""
        checkpoint = self.store.load("last")
        load_states(self.model, checkpoint.tensors, checkpoint.extra.get("adapters", {}))
        self.freezer.load_anchor_state(checkpoint.extra["anchors"])
        self.freezer.load_state_dict(checkpoint.extra["freezer"])
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.progress = checkpoint.progress
        self.folder.keep_metrics(self.progress.epoch)

    def run(self) -> Outcome:
        """Train from the current epoch to the last one.

        Raises:
            RunError: If the loss is no longer a number.
            StorageError: If a checkpoint cannot be written; the one before it is intact.
        """
        done = self.progress.epoch >= self.config.epochs or self._out_of_patience()
        if not done:
            steps = self.trainer.state.epoch_length
            self.trainer.state.epoch = self.progress.epoch
            self.trainer.state.iteration = self.progress.epoch * steps
            self.reporter.start(
                first_epoch=self.progress.epoch, epochs=self.config.epochs, steps=steps, key_metric=self.key
            )
            try:
                self.trainer.run()
            finally:
                self.reporter.finish()
                # Also after an interruption: every finished epoch is kept.
                self.saver.flush()
        p = self.progress
        return Outcome(p.epoch, p.best_epoch, p.best_value, self._stopped_early)

    def _make_trainer(self) -> SupervisedTrainer:
        loader = training_loader(
            self.datasets.train,
            batch_size=self.config.batch_size,
            min_steps=self.config.min_steps,
            seed=self.config.seed,
            strata=self.datasets.strata,
            workers=self.tuning.workers,
            pin_memory=self.assembly.device.type == "cuda",
        )
        sampler = loader.batch_sampler
        if not isinstance(sampler, EpochSampler):
            raise TypeError("the training loader has no EpochSampler")
        self._sampler = sampler
        self._train_loader = PhaseLoader(loader)
        trainer = SupervisedTrainer(
            device=self.assembly.device,
            max_epochs=self.config.epochs,
            train_data_loader=self._train_loader,
            network=self.model,
            optimizer=self.optimizer,
            loss_function=self._loss,
            prepare_batch=self._prepare,
            decollate=False,
            optim_set_to_none=True,
        )
        trainer.logger.disabled = True  # it prints stack traces of errors that are reported properly further up
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        trainer.add_event_handler(Events.ITERATION_STARTED, self._set_lr)
        trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._count_step)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        return trainer

    def _make_evaluator(self) -> SupervisedEvaluator | None:
        self._val_loader: PhaseLoader | None = None
        if self.datasets.val is None:
            return None
        self._val_loader = PhaseLoader(evaluation_loader(self.datasets.val, workers=self.tuning.workers))
        values = {name: HeadMetric(name, metric) for name, metric in self.metrics.items()}
        key, *others = values
        evaluator = SupervisedEvaluator(
            device=self.assembly.device,
            val_data_loader=self._val_loader,
            network=self.model,
            inferer=BatchInferer(self.assembly.data.preprocessing.patch_size),
            prepare_batch=self._prepare,
            key_val_metric={key: values[key]},
            additional_metrics={name: values[name] for name in others},
            metric_cmp_fn=lambda new, best: better(new, best, self.metrics[key].mode),
            decollate=False,
        )
        evaluator.logger.disabled = True
        self._head_metrics = values

        def predict(engine: SupervisedEvaluator) -> None:
            batch = engine.state.output[CommonKeys.LABEL]
            output = engine.state.output[CommonKeys.PRED]
            self._val_losses.append(float(self.model.head.loss(output, batch)))
            prediction = self.model.head.predict(output, batch)
            engine.state.output = {"prediction": prediction, "batch": batch}

        evaluator.add_event_handler(IterationEvents.MODEL_COMPLETED, predict)
        return evaluator

    def _prepare(self, batch: Batch, device: torch.device, non_blocking: bool, **_: Any) -> tuple[Batch, Batch]:
        moved = format_batch(batch.to(device, non_blocking=non_blocking), self.tuning.channels_last)
        return moved, moved

    def _loss(self, output: Tensor, batch: Batch) -> Tensor:
        loss = self.model.head.loss(output, batch)
        penalty = self.freezer.penalty()
        return loss if penalty is None else loss + penalty

    def _start_epoch(self, engine: SupervisedTrainer) -> None:
        epoch = engine.state.epoch - 1
        self.freezer.apply(epoch, self.progress.plateaus)
        still = self._still()
        if not self._quiet <= still:
            self.saver.thaw()
        self._quiet = still
        # Whether features are computed once must not decide what is learnt: the table says when views are used.
        self._sampler.set_epoch(epoch, self.config.views if self.model.frozen_prefix else None)
        self._epoch_started = time.perf_counter()
        self.prefix.enter(epoch, self.progress.plateaus)
        # Dropout draws from torch's global generator: seeded by the epoch, an epoch is the same whenever it runs.
        torch.manual_seed(_epoch_seed(self.config.seed, epoch))
        self._losses = []

    def _set_lr(self, engine: SupervisedTrainer) -> None:
        steps = engine.state.epoch_length
        step = engine.state.iteration - 1
        total = steps * self.config.epochs
        self.freezer.set_lr(
            self.optimizer,
            self.config.lr,
            schedule_factor(self.config.schedule, step, total, warmup=self.config.warmup),
            step=step % steps,
            steps_per_epoch=steps,
        )

    def _clip(self, engine: SupervisedTrainer) -> None:
        if self.config.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.freezer.trainable_parameters(), self.config.clip_grad_norm)

    def _count_step(self, engine: SupervisedTrainer) -> None:
        loss = float(engine.state.output[CommonKeys.LOSS].detach())
        epoch = engine.state.epoch - 1
        if not math.isfinite(loss):
            raise RunError(
                f"the loss became {loss} in epoch {epoch + 1}",
                where=self.folder.name,
                mend="Lower training.lr, or train with --set training.precision=fp32; earlier checkpoints are intact",
            )
        self._losses.append(loss)
        step = (engine.state.iteration - 1) % engine.state.epoch_length
        self.reporter.step(epoch=epoch, step=step, loss=loss, lr=self._current_lr())

    def _end_epoch(self, engine: SupervisedTrainer) -> None:
        epoch = engine.state.epoch - 1
        values = self._validate()
        value = values.get(self.key, math.nan)
        improved = self._judge(epoch, value, values.get("loss", math.nan))
        self.progress.epoch = epoch + 1
        plateau = self._count_plateau()
        line = {
            "epoch": epoch,
            "loss": sum(self._losses) / len(self._losses),
            "lr": self._current_lr(),
            "trainable": sum(p.numel() for p in self.freezer.trainable_parameters()),
            "seconds": round(time.perf_counter() - self._epoch_started, 3),
            "best": improved,
            **{f"val/{name}": v for name, v in values.items()},
        }
        self.folder.append_metrics(line)
        self.saver.offer(self._state(), still=self._quiet)
        self.reporter.epoch(line)
        if plateau:
            self.reporter.note(f"plateau {self.progress.plateaus} of {self.key} after epoch {epoch + 1}")
        if self._out_of_patience():
            self._stopped_early = True
            engine.terminate()

    def _state(self) -> State:
        return State(
            tensors=merged_state(self.model),
            optimizer=self.optimizer.state_dict(),
            progress=self.progress,
            metadata={"format": "medtl-run", "backbone": self.assembly.record.backbone},
            extra={
                "anchors": self.freezer.anchor_state(),
                "freezer": self.freezer.state_dict(),
                "adapters": adapter_state(self.model),
            },
        )

    def _still(self) -> set[str]:
        """Name the tensors of frozen stages."""
        rules = self.model.rules
        return {name for stage in self.model.stages if rules[stage.name].frozen for name in stage.tensors}

    def _validate(self) -> dict[str, float]:
        if self.evaluator is None:
            return {}
        self._val_losses = []
        with warnings.catch_warnings():
            # A split without one of the classes has no AUC; the value is NaN and shown as such.
            warnings.filterwarnings("ignore", category=UserWarning, module="monai")
            self.evaluator.run()
        values = {name: v for metric in self._head_metrics.values() for name, v in metric.values.items()}
        return {"loss": sum(self._val_losses) / len(self._val_losses), **values}

    def _judge(self, epoch: int, value: float, loss: float) -> bool:
        """Take the value of the key metric into the counters; say whether it is the best so far.

        With few validation cases values tie, an AUC of 1 above all: the lower validation loss then decides, which is no
        gain in the sense of patience.
        """
        p = self.progress
        if self.evaluator is None:
            p.best_epoch = epoch
            return True
        if epoch in self._phase_starts():
            p.stale = p.flat = 0  # a new phase deserves its full patience
        if better(value, p.best_value, self.metrics[self.key].mode):
            p.best_epoch, p.best_value, p.best_loss, p.stale = epoch, value, loss, 0
            p.flat = 0
            return True
        p.stale += 1
        p.flat += 1
        if value == p.best_value and better(loss, p.best_loss, "min"):
            p.best_epoch, p.best_loss = epoch, loss
            return True
        if math.isnan(value) and epoch == 0:
            self.reporter.warn(
                f"{self.key} is undefined on the validation cases (a class may be missing there): where it stays so, "
                "the last epoch is kept instead of the best"
            )
        return False

    def _count_plateau(self) -> bool:
        """Count a plateau if the metric has been flat for long enough and the policy has a use for it."""
        p = self.progress
        if p.flat < self.config.plateau_patience or not self.assembly.schedule.waits(p.epoch, p.plateaus):
            return False
        p.plateaus += 1
        p.stale = p.flat = 0  # a new phase deserves its full patience
        return True

    def _out_of_patience(self) -> bool:
        patience, p = self.config.patience, self.progress
        if patience is None or p.stale < patience:
            return False
        # Stopping before a later phase would leave the policy half done, also where that waits for a plateau.
        return not self.assembly.schedule.waits(p.epoch, p.plateaus) and max(self._phase_starts()) < self.progress.epoch

    def _phase_starts(self) -> set[int]:
        return {phase.first for phase in self.assembly.schedule.phases(self.progress.plateaus)}

    def _current_lr(self) -> float:
        return max(float(group["lr"]) for group in self.optimizer.param_groups)


def make_optimizer(freezer: Freezer, config: TrainingConfig) -> Optimizer:
    """Build the optimizer over everything that ever trains; its groups stay the same for the whole run."""
    groups = freezer.parameter_groups(config.weight_decay)
    # One kernel a parameter instead of a dozen: several times faster on a CPU, where torch does not choose it itself.
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.lr, momentum=0.9, nesterov=True, fused=True)
    return AdamW(groups, lr=config.lr, fused=True)


def _epoch_seed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**31
