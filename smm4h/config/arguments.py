"""Settings: every flag and recipe key with its type, default and meaning."""

import argparse
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import HfArgumentParser, TrainingArguments

from heads import BIGRU_INPUTS, HEADS
from smm4h.models.cleaning import STEPS
from smm4h.models.predictors import has_bf16
from smm4h.models.voting import DECISIONS, METHODS, TIES
from smm4h.utils.errors import InputError

BASELINES = ("tfidf-logistic", "tfidf-svm", "textcnn", "word-bigru")  # smm4h/baselines.py
BASELINE_CLEANING = ["entities", "urls", "usernames", "case"]


def _field(default: Any, help: str, **metadata: Any) -> Any:
    metadata["help"] = help.replace("%", "%%")
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class JobSettings:
    """One value for the whole job."""

    task: str | None = _field(None, "task file: labels, columns, measure, submission (tasks/*.yaml)")
    data_dir: str | None = _field(None, "folder with the task's files under their official names")
    train_file: str | None = _field(None, "labelled tweets (.tsv, .csv, .jsonl, .parquet)")
    validation_file: str | None = _field(None, "more labelled tweets, which join the folds after those of --train_file")
    test_file: str | None = _field(None, "tweets to predict")
    gold_file: str | None = _field(
        None, "the test tweets' labels (id and label, tab-separated), for the last table only"
    )
    dataset_name: str | None = _field(None, "data set of the Hub, instead of files")
    dataset_config_name: str | None = _field(None, "configuration of that data set")
    encoding: str | None = _field(None, "encoding of all input files (default: UTF-8 where valid, else cp1252)")
    id_column_name: str | None = _field(None, "column of the tweet id, instead of the task file's")
    text_column_name: str | None = _field(None, "column of the text, instead of the task file's")
    label_column_name: str | None = _field(None, "column of the label, instead of the task file's")
    members: list[str] = _field([], "train only these members' and baselines' runs (default: all)")
    folds: list[int] = _field([], "train only these folds' runs (default: all)")
    n_folds: int = _field(5, "stratified cross-validation folds")
    max_train_samples: int | None = _field(None, "labelled tweets kept for the whole job: a stratified random choice")
    max_eval_samples: int | None = _field(None, "held-out tweets scored after each epoch; all are predicted at the end")
    max_predict_samples: int | None = _field(None, "test tweets kept: the first ones")
    fold_by: Literal["stratified", "stratified_group"] = _field(
        "stratified", "how folds are cut: stratified (the paper's), or stratified_group: near twins stay in one fold"
    )
    group_users: bool = _field(False, "stratified_group keeps the tweets of a user in one fold, too")
    vote: Literal[METHODS] = _field(
        "hard",
        "how members vote: hard (most ballots), soft (mean probability), and fitted out of fold: weighted (by score), "
        "greedy (bagged selection), stacked (logistic regression)",
    )
    decision: Literal[DECISIONS] = _field(
        "argmax", "which label the probabilities give: the highest, or by class weights tuned out of fold (a threshold)"
    )
    baselines: list[str] = _field(
        ["tfidf-logistic", "tfidf-svm"],
        f"what the ensemble is to beat, trained on the same folds ({', '.join(BASELINES)}, or none)",
        choices=["none", *BASELINES],
    )
    ties: Literal[TIES] = _field("probability", "who wins a hard vote's tie: highest mean probability or lowest class")
    pseudo_teachers: list[str] = _field([], "members whose vote labels the pseudo tweets (default: all without them)")
    pseudo_fraction: float = _field(0.1, "share of the voted test tweets that joins each fold's training part")
    pseudo_seed: int = _field(42, "seed that cuts the voted test tweets into parts")
    pseudo_from: Literal["vote", "unseen"] = _field(
        "vote",
        "who labels a fold's pseudo tweets: the vote of all teachers (the paper's; they saw the held-out tweets), or "
        "only the teachers' runs that never saw them",
    )
    pseudo_confidence: float = _field(0.0, "least probability of its label with which a pseudo tweet is accepted")
    pseudo_agreement: float = _field(0.0, "least share of the teachers who name a pseudo tweet's label")
    pseudo_prior: bool = _field(
        False, "accept each label only in its share among the labelled tweets, the most probable ones first"
    )
    pseudo_soft: bool = _field(False, "train on the teachers' probabilities instead of their labels")
    unlabelled_file: str | None = _field(None, "tweets to be pseudo-labelled, instead of the test tweets")
    parallel: Literal["auto", "runs", "data"] = _field(
        "auto",
        "what processes share: `runs`, each training whole ones, or the `data` of one run after the other, for "
        "encoders too large for one device; auto: data where the accelerate config names DeepSpeed or FSDP",
    )
    runs_per_device: int = _field(1, "runs trained side by side on each GPU, or on the CPU")
    threads_per_worker: int = _field(0, "CPU threads of each worker (0: the cores shared out evenly)")
    save_minutes: float = _field(
        5.0, "a run that takes longer saves its whole state that often, to go on from there when killed (0: never)"
    )
    keep_models: Literal["all", "best", "none"] = _field(
        "all", "whose weights are kept: every run's, each member's best fold's, none; predictions are always kept"
    )
    keep_models_in: Literal["float32", "bfloat16"] = _field("float32", "number format of the weights that are kept")
    fetch: bool = _field(False, "download encoders and data set for machines that are offline, train nothing")
    # Last, because it hides the type of this name from there on.
    list: bool = _field(False, "print the runs and their state, train nothing")


@dataclass
class MemberSettings:
    """May differ between members."""

    classifier: Literal[("encoder", *BASELINES)] = _field(
        "encoder", "a pretrained encoder with a head; or one of the baselines as a member that votes"
    )
    model_name_or_path: str | None = _field(None, "BERT-like encoder: a name on the Hub or a folder")
    model_revision: str = _field("main", "branch, tag or commit of the encoder")
    cache_dir: str | None = _field(None, "where downloads are kept")
    token: str | None = _field(None, "Hub token for private encoders and data; never saved")
    trust_remote_code: bool = _field(False, "run the encoder's own code from the Hub")
    head: Literal[tuple(HEADS)] = _field("bigru", "what stands on the encoder")
    bigru_input: Literal[BIGRU_INPUTS] = _field("pooler", "what the BiGRU reads: the pooler output or all token states")
    bigru_hidden_size: int = _field(512, "width of the BiGRU, each direction")
    classifier_dropout: float = _field(0.1, "dropout before the last linear layer")
    fold_seed: int = _field(42, "seed of the member's stratified folds")
    cleaning: list[str] = _field([], f"cleaning steps ({', '.join(STEPS)}); none: raw text", choices=list(STEPS))
    refit: bool = _field(
        False,
        "train one more run, on all labelled tweets: on new tweets it counts as much as the mean of the folds' runs",
    )
    pseudo_labels: bool = _field(False, "train in stage 2, with pseudo-labelled tweets")
    pseudo_round: int = _field(1, "the round of pseudo labels; the teachers of the second are the members of the first")
    max_seq_length: int = _field(110, "longest input in word pieces; batches are padded to their longest tweet")
    class_weights: str | None = _field(
        None,
        "what each label counts in the loss: balanced, or a mapping such as {effect: 5}; labels not named count 1",
    )
    focal_gamma: float = _field(0.0, "focal loss: how much less a tweet counts for being easy (0: cross-entropy)")
    logit_adjustment: float = _field(
        0.0, "tau of logit adjustment: logits are trained on top of tau x log of the labels' shares (0: none)"
    )
    negatives_per_positive: float | None = _field(
        None, "tweets of the other labels that an epoch shows for each of the task's `positive` ones (default: all)"
    )
    positive_copies: int = _field(1, "how often an epoch shows each tweet of the task's `positive` labels")
    min_steps: int = _field(0, "train on beyond num_train_epochs, by whole epochs, until so many steps are made")
    learning_rate_width: int = _field(  # as Adam's should be: Yang et al. 2022, "Tensor Programs V", table 3
        0,
        "width of the encoder that learning_rate is meant for; one that is twice as wide learns half as fast (0: "
        "learning_rate is for any)",
    )
    layer_decay: float = _field(
        1.0, "each layer of the encoder learns by this factor slower than the one above it (1: all alike)"
    )
    retrain_collapsed: bool = _field(
        True, "train a run once more, with another seed, that can't tell its own training tweets apart"
    )
    packed: bool = _field(
        True, "on a CPU, compute BERT and RoBERTa encoders without padding and without states that no head reads"
    )
    checkpoint: Literal["best", "last"] = _field(
        "best", "which epoch's weights predict: best by the task's measure, or last"
    )


@dataclass
class RunArguments(TrainingArguments):
    """TrainingArguments with the defaults of this project, and RAdam."""

    optim: str = _field("radam", "radam, or any optimizer name of transformers (adamw_torch, adafactor, ...)")
    adam_epsilon: float = _field(1e-6, "epsilon of the optimizer")
    bf16: bool | None = _field(None, "bf16 autocast (default: where the machine has it in hardware)")
    eval_strategy: str = _field("epoch", "when the held-out tweets are scored: epoch, steps or no")
    per_device_eval_batch_size: int = _field(128, "tweets scored at once; no result depends on it")
    save_strategy: str = _field("no", "save a run's state besides --save_minutes: no, epoch or steps (--save_steps)")
    report_to: list[str] = _field([], "trackers: tensorboard, wandb, trackio, mlflow; a run of theirs for each of ours")
    logging_steps: float = _field(10, "steps between two losses that --report_to is told")
    disable_tqdm: bool | None = _field(True, "no progress bar for each run; the job has its own")

    def __post_init__(self):
        radam = self.optim == "radam"
        if radam:
            self.optim = "adamw_torch"  # a name that TrainingArguments knows, while it checks
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.bf16 is None:
            device = "cpu" if self.use_cpu else torch.accelerator.current_accelerator().type
            self.bf16 = not self.fp16 and has_bf16(device)
        super().__post_init__()
        if radam:
            self.optim = "radam"


# Names that TrainingArguments or the examples had in version 4, which people paste.
GONE = {
    "evaluation_strategy": "--eval_strategy",
    "per_gpu_train_batch_size": "--per_device_train_batch_size",
    "per_gpu_eval_batch_size": "--per_device_eval_batch_size",
    "group_by_length": "--train_sampling_strategy group_by_length",
    "warmup_ratio": "--warmup_steps with a number below 1, such as --warmup_steps 0.1",
    "no_cuda": "--use_cpu",
    "use_mps_device": "nothing: Apple's GPU is found by itself",
    "adafactor": "--optim adafactor",
    "fp16_backend": "--fp16",
    "half_precision_backend": "--fp16 or --bf16",
    "overwrite_output_dir": "another --output_dir; the same command again does only what is missing",
    "logging_dir": "the environment variable TENSORBOARD_LOGGING_DIR",
    "save_safetensors": "nothing: weights are always saved as safetensors",
    "use_auth_token": "--token",
    "tokenizer": "--model_name_or_path",
    "processor": "--model_name_or_path",
    "push_to_hub_model_id": "--hub_model_id",
    "push_to_hub_token": "--hub_token",
    "max_length": "--max_seq_length",
    "pad_to_max_length": "nothing: batches are padded to their longest tweet",
    "task_name": "--task with a task file",
    "do_lower_case": "--cleaning case",
    "metric_name": "`measure:` in the task file",
    "max_val_samples": "--max_eval_samples",
    "max_test_samples": "--max_predict_samples",
}
# Flags that this job decides itself, and where to say what they would say.
DECIDED = {
    "load_best_model_at_end": "use --checkpoint best or last",
    "metric_for_best_model": "the task file's `measure:` chooses the epoch",
    "greater_is_better": "the task file's `measure:` chooses the epoch",
    "resume_from_checkpoint": "the same command again goes on where each run was stopped",
    "ignore_data_skip": "a resumed run is to be the same as one that was never stopped",
    "enable_jit_checkpoint": "a run that is told to stop (SIGTERM) saves its state",
    "save_only_model": "a run's state is saved to go on from there, and removed when the run is done",
    "save_total_limit": "a run keeps its last state, and none when it is done",
    "auto_find_batch_size": "the recipe's batch is the batch; lower --per_device_train_batch_size yourself",
    "hub_strategy": "--push_to_hub pushes the finished run once, in one commit",
    "hub_always_push": "--push_to_hub pushes the finished run once, in one commit",
    "hub_revision": "--push_to_hub pushes to the main branch",
    "run_name": "runs are named by member and fold",
    "label_names": "the task file names the labels",
    "remove_unused_columns": "a run holds only what its model reads",
    "prediction_loss_only": "probabilities are what a run is for",
    "parallelism_config": "use --parallel runs or data",
    "fsdp": "launch with an accelerate config that names FSDP",
    "deepspeed": "launch with an accelerate config that names DeepSpeed (cluster/deepspeed_zero2.yaml)",
}
# Settings that leave every probability as it is (but for float noise): another value is still the same job.
WITHOUT_EFFECT = {
    *("task", "data_dir", "train_file", "validation_file", "test_file", "gold_file", "dataset_name"),
    *("dataset_config_name", "encoding", "id_column_name", "text_column_name", "label_column_name"),
    *("members", "folds", "list", "fetch", "output_dir", "cache_dir", "token", "baselines", "unlabelled_file"),
    *("keep_models", "keep_models_in", "parallel", "runs_per_device", "threads_per_worker"),
    *("save_minutes", "save_strategy", "save_steps", "save_on_each_node"),
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_level"),
    *("log_level_replica", "log_on_each_node", "disable_tqdm", "report_to", "project", "debug", "use_cpu"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "local_rank"),
    *("dataloader_prefetch_factor", "per_device_eval_batch_size", "skip_memory_metrics", "do_train", "do_eval"),
    *("push_to_hub", "hub_model_id", "hub_token", "hub_private_repo"),
    *("do_predict", "include_num_input_tokens_seen", "eval_accumulation_steps", "torch_empty_cache_steps"),
}


SECRET = {"token", "hub_token"}  # settings that are nobody's business
OF_PUSHING = {"push_to_hub", "hub_model_id", "hub_token", "hub_private_repo"}  # done by the job, not by its Trainers
RANGES = {
    "focal_gamma": "0 or more",
    "negatives_per_positive": "more than 0",
    "positive_copies": "1 or more",
    "learning_rate_width": "0 or more",
    "layer_decay": "above 0, 1 at most",
    "min_steps": "0 or more",
}


class _Parser(HfArgumentParser):
    """Whose complaints are `InputError`s, with the name that was meant."""

    def error(self, message: str) -> None:
        raise InputError(message)


def _names(kind: type) -> set[str]:
    return {f.name for f in dataclasses.fields(kind) if f.init}


JOB_NAMES, MEMBER_NAMES, RUN_NAMES = _names(JobSettings), _names(MemberSettings), _names(RunArguments)


def _parser() -> _Parser:
    parser = _Parser(
        (JobSettings, MemberSettings, RunArguments),
        allow_abbrev=False,
        description="Trains the runs (member x fold) of a recipe, votes, and writes the submission.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("recipe", help="recipe file: shared settings and members (recipes/*.yaml)")
    for action in parser._actions:
        if action.dest == "bf16":  # a truth value that also has "ask the machine": the parser has no form for it
            action.nargs, action.const = "?", True
    return parser


# As parsed, since the parser turns some of the dataclasses' defaults into other values.
DEFAULTS: dict[str, Any] = vars(_parser().parse_args(["no recipe"]))
