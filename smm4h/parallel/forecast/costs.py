"""Costs of runs: from what a probe measured of each kind of member to the seconds and bytes of a run."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from smm4h.config.job import Member
from smm4h.config.plans.run import Run
from smm4h.parallel.forecast.size import JobSize, planned_steps

# Settings that a step's or a prediction's duration depends on; the rest of a member's settings costs nothing.
COSTLY = (
    *("classifier", "model_name_or_path", "model_revision", "max_seq_length", "truncation", "max_windows"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size", "optim", "bf16"),
    *(
        "fp16",
        "packed",
        "captured",
        "gradient_checkpointing",
        "torch_compile",
        "train_sampling_strategy",
        "bigru_hidden_size",
        "adapter",
        "quantise",
    ),
)
COUNTERS = ("tfidf-logistic", "tfidf-svm")  # training.words.fitting.CLASSIFIERS, which would import scikit-learn
ROW_BYTES = 24  # of a tweet in a file of predictions, beside 4 for each class
COLLAPSE_TWEETS = 200  # predicted at the end of a training, to see whether it learnt anything
OPTIMIZER_WEIGHTS = 2  # states of Adam and its kin, in weights of the model: both moments


@dataclass(frozen=True)
class Measured:
    """What a probe measured of one kind of member, in seconds and bytes.

    Args:
        preparation: before the first step.
        step: of an optimizer step; of a classifier without an encoder 0.
        prediction: of a tweet.
        finish: of saving the weights.
        fits: of a classifier without an encoder, (tweets, seconds) of its fits, the smaller number first.
        model_bytes: of the kept weights with their tokenizer.
        memory: that a worker takes beyond what it is forked with, at its peak.
        gpu_memory: likewise, of a GPU; 0 without one.
        gpu_total: memory that the GPU has.
    """

    preparation: float
    step: float
    prediction: float
    finish: float
    model_bytes: int
    memory: int
    gpu_memory: int = 0
    gpu_total: int = 0
    fits: tuple[tuple[int, float], ...] = ()


def kind_of_cost(member: Member, *, is_baseline: bool) -> str:
    """Return a name of all that a member's costs depend on; members with the same one are measured once."""
    args = member.args
    reads_tokens = args.head == "bigru" and args.bigru_input == "tokens"
    values = {name: getattr(args, name) for name in COSTLY} if member.has_encoder else {"classifier": args.classifier}
    return json.dumps([values, reads_tokens, is_baseline and not member.has_encoder], sort_keys=True)


def kind_of_run(run: Run) -> str:
    """Return `kind_of_cost` of a run's member; adaptations are another kind than the runs that wait for them."""
    kind = kind_of_cost(run.member, is_baseline=run.is_baseline)
    return f"adaptation {kind}" if run.is_adaptation else kind


def fit_seconds(fits: Sequence[tuple[int, float]], n_tweets: int) -> float:
    """Return the seconds of a fit to `n_tweets`, by the power law through two measured ones.

    Its exponent is kept between 0.7 and 1.5, or the noise of two short fits would be carried far beyond them.
    """
    (few, fast), (many, slow) = fits[0], fits[-1]
    if many == few:
        return slow * n_tweets / many
    exponent = math.log(max(slow, 1e-6) / max(fast, 1e-6)) / math.log(many / few)
    return slow * (n_tweets / many) ** min(1.5, max(0.7, exponent))


def adaptation_seconds(member: Member, measured: Measured, size: JobSize) -> float:
    """Return the seconds of the adaptation of an encoder, by the steps of a probe of masked words."""
    steps, _ = planned_steps(member, size.adaptation_texts(member))
    return measured.preparation + measured.finish + steps * measured.step


def run_seconds(member: Member, measured: Measured, size: JobSize, *, is_refit: bool, is_teacher: bool) -> float:
    """Return the seconds of one run of a member.

    Args:
        is_teacher: whether it predicts the unlabelled tweets, too.
    """
    n_predicted = size.predicted_tweets(member, is_refit=is_refit, is_teacher=is_teacher)
    seconds = measured.preparation + measured.finish + n_predicted * measured.prediction
    if not member.has_encoder:
        return seconds + fit_seconds(measured.fits, size.training_tweets(member, is_refit=is_refit))
    steps, evaluations = planned_steps(member, size.shown_tweets(member, is_refit=is_refit))
    n_evaluated = (0 if is_refit else evaluations) * size.evaluated_tweets(is_refit=is_refit)
    n_evaluated += COLLAPSE_TWEETS if member.args.retrain_collapsed else 0
    return seconds + steps * measured.step + n_evaluated * measured.prediction


def prediction_bytes(member: Member, size: JobSize, *, is_refit: bool, is_teacher: bool) -> int:
    """Return the bytes of a run's files of predictions."""
    n_rows = size.predicted_tweets(member, is_refit=is_refit, is_teacher=is_teacher)
    return n_rows * (ROW_BYTES + 4 * size.task.n_classes)


def working_bytes(measured: Measured, seconds: float, save_minutes: float) -> int:
    """Return the bytes that a run has on the disk while it is trained: its weights, or in checkpoints all of its state.

    Args:
        seconds: of the run; a shorter one than `save_minutes` makes no checkpoint.
    """
    makes_checkpoints = save_minutes > 0 and seconds > 60 * save_minutes
    return measured.model_bytes * (2 + OPTIMIZER_WEIGHTS if makes_checkpoints else 1)


def is_quick(member: Member) -> bool:
    """Return whether a member's runs take seconds, whatever the job: it counts words, or comes from elsewhere."""
    return member.is_outside or member.args.classifier in COUNTERS
