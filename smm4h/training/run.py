"""Train one run: fine-tune, restore the best epoch, predict the held-out fold and the test set.

An interrupted run resumes in any process and ends with byte-identical files. In order of appearance: checkpoints,
`trained/` + TRAINED, predictions and metrics, `model/`, DONE; what is unfinished, in this process's own folder.
"""

import gc
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from sklearn.metrics import roc_auc_score
from torch import nn
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, set_seed
from transformers.trainer_utils import IntervalStrategy

from heads import TweetClassifier, TweetClassifierConfig
from smm4h.config.arguments import DEFAULTS
from smm4h.config.job import Member
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.config.versions import OWN, own_version
from smm4h.data.dataset import column, group_names
from smm4h.data.folds import stratified_choice
from smm4h.data.tokenization import hub_arguments, load_tokenizer, loading_error, longest_first, token_table, used_ids
from smm4h.metrics import confusion_matrix, precision, recall
from smm4h.models.batching import PaddingCollator, probabilities_of
from smm4h.models.padding_free.choice import padding_free_encoder
from smm4h.models.padding_free.encoder import supports_padding_free
from smm4h.training import checkpoints
from smm4h.training.adapters import add_member_adapter, convert_saved, end_adapter, has_adapter, load_trained, quantised
from smm4h.training.captured.trainer import CapturedTrainer, is_captured
from smm4h.training.captured.turns import Beside
from smm4h.training.checkpoints import (
    RunFiles,
    TrainingResult,
    read_training_result,
    weights_folder,
    write_training_result,
)
from smm4h.training.losses import LabelSetLoss, loss_of
from smm4h.training.optim import SparseRowEmbedding
from smm4h.training.resumable import ResumableTrainer, RunArguments, RunMonitor, run_arguments
from smm4h.training.run_data import HELD_OUT, RunData, training_part, write_done, write_results
from smm4h.training.sampler import sampling_of
from smm4h.training.tracking import trackers_of
from smm4h.training.trainer import BestEpoch, TweetTrainer, input_columns
from smm4h.utils.durable import listing, read_checked_json, write_checked_json
from smm4h.utils.errors import InputError

MIN_AUC, AUC_TWEETS = 0.6, 100  # below this AUC a run has collapsed; training tweets of each kind to compute it on
RESEED_OFFSET = 1000  # added to the seed of a collapsed run
ADAMS = ("radam", "adamw_torch", "adamw_torch_fused")  # leave weights without a gradient unchanged


def build_model(member: Member, task: Task, device: torch.device | None = None) -> TweetClassifier:
    """Return the member's head on its pretrained encoder, with new weights drawn from the member's seed.

    Args:
        device: of an encoder that is quantised; any other is loaded on the CPU.

    Raises `InputError` for an encoder that cannot be loaded.
    """
    set_seed(member.args.seed)
    config = TweetClassifierConfig(
        head=member.args.head,
        bigru_input=member.args.bigru_input,
        bigru_hidden_size=member.args.bigru_hidden_size,
        classifier_dropout=member.args.classifier_dropout,
        cleaning=member.args.cleaning,
        task_name=task.name,
        context=task.context or None,
        truncation=member.args.truncation,
        max_windows=member.args.max_windows,
        window_pooling=member.args.window_pooling,
        rare=task.positive_indices,
        id2label=dict(enumerate(task.labels)),
        label2id={label: index for index, label in enumerate(task.labels)},
        problem_type=task.space.problem_type,
    )
    name = member.args.model_name_or_path
    try:
        given = {"dtype": torch.float32, **hub_arguments(member), **quantised(member, device or torch.device("cpu"))}
        model = TweetClassifier.from_encoder(name, config, **given)
    except (OSError, ValueError) as error:
        raise InputError(loading_error(name, error)) from None
    if member.adapter is not None:
        add_member_adapter(model, member)
    return model


def is_padding_free(member: Member, arguments: RunArguments, model: TweetClassifier) -> bool:
    """Return whether `models.padding_free` may compute the run's encoder."""
    allowed = allows_padding_free(member, arguments) and not has_adapter(model)
    return allowed and supports_padding_free(model.encoder, model.head)


def allows_padding_free(member: Member, arguments: RunArguments) -> bool:
    """Return whether a training's settings let `models.padding_free` compute its encoder.

    True in a single process, without settings that change the encoder's forward, and on a GPU without those that call
    it more than once a step.
    """
    changed = arguments.fp16, arguments.gradient_checkpointing, arguments.torch_compile, arguments.neftune_noise_alpha
    is_plain = not any(changed)
    if arguments.device.type != "cpu":
        is_plain = is_plain and arguments.gradient_accumulation_steps == 1 and arguments.n_gpu == 1
    return member.args.packed and arguments.world_size == 1 and is_plain


def make_padding_free(model: TweetClassifier, arguments: RunArguments, tweets: Dataset) -> None:
    """Skip work without effect: padding, states that no head reads, updates of word pieces absent from the data."""
    model.to(arguments.device)
    model.encoder_override = padding_free_encoder(model, torch.bfloat16 if arguments.bf16 else torch.float32)
    if model.encoder_override is not None and arguments.optim in ADAMS and arguments.weight_decay == 0:
        embeddings = model.encoder.embeddings
        n_rows = embeddings.word_embeddings.num_embeddings
        embeddings.word_embeddings = SparseRowEmbedding(embeddings.word_embeddings, used_ids(tweets, n_rows))


def train_run(
    run: Run,
    data: RunData,
    report: Callable[[int, int], None] = lambda step, steps: None,
    stop: Callable[[], bool] = lambda: False,
    on_trained: Callable[[], None] = lambda: None,
) -> None:
    """Train a run, resuming where an earlier process was interrupted, and write its folder, DONE last.

    Args:
        report: called with the step and the total number of steps.
        stop: returns True once the process must stop; the run's state is then saved.
        on_trained: called after the last training step, before predictions.

    Raises `Stopped` after saving on a stop, and `InputError` for settings that the user must correct.
    """
    with own_folder(run) as own:
        is_complete = False
        while not is_complete:
            with Beside() as saving:
                is_complete = _run_once(run, data, own, report, stop, on_trained, saving)
            _free_memory()


@contextmanager
def own_folder(run: Run) -> Iterator[Path]:
    """Yield a folder in the run's for this process, or all that train it jointly, and free memory in the end."""
    own = broadcast_from_main(checkpoints.make_own_folder(run.directory) if PartialState().is_main_process else None)
    try:
        yield own
    finally:
        if PartialState().is_main_process:
            checkpoints.leave_own_folder(own)
        _free_memory()


def _free_memory() -> None:
    gc.collect()  # or the trainer's reference cycles would keep the last model in memory
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _run_once(run: Run, data: RunData, own: Path, report, stop, on_trained, saving: Beside) -> bool:
    """Complete a run's missing steps; return False if the run collapsed and must be trained with another seed.

    Args:
        own: folder of this process alone, for what is unfinished.
        saving: makes the trained weights durable while they predict.
    """
    started_at = time.perf_counter()
    pseudo = data.pseudo_labels(run)
    part = training_part(run, data, pseudo)
    collapsed = broadcast_from_main(read_checked_json(run.collapsed_file)) is not None
    trainer = _trainer(_reseeded(run) if collapsed else run, data, own, part, report, stop)
    trained = broadcast_from_main(read_training_result(run))
    if trained is None:
        may_collapse = run.member.args.retrain_collapsed and not collapsed
        trained = _train(run, trainer, data.task, len(part), saving, may_collapse=may_collapse)
        if trained is None:
            trainer.accelerator.free_memory()
            return False
        on_trained()
    else:
        load_trained(trainer.model, broadcast_from_main(weights_folder(run)))
        trainer.is_deepspeed_enabled = trainer.is_fsdp_enabled = False  # their wrappers serve training only
    predicting_since = time.perf_counter()
    written = RunFiles(run, trained)

    def write_after_saving(write: Callable[[], None]) -> None:
        saving.wait()
        checkpoints.on_main_process(write)

    write_results(
        run,
        data,
        lambda part, tweets: predict_proba(trainer, tweets, trainer.best.logits if part == HELD_OUT else None),
        {**trained.facts, "pseudo_tweets": 0 if pseudo is None else len(pseudo.rows)},
        written,
        in_one_process=write_after_saving,
        broadcast=broadcast_from_main,
    )

    def finish() -> None:
        _keep_model(run, data, own, trainer.processing_class)
        record = {
            "seconds": round(trained.seconds + time.perf_counter() - predicting_since, 2),
            "training_seconds": round(trained.seconds, 2),
            "preparation_seconds": round((trainer.watch.first_step or started_at) - started_at, 2),
            **machine_of(trainer.args),
        }
        write_done(run, record, written.files)

    checkpoints.on_main_process(finish)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.free_memory()
    return True


def _reseeded(run: Run) -> Run:
    """Return the run with the seed for training after a collapse."""
    return replace(run, member=run.member.with_settings(seed=run.member.args.seed + RESEED_OFFSET))


def training_auc(trainer: "TweetTrainer", task: Task) -> float:
    """Return the area under the ROC curve of rare against other training tweets, 0.5 by chance.

    The sample is always the same, with equally many tweets of both kinds; 1.0 where either kind is missing.
    """
    tweets = trainer.train_dataset
    labels = np.asarray(column(tweets, "labels").to_pylist())
    if task.multi_label:
        return _auc_of_labels(trainer, labels, task)
    is_rare = task.has_rare(labels)
    rare, others = (np.random.default_rng(0).permutation(np.flatnonzero(kind)) for kind in (is_rare, ~is_rare))
    n_each = min(len(rare), len(others), AUC_TWEETS)
    if n_each == 0:
        return 1.0
    rows = np.concatenate([rare[:n_each], others[:n_each]])
    probabilities = predict_proba(trainer, tweets.select(rows))
    return float(roc_auc_score(is_rare[rows], probabilities[:, task.positive_indices].sum(axis=1)))


def _auc_of_labels(trainer: "TweetTrainer", labels: np.ndarray, task: Task) -> float:
    """Return the mean over labels of the area under the ROC curve of training tweets with and without the label."""
    rows = np.random.default_rng(0).permutation(len(labels))[: 2 * AUC_TWEETS]
    targets = (task.space.targets(labels) if labels.ndim == 1 else labels)[rows] > 0.5
    probabilities = predict_proba(trainer, trainer.train_dataset.select(rows))
    columns = [i for i in range(task.n_classes) if 0 < targets[:, i].sum() < len(rows)]
    return float(np.mean([roc_auc_score(targets[:, i], probabilities[:, i]) for i in columns])) if columns else 1.0


def broadcast_from_main(value: Any) -> Any:
    """Broadcast a value from rank 0, so that all ranks act on the same view of the file system."""
    return broadcast_object_list([value])[0]


def _train(
    run: Run, trainer: "TweetTrainer", task: Task, training_tweets: int, saving: Beside, *, may_collapse: bool
) -> TrainingResult | None:
    """Train the remaining steps, restore the best epoch, and save its weights, which `saving` completes.

    Returns None for a run that `may_collapse` and did: COLLAPSED is then written, and the run must be trained with
    another seed. Raises `InputError` where no evaluation was made to choose from.
    """
    best, watch, own = trainer.best, trainer.watch, Path(trainer.args.output_dir)
    checkpoint = adopt_checkpoint(run, trainer, own)
    if checkpoint is not None:
        best.load(checkpoint)
    steps = train_to_the_end(run, trainer, checkpoint)
    if best.keep:
        if best.best is None:
            raise InputError(f"{run.name} was not scored in its {steps} steps; lower --eval_delay or --eval_steps")
        best.restore(trainer.model)
    end_adapter(trainer.model)
    if may_collapse and (auc := training_auc(trainer, task)) < MIN_AUC:
        checkpoints.on_main_process(lambda: _write_collapse(run, auc))
        return None
    trainer.save_model(str(own / "trained"))
    trained = TrainingResult(
        run.fingerprint,
        training_tweets,
        steps,
        best.best if best.keep else "last",
        best.history,
        watch.training_seconds(),
        broadcast_from_main(read_checked_json(run.collapsed_file)),
        own_version(),
        {},
    )

    def publish() -> None:
        (own / "trained" / "training_args.bin").unlink(missing_ok=True)  # a pickle that contains local paths
        trained.files = listing(own, [own / "trained"])
        checkpoints.move_into_place(own / "trained", run.trained_model)
        write_training_result(run, trained)
        checkpoints.remove_all(run.directory)

    if trainer.args.world_size == 1:
        saving.begin(publish)
    else:
        checkpoints.on_main_process(publish)
    return trained


def train_to_the_end(run: Run, trainer: ResumableTrainer, checkpoint: Path | None) -> int:
    """Train the steps after a checkpoint, if there is one; return the number of all. Raises RuntimeError for fewer."""
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    steps, planned = trainer.state.global_step, trainer.state.max_steps
    if steps < planned:
        raise RuntimeError(f"{run.name} stopped after {steps} of {planned} steps")
    return steps


def machine_of(arguments: RunArguments) -> dict[str, Any]:
    """Return what DONE says of the machine that trained a run."""
    return {
        "device": torch.cuda.get_device_name() if arguments.device.type == "cuda" else arguments.device.type,
        "processes": arguments.world_size,
        "bf16": arguments.bf16,
        "threads": torch.get_num_threads(),
    }


def adopt_checkpoint(run: Run, trainer: ResumableTrainer, own: Path) -> Path | None:
    """Return the checkpoint to resume from, in this process's own folder, and count its seconds; None without one."""
    adopted: list[Path | None] = [None]

    def adopt() -> None:
        adopted[0] = checkpoints.adopt_latest(run.directory, own, trainer.facts)

    checkpoints.on_main_process(adopt)
    checkpoint = broadcast_from_main(adopted[0])
    if checkpoint is not None:
        record = json.loads((checkpoint / checkpoints.COMPLETE_FILE).read_text(encoding="utf-8"))
        trainer.watch.seconds_before = record["training_seconds"]
    return checkpoint


def _write_collapse(run: Run, auc: float) -> None:
    """Write COLLAPSED, and remove the checkpoints of the collapsed training."""
    write_checked_json(run.collapsed_file, {"seed": run.member.args.seed, "auc_of_training_tweets": auc})
    checkpoints.remove_all(run.directory)


def _keep_model(run: Run, data: RunData, own: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Move or convert the trained weights to the run's model folder, if they are to be kept."""
    if data.keep_models == "none" or not run.trained_model.is_dir():
        return
    if data.keep_models_in == "float32":
        checkpoints.move_into_place(run.trained_model, run.model)
        return
    dtype = getattr(torch, data.keep_models_in)
    if run.member.saves_adapter_alone:
        shutil.copytree(run.trained_model, own / "model")
        convert_saved(run.trained_model, own / "model", dtype)
    else:
        TweetClassifier.from_pretrained(run.trained_model, dtype=dtype).save_pretrained(own / "model")
        tokenizer.save_pretrained(own / "model")
    checkpoints.move_into_place(own / "model", run.model)


def _trainer(run: Run, data: RunData, own: Path, train_dataset: Dataset, report, stop) -> "TweetTrainer":
    """Build a run's trainer: model, tokenizer, data, metric, loss and callbacks.

    Args:
        own: folder of this process alone, for what the trainer writes.
    """
    task, member = data.task, run.member
    arguments = run_arguments(member, own)
    if run.is_refit:
        arguments.eval_strategy = IntervalStrategy.NO  # a refitted run holds no tweets out
    arguments.run_name, arguments.report_to = run.name, trackers_of(member)
    if not arguments.report_to:
        arguments.logging_strategy = IntervalStrategy.NO  # to read a loss is to wait for the GPU
    if arguments.project == DEFAULTS["project"]:
        arguments.project = run.directory.parents[1].resolve().name
    tokens = token_table(data.token_folder, "labelled", member)
    eval_rows = np.flatnonzero(data.held_out(run))
    if data.max_eval_samples is not None:
        labels = column(tokens, "labels").to_numpy()[eval_rows]
        eval_rows = eval_rows[stratified_choice(labels, data.max_eval_samples, arguments.seed)]
    eval_dataset = tokens.select(eval_rows)
    eval_dataset = eval_dataset.select(longest_first(eval_dataset))
    metric = TaskMetric(task, group_names(eval_dataset))
    best = BestEpoch(task.measure, keep=member.args.checkpoint == "best")
    # An adapter is merged, and so its weights rounded, before predictions; joint processes may count a tweet twice.
    are_all = data.max_eval_samples is None and member.adapter is None and arguments.world_size == 1

    def score(output) -> dict[str, float]:
        logits, labels = torch.from_numpy(output.predictions).double(), torch.from_numpy(output.label_ids)
        predicted = task.space.most_probable(probabilities_of(logits, task.space.problem_type).numpy())
        best.latest = output.predictions if are_all else None
        scores = metric.compute(predictions=predicted, references=output.label_ids)
        if not task.multi_label:
            return {**scores, "cross_entropy": nn.functional.cross_entropy(logits, labels).item()}
        targets = torch.from_numpy(task.space.targets(output.label_ids)).double()
        return {**scores, "cross_entropy": LabelSetLoss()(logits, targets).mean().item()}

    labels = np.asarray(column(train_dataset, "labels").to_pylist())
    sampling = sampling_of(member, task, labels)
    if member.args.min_steps:
        a = arguments
        n_shown = len(train_dataset if sampling is None else sampling)
        step_size = a.per_device_train_batch_size * a.world_size * a.gradient_accumulation_steps
        per_epoch = max(1, n_shown // step_size if a.dataloader_drop_last else -(-n_shown // step_size))
        a.num_train_epochs = max(a.num_train_epochs, math.ceil(member.args.min_steps / per_epoch))
    tokenizer = load_tokenizer(member)
    if run.adaptation is not None:
        run.adaptation.check_file(run.adaptation.model)
    model = build_model(run.built_member, task, arguments.device)
    if meant_for := member.args.learning_rate_width:
        arguments.learning_rate *= meant_for / model.encoder.config.hidden_size
    if is_padding_free(member, arguments, model):
        make_padding_free(model, arguments, train_dataset)
    lengths = column(train_dataset, "length").to_numpy()
    captured = is_captured(member, model.encoder_override, model.head, int(lengths.max(initial=0)))
    trainer = (CapturedTrainer if captured else TweetTrainer)(
        model=model,
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=input_columns(eval_dataset, "labels"),
        data_collator=PaddingCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        compute_metrics=score,
        loss=loss_of(member, task, labels, sampling, arguments.label_smoothing_factor),
        sampling=sampling,
        layer_decay=member.args.layer_decay,
        run_directory=run.directory,
        # A captured run's checkpoints hold the optimizer's state of other tensors.
        facts={"fingerprint": run.fingerprint, "seed": member.args.seed, OWN: own_version(), "captured": captured},
        best=best,
        watch=RunMonitor(report, stop, data.save_minutes),
    )
    trainer.remove_callback(PrinterCallback)  # the job displays the progress of all its runs
    return trainer


class TaskMetric(evaluate.Metric):
    """A task's official metric, with precision and recall, as an `evaluate.Metric` that needs no network.

    Args:
        task: the result holds its metric under the metric's name.
        groups: (n_tweets,) of the tweets, in their order; None: there are none.
    """

    def __init__(self, task: Task, groups: np.ndarray | None = None) -> None:
        self.task, self.groups = task, groups
        super().__init__(config_name=task.measure, keep_in_memory=True)

    def _build_data_dir(self) -> str:
        """Make no folder: predictions are kept in memory, and HF_HOME may be read-only."""
        return self._data_dir_root

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Official measures of SMM4H 2020 tasks 1, 2 and 5.",
            citation="Klein et al. 2020, Overview of the Fifth SMM4H Shared Tasks at COLING 2020",
            inputs_description="Class indices, one a tweet, in the same order.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        space, objective = self.task.space, self.task.objective
        gold, predicted = (space.decided_classes(np.asarray(classes)) for classes in (references, predictions))
        groups, n_decided = space.decided_groups(len(references), self.groups), len(space.decided)
        confusion = confusion_matrix(gold, predicted, n_decided)
        return {
            self.task.measure: objective.score(gold, predicted, n_decided, groups),
            "precision": float(precision(confusion, objective.positive)),
            "recall": float(recall(confusion, objective.positive)),
        }


def predict_proba(trainer: Trainer, tokens: Dataset, logits: np.ndarray | None = None) -> np.ndarray:
    """Return the model's probabilities (n_tweets, n_classes) in the order of `tokens`.

    Batches contain tweets of similar length, which saves padding.

    Args:
        logits: (n_tweets, n_classes) of the tweets, the longest first; None: they are computed.
    """
    order = longest_first(tokens)
    if logits is None:
        logits = trainer.predict(input_columns(tokens.select(order))).predictions
    problem_type = trainer.accelerator.unwrap_model(trainer.model).config.problem_type
    probs = probabilities_of(torch.from_numpy(logits).double(), problem_type).float().numpy()
    restored = np.empty_like(probs)
    restored[order] = probs
    return restored
