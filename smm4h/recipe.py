"""What is trained: a recipe file and the command line -> the job's settings and each member's own.

A recipe has `shared:` settings once and under `members:` what differs. Settings are read as if they were flags, so
that they get the flags' types and checks; flags follow the shared settings, so that they win; a member's row has the
last word.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from heads import BIGRU_INPUTS, HEADS
from smm4h.cleaning import STEPS
from smm4h.combining import DECISIONS, METHODS
from smm4h.errors import InputError, nearest
from smm4h.files import read_yaml
from smm4h.machine import has_bf16
from smm4h.tasks import Task, read_task
from smm4h.voting import TIES

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


@dataclass
class Member:
    """One row of the recipe: its name and all its settings that differ from the defaults."""

    name: str
    settings: dict[str, Any]

    def get(self, name: str) -> Any:
        """A setting's value: the member's, or the default."""
        return self.settings.get(name, DEFAULTS[name])

    @property
    def has_encoder(self) -> bool:
        return self.get("classifier") == "encoder"

    @property
    def precision(self) -> str | None:
        """The number format of its matrix products; None: bf16 where the machine has it."""
        if self.get("fp16"):
            return "float16"
        return {None: None, True: "bfloat16", False: "float32"}[self.get("bf16")]

    @property
    def stage(self) -> int:
        """When its runs are trained: 1, or after the vote that makes its pseudo labels."""
        return 1 + self.get("pseudo_round") if self.get("pseudo_labels") else 1


@dataclass
class Job:
    """The command: what to do, with which members, on which task."""

    recipe: str
    settings: JobSettings
    task: Task
    output_dir: Path
    members: list[Member]
    notices: list[str]  # what a user may not expect of the flags given
    words: list[str]  # of the command line, without secrets

    @property
    def baselines(self) -> list[Member]:
        """What the ensemble is to beat; on the first member's folds."""
        shared = {name: self.members[0].get(name) for name in ("fold_seed", "seed")}
        return [
            Member(name, {"classifier": name, "cleaning": BASELINE_CLEANING, **shared})
            for name in self.settings.baselines
            if name != "none"
        ]

    @property
    def stages(self) -> list[int]:
        return sorted({1, *(member.stage for member in self.members)})

    @property
    def shared_settings(self) -> dict[str, Any]:
        """The job's settings that change a result and differ from the defaults."""
        return {
            f.name: getattr(self.settings, f.name)
            for f in dataclasses.fields(JobSettings)
            if f.name not in WITHOUT_EFFECT and getattr(self.settings, f.name) != DEFAULTS[f.name]
        }


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


def _check_name(name: str, known: set[str], where: str = "") -> None:
    """Raises `InputError` unless `name`, which may begin with the dashes of a flag, is a setting of the user's."""
    bare = name.lstrip("-").replace("-", "_")
    dashes = "--" if name.startswith("--") else ""
    if bare in DECIDED:
        raise InputError(f"{where}{name} is decided by the job: {DECIDED[bare]}")
    if bare in known or bare == "help" or (dashes and bare.removeprefix("no_") in known):
        return
    if bare in GONE:
        raise InputError(f"{where}{name} is gone; use {GONE[bare]}")
    raise InputError(f"{where}there is no setting {name}{nearest(dashes + bare, [dashes + k for k in known])}")


def _flag_names(words: Sequence[str]) -> list[str]:
    return [word.split("=")[0] for word in words if word.startswith("--")]


def as_flags(settings: dict[str, Any]) -> list[str]:
    """YAML values as the words of a command line; keys without a value or with an empty list say nothing."""
    words = []
    for name, value in settings.items():
        if value is None or value == []:
            continue
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]
    return words


def read_command_line(argv: Sequence[str]) -> Job:
    """Reads recipe, task file and flags; raises `InputError` for whatever is wrong with any of them."""
    parser = _parser()
    if any(word in ("-h", "--help") for word in argv):
        parser.print_help()
        raise SystemExit(0)
    for flag in _flag_names(argv):
        _check_name(flag, JOB_NAMES | MEMBER_NAMES | RUN_NAMES)
    if not argv or argv[0].startswith("-"):
        raise InputError("name a recipe first, such as recipes/smm4h2020.yaml")
    recipe, flags = argv[0], list(argv[1:])
    shared, rows, lines = _read_recipe(recipe)
    common = [recipe, *as_flags(shared)]
    _parse(parser, common, f"{recipe}: ")
    values = _parse(parser, [*common, *flags], "")
    settings = JobSettings(**{name: values[name] for name in JOB_NAMES})
    if settings.task is None:
        raise InputError("name the task: --task tasks/task5.yaml")
    task = with_columns(read_task(settings.task), settings)
    members, notices = [], []
    for name, row in rows.items():
        where = f"{recipe}, line {lines[('members', name)]}, member {name}: "
        own = _parse(parser, [*common, *flags, *as_flags(row)], where)
        differing = {n: own[n] for n in MEMBER_NAMES | RUN_NAMES if own[n] != DEFAULTS[n]}
        members.append(Member(name, differing))
        _check_member(members[-1], task, where)
        notices += [
            f"member {name} keeps its own {flag[2:]} {own[flag[2:]]}" for flag in _flag_names(flags) if flag[2:] in row
        ]
    _check_job(settings, members, recipe)
    output_dir = values["output_dir"]
    if output_dir is None:
        raise InputError("name the folder for the results: --output_dir runs/task5")
    return Job(recipe, settings, task, Path(output_dir), members, notices, without_secrets(argv))


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command line's words but for the tokens in it."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
            continue
        name = word.split("=")[0].lstrip("-").replace("-", "_") if word.startswith("--") else ""
        if name in SECRET:
            skip = "=" not in word
            continue
        kept.append(word)
    return kept


def _read_recipe(path: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[tuple[str, ...], int]]:
    content, lines = read_yaml(path)
    for key in content:
        if key not in ("shared", "members"):
            raise InputError(
                f"{path}, line {lines[(str(key),)]}: a recipe has `shared:` and `members:`, no {key}"
                f"{nearest(str(key), ('shared', 'members'))}"
            )
    shared, rows = content.get("shared") or {}, content.get("members") or {}
    if not isinstance(shared, dict) or not isinstance(rows, dict) or not rows:
        raise InputError(f"{path}: `shared:` with settings and `members:` with a row for each member are expected")
    for key in shared:
        _check_name(str(key), JOB_NAMES | MEMBER_NAMES | RUN_NAMES, f"{path}, line {lines[('shared', str(key))]}: ")
    for name, row in rows.items():
        line = lines[("members", str(name))]
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, line {line}: member {name} needs settings, such as {{head: bigru, fold_seed: 42}}"
            )
        if not str(name).replace("-", "").replace("_", "").isalnum():
            raise InputError(f"{path}, line {line}: member {name} names a folder; use letters, digits, - and _")
        for key in row:
            where = f"{path}, line {lines[('members', str(name), str(key))]}: "
            if key in JOB_NAMES:
                raise InputError(f"{where}{key} is one for the whole job; move it to `shared:`")
            _check_name(str(key), MEMBER_NAMES | RUN_NAMES, where)
    return shared, {str(name): row for name, row in rows.items()}, lines


def _parse(parser: _Parser, words: list[str], where: str) -> dict[str, Any]:
    try:
        return vars(parser.parse_args(words))
    except InputError as error:
        raise InputError(f"{where}{error}") from None
    except argparse.ArgumentError as error:
        raise InputError(f"{where}{error}") from None


def _check_member(member: Member, task: Task, where: str) -> None:
    if member.has_encoder and member.get("model_name_or_path") is None:
        raise InputError(f"{where}name an encoder: --model_name_or_path dmis-lab/biobert-base-cased-v1.1, or a folder")
    if member.get("checkpoint") == "best" and member.get("eval_strategy") == "no":
        raise InputError(f"{where}checkpoint best needs --eval_strategy epoch or steps; or choose --checkpoint last")
    if member.get("refit") and member.has_encoder and member.get("checkpoint") == "best":
        raise InputError(
            f"{where}refit holds no tweets out that could choose an epoch; choose --checkpoint last, or --refit false"
        )
    if member.get("refit") and member.get("pseudo_labels"):
        raise InputError(f"{where}pseudo labels are made for folds; write refit: false in the member's row")
    if member.get("save_strategy") not in ("no", "epoch", "steps"):
        raise InputError(f"{where}--save_strategy {member.get('save_strategy')}: choose no, epoch or steps")
    if member.get("train_sampling_strategy") == "batch_rebalance":
        raise InputError(f"{where}--train_sampling_strategy: choose random, group_by_length or sequential")
    _check_balance(member, task, where)
    if member.get("max_seq_length") < 4:
        raise InputError(f"{where}--max_seq_length {member.get('max_seq_length')} leaves no room for a tweet")


def _check_balance(member: Member, task: Task, where: str) -> None:
    value = member.get("class_weights")
    try:
        weights = class_weights(member)
    except (ValueError, yaml.YAMLError):
        raise InputError(
            f"{where}class_weights {value}: write balanced, or a weight for each label, such as "
            f"{{{task.positive[0]}: 5}}"
        ) from None
    for label in weights if isinstance(weights, dict) else ():
        if label not in task.labels:
            raise InputError(
                f"{where}class_weights: {label} is none of the labels {', '.join(task.labels)}"
                f"{nearest(label, task.labels)}"
            )
    if isinstance(weights, dict) and not any(weights.get(label, 1.0) for label in task.labels):
        raise InputError(f"{where}class_weights {value}: at least one label must count")
    per_positive = member.get("negatives_per_positive")
    checks = {
        "focal_gamma": member.get("focal_gamma") >= 0,
        "negatives_per_positive": per_positive is None or per_positive > 0,
        "positive_copies": member.get("positive_copies") >= 1,
        "learning_rate_width": member.get("learning_rate_width") >= 0,
        "layer_decay": 0 < member.get("layer_decay") <= 1,
        "min_steps": member.get("min_steps") >= 0,
    }
    for name, is_right in checks.items():
        if not is_right:
            raise InputError(f"{where}--{name} {member.get(name)} is out of its range: {RANGES[name]}")


def _check_job(settings: JobSettings, members: list[Member], recipe: str) -> None:
    names = [member.name for member in members]
    baselines = [name for name in settings.baselines if name != "none"]
    for flag, known in (("members", [*names, *baselines]), ("pseudo_teachers", names)):
        for name in getattr(settings, flag):
            if name not in known:
                raise InputError(
                    f"--{flag}: {recipe} has no member {name}{nearest(name, known)}; it has {', '.join(names)}"
                )
    pseudo = [member.name for member in members if member.get("pseudo_labels")]
    for name in settings.pseudo_teachers:
        if name in pseudo:
            raise InputError(f"--pseudo_teachers: {name} is itself trained on pseudo labels")
    if settings.n_folds < 2:
        raise InputError(f"--n_folds {settings.n_folds}: at least two folds are needed")
    for fold in settings.folds:
        if not 0 <= fold < settings.n_folds:
            raise InputError(f"--folds {fold}: folds are numbered from 0 to {settings.n_folds - 1}")
    for flag in ("max_train_samples", "max_eval_samples", "max_predict_samples"):
        value = getattr(settings, flag)
        if value is not None and value < 1:
            raise InputError(f"--{flag} {value}: at least one tweet must be kept")
    if settings.runs_per_device < 1:
        raise InputError(f"--runs_per_device {settings.runs_per_device}: at least one run is trained at a time")
    _check_pseudo(settings, members)
    _check_push(settings, members)
    if pseudo and settings.pseudo_from == "vote" and not 0 < settings.pseudo_fraction * settings.n_folds <= 1 + 1e-9:
        raise InputError(
            f"--pseudo_fraction {settings.pseudo_fraction}: {settings.n_folds} folds get different tweets, "
            f"so each can get {1 / settings.n_folds:.3g} of them at most"
        )


def _check_push(settings: JobSettings, members: list[Member]) -> None:
    """Raises `InputError` where more than one run, or no model, would be pushed."""
    if not any(member.get("push_to_hub") for member in members):
        return
    names = [member.name for member in members]
    if len(settings.members) != 1 or len(settings.folds) != 1 or settings.members[0] not in names:
        raise InputError(
            "--push_to_hub pushes one run of a member: name it with --members and --folds; publish.py publishes the "
            "whole ensemble"
        )
    if members[0].get("hub_model_id") is None:
        raise InputError("--push_to_hub: name the repository, such as --hub_model_id me/task5-bigru")
    if settings.keep_models == "none":
        raise InputError("--push_to_hub needs the run's model; leave --keep_models none out")


def _check_pseudo(settings: JobSettings, members: list[Member]) -> None:
    """Raises `InputError` for filters out of range and for members whose teachers would be missing."""
    for flag in ("pseudo_confidence", "pseudo_agreement", "pseudo_fraction"):
        if not 0 <= (value := getattr(settings, flag)) <= 1:
            raise InputError(f"--{flag} {value}: a share from 0 to 1 is expected")
    if settings.group_users and settings.fold_by == "stratified":
        raise InputError("--group_users needs --fold_by stratified_group")
    students = [member for member in members if member.get("pseudo_labels")]
    if settings.unlabelled_file and not students:
        raise InputError("--unlabelled_file: no member of the recipe trains on pseudo labels")
    stages = {member.stage for member in members}
    for member in students:
        if member.get("pseudo_round") < 1 or member.stage - 1 not in stages:
            raise InputError(
                f"member {member.name}: pseudo_round {member.get('pseudo_round')} has no teachers; rounds are numbered "
                "from 1, and each is taught by the members of the one before"
            )
        if settings.pseudo_from == "unseen" and not any(
            teacher.get("fold_seed") == member.get("fold_seed")
            for teacher in teachers_of(settings, members, member.stage)
        ):
            raise InputError(
                f"member {member.name}: every teacher has seen tweets that its folds hold out; --pseudo_from unseen "
                f"needs a teacher with fold_seed {member.get('fold_seed')}"
            )


def teachers_of(settings: JobSettings, members: Sequence[Member], stage: int) -> list[Member]:
    """Whose vote labels the pseudo tweets of a stage: the members of the stage before, of the first one a choice."""
    chosen = settings.pseudo_teachers if stage == 2 else []
    return [m for m in members if (m.name in chosen if chosen else m.stage == stage - 1)]


def with_columns(task: Task, settings: Any) -> Task:
    """The task with the columns that `settings` name by id_column_name, text_column_name and label_column_name."""
    given = {
        name: [value]
        for name in ("id", "text", "label")
        if (value := getattr(settings, f"{name}_column_name", None)) is not None
    }
    return dataclasses.replace(task, columns=dataclasses.replace(task.columns, **given))


def class_weights(member: Member) -> str | dict[str, float] | None:
    """`balanced`, or a weight for some labels by their names; raises ValueError for anything else."""
    value = member.get("class_weights")
    if value is None or value == "balanced":
        return value
    weights = yaml.safe_load(value)
    if not isinstance(weights, dict) or not all(isinstance(w, int | float) and w >= 0 for w in weights.values()):
        raise ValueError(value)
    return {str(label): float(weight) for label, weight in weights.items()}


def run_arguments(member: Member, output_dir: Path) -> RunArguments:
    """The member's training arguments for a run that writes to `output_dir`.

    Where several processes train the run together, each gets its part of the recipe's batch.
    """
    settings = {name: value for name, value in member.settings.items() if name in RUN_NAMES - OF_PUSHING}
    settings["output_dir"] = os.fspath(output_dir)
    try:
        arguments = RunArguments(**settings)
    except ValueError as error:
        raise InputError(f"member {member.name}: {' '.join(str(error).split())}") from None
    batch, n_processes = arguments.per_device_train_batch_size, arguments.world_size
    if batch % n_processes:
        raise InputError(
            f"member {member.name}: a batch of {batch} can't be shared by {n_processes} processes; launch a number "
            "that divides it, or give another --per_device_train_batch_size"
        )
    arguments.per_device_train_batch_size = batch // n_processes
    return arguments
