"""Trainer whose steps are captured: the loop over an epoch's batches, with the least work for the host."""

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers.optimization import GreedyLR

from smm4h.config.job import Member
from smm4h.models.padding_free.attention import has_ragged_attention
from smm4h.models.padding_free.encoder import PaddingFreeEncoder
from smm4h.training.captured.rows import LONGEST, TrainingTweets
from smm4h.training.captured.step import CapturedStep
from smm4h.training.trainer import TweetTrainer

OPTIMIZERS = ("radam", "adamw_torch", "adamw_torch_fused")  # treat each value alone, so that parameters may be joined
STEPPED_BY_EVALUATIONS = ReduceLROnPlateau, GreedyLR  # schedules that Trainer steps, with their metric


def is_captured(member: Member, encoder: PaddingFreeEncoder | None, head, longest: int) -> bool:
    """Return whether a run's steps are captured as CUDA graphs.

    That needs an encoder that is computed padding-free on a GPU, by kernels for ragged lengths, of one block each; an
    optimizer that treats each value alone; and a head that reads no lengths on the host.

    Args:
        longest: tokens of the longest training tweet.
    """
    if encoder is None or not has_ragged_attention(encoder.layer_weights[0]):
        return False
    return can_capture(member, head, longest)


def can_capture(member: Member, head, longest: int) -> bool:
    """Return whether a run's settings allow that its steps are captured."""
    reads_lengths = head.needs_tokens and member.args.head != "mean"
    is_plain = member.args.truncation != "windows" and not reads_lengths and longest <= LONGEST
    return member.args.captured and is_plain and member.args.optim in OPTIMIZERS


class CapturedTrainer(TweetTrainer):
    """`TweetTrainer` on one GPU that replays each training step as a CUDA graph."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        config = self.model.config
        tweets = TrainingTweets(
            self.train_dataset,
            self.loss,
            self.args.per_device_train_batch_size,
            config.num_labels,
            config.pad_token_id or 0,
        )
        encoder = self.model.encoder_override
        self.step = CapturedStep(self.model, encoder, tweets, self._mean_loss, self.args.max_grad_norm)

    @property
    def takes_turns(self) -> bool:
        return True

    def _mean_loss(self, outputs, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of a whole step."""
        divisor = self.loss_on_device.normalizer(targets)
        return self.mean_over_step(outputs, targets, divisor.clamp_min(torch.finfo(divisor.dtype).tiny))

    def _reported(self, loss: torch.Tensor) -> torch.Tensor:
        """Return a step's loss, or if that is not finite and such are left out, the mean since the last report."""
        if not self.args.logging_nan_inf_filter:
            return loss
        n_unreported = 1 + self.state.global_step - self._globalstep_last_logged
        return loss.where(loss.isfinite(), self._tr_loss / n_unreported)

    def create_optimizer(self, model=None):
        optimizer = super().create_optimizer(model)
        self.model.train()
        self.step.flatten(optimizer)
        return optimizer

    def train(self, *args, **kwargs):
        try:
            return super().train(*args, **kwargs)
        finally:
            self.step.end()

    def _run_epoch(
        self, *, model, epoch, steps_in_epoch, trial, ignore_keys_for_eval, start_time, resume_from_checkpoint,
        epochs_trained, steps_trained_in_current_epoch, **_
    ):  # fmt: skip
        """Train an epoch, as `Trainer._run_epoch` does; only where Trainer has something to do, it is asked."""
        made, lr = 0, None
        if epoch == epochs_trained and resume_from_checkpoint is not None:
            made = steps_trained_in_current_epoch
            self._load_rng_state(resume_from_checkpoint)

        def log_save_evaluate() -> None:
            later = trial, epoch, ignore_keys_for_eval, start_time
            self._maybe_log_save_evaluate(self._tr_loss, self.step.norm, model, *later, learning_rate=lr)

        self.accelerator.gradient_state._set_sync_gradients(True)
        optimizer = self.optimizer.optimizer  # accelerate's own looks for a package at each step
        for number, indices in enumerate(self.watch.batches):
            if number < made:
                continue
            if not model.training:
                model.train()
            self.control = self.callback_handler.on_step_begin(self.args, self.state, self.control)
            self._tr_loss += self._reported(self.step(indices))
            self.control = self.callback_handler.on_pre_optimizer_step(self.args, self.state, self.control)
            optimizer.step()
            self.control = self.callback_handler.on_optimizer_step(self.args, self.state, self.control)
            lr = self._get_learning_rate()  # of this step
            if not isinstance(self.lr_scheduler, STEPPED_BY_EVALUATIONS):
                self.lr_scheduler.step()
            self.state.global_step += 1
            self.state.epoch = epoch + (number + 1) / steps_in_epoch
            self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
            if self.control.should_log or self.control.should_evaluate or self.control.should_save:
                log_save_evaluate()
            if self.control.should_epoch_stop or self.control.should_training_stop:
                break
        self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
        log_save_evaluate()
