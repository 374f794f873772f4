"""Trainer whose trainings resume in any process with the same bytes: RAdam, its batches, its checkpoints."""

import os
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from smm4h.config.arguments import TRAINER_NAMES, TrainerSettings
from smm4h.config.job import Member
from smm4h.data.dataset import column
from smm4h.models.predictors import best_precision
from smm4h.training import checkpoints
from smm4h.training.captured.turns import pass_on
from smm4h.training.optim import RAdam
from smm4h.training.sampler import ClassSampling, ResumableBatchSampler
from smm4h.utils.errors import InputError, Stopped
from smm4h.utils.leases import LeaseLost

if TYPE_CHECKING:
    from smm4h.training.trainer import BestEpoch

HUB_SETTINGS = {"push_to_hub", "hub_model_id", "hub_token", "hub_private_repo"}  # the job uploads, Trainer does not


@dataclass
class RunArguments(TrainingArguments):
    """TrainingArguments that accept `optim: radam` and, by default, choose the device's `best_precision`.

    `run_arguments` makes them of a member's settings.
    """

    def __post_init__(self):
        is_radam = self.optim == "radam"
        if is_radam:
            self.optim = "adamw_torch"  # stands in, since TrainingArguments rejects unknown names
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.bf16 is None:
            device = "cpu" if self.use_cpu else torch.accelerator.current_accelerator().type
            best = "float16" if self.fp16 else best_precision(device)
            self.bf16, self.fp16 = best == "bfloat16", best == "float16"
        super().__post_init__()
        if is_radam:
            self.optim = "radam"


def to_run_arguments(settings: TrainerSettings, output_dir: Path) -> RunArguments:
    """Return the Trainer's arguments for a run that writes to `output_dir`.

    Raises ValueError for settings that contradict each other.
    """
    values = {name: getattr(settings, name) for name in TRAINER_NAMES - HUB_SETTINGS}
    given = {name: value for name, value in values.items() if name == "bf16" or value is not None}
    # Trainer would take away `second` and `windows`, which the collator turns into what the model reads.
    return RunArguments(output_dir=os.fspath(output_dir), remove_unused_columns=False, **given)


def run_arguments(member: Member, output_dir: Path) -> RunArguments:
    """Return a member's training arguments for a run that writes to `output_dir`.

    Where several processes train the run jointly, each gets its share of the recipe's batch.

    Raises `InputError` for settings that TrainingArguments rejects, and for a batch that the processes cannot share.
    """
    try:
        arguments = to_run_arguments(member.args, output_dir)
    except ValueError as error:
        raise InputError(f"member {member.name}: {' '.join(str(error).split())}") from None
    batch, n_processes = arguments.per_device_train_batch_size, arguments.world_size
    if batch % n_processes:
        raise InputError(
            f"member {member.name}: a batch of {batch} can't be shared by {n_processes} processes; launch a number "
            "that divides it, or give another --per_device_train_batch_size"
        )
    arguments.per_device_train_batch_size = batch // n_processes
    if member.args.truncation == "windows":  # so many tweets may have `max_windows` times as many windows
        size = arguments.per_device_eval_batch_size // member.args.max_windows
        arguments.per_device_eval_batch_size = max(1, size)
    return arguments


class ResumableTrainer(Trainer):
    """Trainer with RAdam, batches that depend on seed and epoch alone, and complete checkpoints in the run's folder.

    Args:
        sampling: which rows an epoch contains; None: each row once.
        run_directory: the run's folder, to which complete checkpoints are moved.
        facts: written into the checkpoints, such as the run's fingerprint.
        best: keeps the best epoch's weights; None: the last weights count.
        watch: reports progress and asks for checkpoints.
    """

    def __init__(
        self,
        *args,
        sampling: ClassSampling | None,
        run_directory: Path,
        facts: dict[str, Any],
        best: "BestEpoch | None",
        watch: "RunMonitor",
        **kwargs,
    ):
        super().__init__(*args, callbacks=[watch] if best is None else [best, watch], **kwargs)
        self.sampling, self.run_directory, self.facts = sampling, run_directory, facts
        self.best, self.watch = best, watch
        watch.takes_turns = self.takes_turns

    @property
    def takes_turns(self) -> bool:
        """Whether other runs of the process have turns between two steps, or only before and after this run."""
        return self.args.device.type == "cpu"

    @abstractmethod
    def training_rows(self) -> TorchDataset:
        """Return the rows of the training set, of which the data collator makes batches."""

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of this process's shares of batches.

        The sampler already splits batches among processes, so accelerate must not shard the loader once more.
        """
        args = self.args
        batches = ResumableBatchSampler(
            column(self.train_dataset, "length").to_pylist(),
            args.per_device_train_batch_size * args.world_size,
            accumulation=args.gradient_accumulation_steps,
            strategy=str(args.train_sampling_strategy),
            seed=args.seed if args.data_seed is None else args.data_seed,
            drop_last=args.dataloader_drop_last,
            sampling=self.sampling,
            rank=args.process_index,
            n_processes=args.world_size,
        )
        self.watch.batches = batches
        return DataLoader(
            self.training_rows(),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            generator=torch.Generator(),  # or the loader would draw its base seed from dropout's generator
        )

    def _clip_grad_norm(self, model):
        """Return the gradient norm before clipping.

        On a single CPU process, RAdam applies the clip factor within its step, which saves a pass through memory.
        Reading the norm's value would stall a GPU, so there Trainer clips.
        """
        optimizer = getattr(self.optimizer, "optimizer", None)
        if not isinstance(optimizer, RAdam) or self.args.world_size > 1 or self.args.device.type != "cpu":
            return super()._clip_grad_norm(model)
        grads = [p.grad.view(-1) for p in model.parameters() if p.grad is not None]
        norm = torch.stack([grad.dot(grad) for grad in grads]).sum().sqrt()  # takes half the time of torch's norm
        optimizer.clip = min(1.0, self.args.max_grad_norm / (norm.item() + 1e-6))
        return norm

    def floating_point_ops(self, inputs):
        return 0  # unused, and counting would visit all weights at every step

    def _save_checkpoint(self, model, trial):
        """Save a complete checkpoint with the best epoch so far, then raise `Stopped` if the process must stop."""
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.accelerator.wait_for_everyone()  # each process writes its part

        def complete() -> None:
            if self.best is not None:
                self.best.save(folder)
            checkpoints.mark_complete(folder, {**self.facts, "training_seconds": self.watch.training_seconds()})
            checkpoints.publish(folder, self.run_directory)

        checkpoints.on_main_process(complete)
        if self.watch.stopping:
            raise Stopped

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None):
        """Return the optimizer class and its arguments; adds RAdam to Trainer's."""
        if args.optim == "radam":
            betas = (args.adam_beta1, args.adam_beta2)
            return RAdam, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon}
        return Trainer.get_optimizer_cls_and_kwargs(args, model)


class RunMonitor(TrainerCallback):
    """Callback that reports progress after each step, and requests a checkpoint when due or before a stop.

    A checkpoint due at the last step of an epoch waits for the epoch's evaluation, since a resumed run would skip the
    evaluation. Where several processes train jointly, all save or stop as soon as one of them must.

    Args:
        report: called with the step and the total number of steps.
        stop: returns True once the process must stop.
        save_minutes: minutes between checkpoints; 0: no timed checkpoints.
    """

    def __init__(self, report: Callable[[int, int], None], stop: Callable[[], bool], save_minutes: float) -> None:
        self.report, self.stop, self.save_seconds = report, stop, save_minutes * 60
        self.batches: ResumableBatchSampler | None = None
        self.saved = self.started = time.perf_counter()
        self.seconds_before = 0.0  # of training, in processes that were interrupted
        self.first_step: float | None = None
        self.training = self.stopping = self.due = self.takes_turns = False

    def training_seconds(self) -> float:
        """Return the seconds of training so far, interrupted processes included."""
        return self.seconds_before + time.perf_counter() - self.started

    def on_train_begin(self, args, state, control, **kwargs):
        self.training = True
        checkpoints.on_main_process(lambda: self.report(state.global_step, state.max_steps))

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.batches.epoch = int(state.epoch or 0)

    def on_step_begin(self, args, state, control, **kwargs):
        if self.first_step is None:
            self.first_step = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        is_lost = self._report_and_see(state)
        is_time = self.save_seconds > 0 and time.perf_counter() - self.saved > self.save_seconds
        is_time, self.stopping, is_lost = any_process(args, is_time, self.stop(), is_lost)
        if is_lost:  # to one process, which alone holds it: all must end at the same step
            raise LeaseLost("another process took the run over")
        self.due = control.should_save or is_time or self.stopping
        last_of_epoch = state.global_step >= state.max_steps or float(state.epoch).is_integer()
        control.should_save = self.due and not last_of_epoch
        self._pass_on()

    def _pass_on(self) -> None:
        """Let other runs of this process have their turns."""
        if self.takes_turns:
            pass_on()

    def _report_and_see(self, state) -> bool:
        """Report the step; return whether this process has lost the run's lease."""
        try:
            self.report(state.global_step, state.max_steps)
        except LeaseLost:
            return True
        return False

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_save = (control.should_save or self.due) and state.global_step < state.max_steps

    def on_save(self, args, state, control, **kwargs):
        self.saved = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        self.training = False

    def on_prediction_step(self, args, state, control, **kwargs):
        """Raise `Stopped` during predictions after training, which a resumed process repeats from the trained weights.

        An evaluation during training runs to its end, so that the checkpoint can include it.
        """
        if not self.training and any_process(args, self.stop())[0]:
            raise Stopped
        self._pass_on()


def any_process(args: RunArguments, *flags: bool) -> tuple[bool, ...]:
    """Return the logical OR of each flag over all processes."""
    if args.world_size == 1:
        return flags
    combined = torch.tensor(flags, dtype=torch.int32, device=args.device)
    torch.distributed.all_reduce(combined, torch.distributed.ReduceOp.MAX)
    return tuple(bool(flag) for flag in combined.tolist())
