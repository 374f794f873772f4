"""Settings: every flag and recipe key with its type, default, range and meaning, as dataclasses.

Nothing here imports torch or transformers, so that a typo or `--help` is answered at once.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from smm4h.config.decision import canonical_decision
from smm4h.config.plans.durations import canonical_duration
from smm4h.models.cleaning import CLEANING_NAMES
from smm4h.models.voting import METHODS, TIES

# heads.HEADS, which would import torch
HEAD_NAMES = ("bigru", "last2_pooler", "last3", "last3_pooler", "mean", "last_token")
TRUNCATIONS = ("head", "tail", "head_tail", "windows")  # models.encoding.TRUNCATIONS, which would import transformers
BIGRU_INPUTS = ("pooler", "tokens")
BASELINES = ("tfidf-logistic", "tfidf-svm", "textcnn", "word-bigru")
# By preset: the recipe that comes with this project.
PRESETS = {
    "quick": "quickstart",
    "paper": "smm4h2020",
    "rare": "rare",
    "large": "large",
    "multilingual": "multilingual",
}
BASELINE_CLEANING = ["entities", "urls", "usernames", "case"]
SCHEDULERS = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"),
    *("reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy"),
)
INTERVALS = ("no", "steps", "epoch")

# The groups of `--help`, in its order. Settings without a group are listed by `--help-all` only.
DATA, RECIPE, FOLDS = "data", "recipe and members", "folds"
VOTE, RARE, TRAINING = "vote and decision", "rare classes", "training"
PSEUDO, MACHINES, HUB = "pseudo labels", "machines", "Hub and trackers"
GROUPS = (DATA, RECIPE, FOLDS, TRAINING, RARE, VOTE, PSEUDO, MACHINES, HUB)


@dataclass(frozen=True)
class Range:
    """Bounds of a number; `str` says them in words."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        if self.ge is not None and self.le is not None:
            return f"from {self.ge:g} to {self.le:g}"
        low = f"{self.ge:g} or more" if self.ge is not None else f"above {self.gt:g}"
        if self.lt is not None:
            return f"{low}, and below {self.lt:g}"
        return low if self.le is None else f"{low}, {self.le:g} at most"


def setting(
    default: Any,
    help: str,
    group: str | None = None,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: tuple[str, ...] | None = None,
    flag: str | None = None,
    effect: bool = True,
    secret: bool = False,
    parse: Callable[[str], str] | None = None,
) -> Any:
    """Return a dataclass field for a setting.

    Args:
        group: its heading in `--help`; None: only `--help-all` lists it.
        ge, gt, le, lt: bounds of a number.
        choices: of each element of a list.
        flag: the flag's and the recipe key's name, where it is not the field's.
        effect: whether another value gives other probabilities; without effect, another value is still the same job.
        secret: never written down.
        parse: returns a text's canonical spelling, or raises `InputError` with the reason.
    """
    bounds = None if (ge, gt, le, lt) == (None,) * 4 else Range(ge, gt, le, lt)
    metadata = {
        **{"help": help, "group": group, "range": bounds, "choices": choices},
        **{"flag": flag, "effect": effect, "secret": secret, "parse": parse},
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class JobSettings:
    """One value for the whole job."""

    task: str | None = setting(None, "task file: labels, columns, metric, submission", DATA, effect=False)
    data_dir: str | None = setting(None, "folder of the task's files under their official names", DATA, effect=False)
    train_file: list[str] = setting(
        [], "labelled tweets, in one file or several (.tsv, .csv, .jsonl, .parquet)", DATA, effect=False
    )
    validation_file: str | None = setting(None, "more labelled tweets; they join the folds", DATA, effect=False)
    test_file: str | None = setting(None, "tweets to predict", DATA, effect=False)
    train_labels_file: list[str] = setting([], "labels of --train_file's tweets, joined by id", effect=False)
    validation_labels_file: str | None = setting(None, "labels of --validation_file's, joined by id", effect=False)
    extra_train_file: list[str] = setting(
        [], "more labelled rows, such as paraphrases: they train, and are never held out", DATA, effect=False
    )
    extra_parent_column: str = setting(
        "parent_id", "their column with the id of the tweet that a row was made from", effect=False
    )
    gold_file: str | None = setting(None, "labels of the test tweets, for the last table only", DATA, effect=False)
    output_dir: str | None = setting(None, "folder of all results; resumed if the job was begun", DATA, effect=False)
    dataset_name: str | None = setting(None, "data set of the Hub, instead of files", effect=False)
    dataset_config_name: str | None = setting(None, "configuration of that data set", effect=False)
    encoding: str | None = setting(None, "encoding of all files (UTF-8 where valid, else cp1252)", DATA, effect=False)
    id_column_name: str | None = setting(None, "column of the tweet id, instead of the task's", DATA, effect=False)
    text_column_name: str | None = setting(None, "column of the text, instead of the task's", DATA, effect=False)
    label_column_name: str | None = setting(None, "column of the label, instead of the task's", DATA, effect=False)
    group_column_name: str | None = setting(None, "column of the group, instead of the task's `by`", effect=False)
    context_column_name: str | None = setting(None, "column of the second text, instead of the task's", effect=False)
    unlabelled_rows: Literal["leave_out", "pool"] = setting(
        "leave_out", "rows without a label in labelled files: leave_out, or pool", DATA
    )
    max_train_samples: int | None = setting(None, "labelled tweets kept: a stratified random choice", DATA)
    max_eval_samples: int | None = setting(None, "held-out tweets scored after each epoch")
    max_predict_samples: int | None = setting(None, "test tweets kept: the first ones", DATA)
    preset: Literal[tuple(PRESETS)] | None = setting(
        None, "a recipe that comes with this project, in place of a file", RECIPE, effect=False
    )
    members: list[str] = setting([], "train only these members' and baselines' runs", RECIPE, effect=False)
    folds: list[int] = setting([], "train only these folds' runs", RECIPE, effect=False)
    init: str | None = setting(
        None, "draft a task file from this file of labelled tweets, train nothing", DATA, effect=False
    )
    check: bool = setting(
        False, "read all, print findings, counts, plan and forecast, train nothing", RECIPE, effect=False
    )
    list_runs: bool = setting(
        False, "print the runs and their states, train nothing", RECIPE, flag="list", effect=False
    )
    verify: bool = setting(False, "compare all files with what was written, name those damaged", RECIPE, effect=False)
    download_only: bool = setting(
        False, "download encoders and data for machines that are offline", RECIPE, flag="fetch", effect=False
    )
    baselines: list[str] = setting(
        ["tfidf-logistic", "tfidf-svm"],
        "what the ensemble is to beat, on the same folds",
        RECIPE,
        choices=("none", *BASELINES),
        effect=False,
    )
    keep_models: Literal["all", "best", "refits", "none"] = setting(
        "all", "weights kept: of all runs, of each member's best fold, of refits, none", RECIPE, effect=False
    )
    keep_models_in: Literal["float32", "bfloat16"] = setting(
        "float32", "number format of the kept weights", effect=False
    )
    keep_baselines: bool = setting(
        False,
        "keep the baselines' models, too, for predict.py --members; their words can be read back",
        effect=False,
    )
    n_folds: int = setting(5, "folds of the cross-validation", FOLDS)
    fold_by: Literal["stratified", "stratified_group"] = setting(
        "stratified", "stratified, or stratified_group: duplicates in one fold", FOLDS
    )
    group_users: bool = setting(False, "with stratified_group, a user's tweets stay in one fold, too", FOLDS)
    vote: Literal[tuple(METHODS)] = setting(
        "hard", "; ".join(f"{name}: {method.summary}" for name, method in METHODS.items()), VOTE
    )
    decision: str = setting(
        "argmax",
        'the label: argmax; fitted out of fold: tuned, pulled, f2, "recall>=0.9", "precision>=0.8", "flagged<=0.05", '
        'costs; by hand: 0.3, "LABEL: 4"',
        VOTE,
        parse=canonical_decision,
    )
    group_cuts: int = setting(
        0, "rare tweets from which a group has a tuned cut of its own (0: one for all)", VOTE, ge=0
    )
    ties: Literal[TIES] = setting("probability", "hard vote's ties: highest mean probability or lowest class")
    predict_with: Literal["all", "refits"] = setting(
        "all", "models that label new tweets: folds' and refits, or refits alone", VOTE
    )
    pseudo_teachers: list[str] = setting([], "members whose vote labels the pseudo tweets", PSEUDO)
    pseudo_fraction: float = setting(0.1, "share of the voted tweets that joins each training part", PSEUDO, ge=0, le=1)
    pseudo_seed: int = setting(42, "seed that cuts the voted tweets into parts")
    pseudo_from: Literal["vote", "unseen"] = setting(
        "vote", "all teachers (the paper's), or runs that never saw what is held out", PSEUDO
    )
    pseudo_confidence: float = setting(0.0, "least probability of an accepted label", PSEUDO, ge=0, le=1)
    pseudo_agreement: float = setting(0.0, "least share of teachers who name the label", ge=0, le=1)
    pseudo_prior: bool = setting(False, "accept each label only in its share among labelled tweets")
    pseudo_soft: bool = setting(False, "train on the teachers' probabilities, not their labels", PSEUDO)
    unlabelled_file: str | None = setting(
        None, "tweets to pseudo-label, instead of the test tweets", PSEUDO, effect=False
    )
    parallel: Literal["auto", "runs", "data"] = setting(
        "auto",
        "share runs, or the data of one run; auto: data with DeepSpeed or FSDP",
        MACHINES,
        effect=False,
    )
    time_limit: str | None = setting(
        None,
        "drop folds, then members, to end by forecast in 2h, 90m or 1:30:00",
        MACHINES,
        effect=False,
        parse=canonical_duration,
    )
    runs_per_device: int = setting(
        0,
        "runs side by side on each GPU or on the CPU (0: 1; CPU: one a core, up to 4)",
        MACHINES,
        ge=0,
        effect=False,
    )
    streams_per_device: int = setting(
        1, "runs that each worker trains at a time, each on a CUDA stream", ge=1, le=16, effect=False
    )
    threads_per_worker: int = setting(0, "CPU threads of each worker (0: cores shared out evenly)", ge=0, effect=False)
    save_minutes: float = setting(
        5.0, "minutes between two checkpoints of a run (0: none)", MACHINES, ge=0, effect=False
    )


@dataclass
class MemberSettings:
    """May differ between members."""

    classifier: Literal[("encoder", *BASELINES)] = setting(
        "encoder", "an encoder with a head, or a baseline as a member that votes", RECIPE
    )
    predictions: str | None = setting(
        None, "files of a model from elsewhere that votes as a member: {out_of_fold: FILE, test: FILE}"
    )
    model_name_or_path: str | None = setting(None, "BERT-like encoder: a name on the Hub or a folder", RECIPE)
    model_revision: str = setting("main", "branch, tag or commit of the encoder")
    cache_dir: str | None = setting(None, "where downloads are kept", effect=False)
    token: str | None = setting(
        None, "Hub token for private encoders and data; never saved", HUB, effect=False, secret=True
    )
    trust_remote_code: bool = setting(False, "run the encoder's own code from the Hub")
    head: Literal[HEAD_NAMES] = setting("bigru", "what stands on the encoder", RECIPE)
    bigru_input: Literal[BIGRU_INPUTS] = setting("pooler", "what the BiGRU reads: pooler output or all token states")
    bigru_hidden_size: int = setting(512, "width of the BiGRU, each direction")
    adapter: str | None = setting(None, "train a small adapter beside frozen weights: lora, or {kind: lora, r: 16}")
    quantise: Literal["4bit"] | None = setting(None, "hold the weights that an adapter stands beside in 4 bits: 4bit")
    adapt: str | None = setting(None, "first adapt the encoder by masked words: {unlabelled: FILE}", RECIPE)
    classifier_dropout: float = setting(0.1, "dropout before the last linear layer", ge=0, lt=1)
    fold_seed: int = setting(42, "seed of the member's folds", FOLDS)
    cleaning: list[str] = setting([], "cleaning steps; none: raw text", RECIPE, choices=CLEANING_NAMES)
    extra_train: bool = setting(True, "train on the rows of --extra_train_file, too")
    refit: bool = setting(False, "train one more run on all labelled tweets; it counts as all folds", FOLDS)
    pseudo_labels: bool = setting(False, "train in stage 2, with pseudo-labelled tweets", PSEUDO)
    pseudo_round: int = setting(1, "round of pseudo labels; round 2 is taught by round 1")
    max_seq_length: int = setting(110, "longest input in word pieces", TRAINING)
    truncation: Literal[TRUNCATIONS] = setting(
        "head", "read of a longer tweet: head, tail, head_tail or windows", TRAINING
    )
    max_windows: int = setting(8, "windows of a tweet; of a longer one they leave gaps", ge=1)
    window_pooling: Literal["max", "mean"] = setting(
        "max", "a tweet's probabilities: those of the window with the likeliest rare labels, or the windows' mean"
    )
    class_weights: str | None = setting(None, "balanced, or a loss weight by label: {effect: 5}", RARE)
    focal_gamma: float = setting(0.0, "focal loss: how much less an easy tweet counts (0: cross-entropy)", RARE, ge=0)
    logit_adjustment: float = setting(0.0, "tau of logit adjustment (0: none)", RARE)
    negatives_per_positive: float | None = setting(
        None, "other tweets that an epoch shows for each rare one (all)", RARE, gt=0
    )
    positive_copies: int = setting(1, "how often an epoch shows each rare tweet", RARE, ge=1)
    min_steps: int = setting(0, "train whole epochs on until so many steps are made", RARE, ge=0)
    learning_rate_width: int = setting(  # as Adam's should be: Yang et al. 2022, "Tensor Programs V", table 3
        0, "encoder width that learning_rate is meant for; scaled for others (0: not scaled)", ge=0
    )
    layer_decay: float = setting(1.0, "factor by which each lower layer learns slower", gt=0, le=1)
    retrain_collapsed: bool = setting(True, "retrain with another seed a run that learnt nothing", RARE)
    packed: bool = setting(True, "compute BERT and RoBERTa encoders without padding", MACHINES)
    captured: bool = setting(True, "on a GPU, replay training steps as CUDA graphs")
    checkpoint: Literal["best", "last"] = setting(
        "best", "which epoch's weights predict: best by the task's metric, or last", TRAINING
    )


@dataclass
class TrainerSettings:
    """Transformers' TrainingArguments that a recipe may set, under their names, with this project's defaults.

    A test holds names and defaults against the installed transformers.
    """

    learning_rate: float = setting(5e-5, "initial learning rate", TRAINING, ge=0)
    num_train_epochs: float = setting(3.0, "epochs", TRAINING, gt=0)
    max_steps: int = setting(-1, "training steps, instead of epochs")
    per_device_train_batch_size: int = setting(8, "tweets a batch", TRAINING, ge=1)
    gradient_accumulation_steps: int = setting(1, "batches a step", ge=1)
    per_device_eval_batch_size: int = setting(128, "tweets scored at once; no result depends on it", ge=1, effect=False)
    seed: int = setting(42, "seed of weights, batches and dropout", TRAINING)
    data_seed: int | None = setting(None, "seed of the batches alone")
    optim: str = setting("radam", "radam, or an optimizer of transformers (adamw_torch, ...)", TRAINING)
    optim_args: str | None = setting(None, "arguments of the optimizer")
    optim_target_modules: str | None = setting(None, "modules that GaLore and the like optimize")
    adam_beta1: float = setting(0.9, "decay of the first moment", ge=0, lt=1)
    adam_beta2: float = setting(0.999, "decay of the second moment; 0.95 to 0.98 for short runs", ge=0, lt=1)
    adam_epsilon: float = setting(1e-6, "epsilon of the optimizer", ge=0)
    weight_decay: float = setting(0.0, "decoupled weight decay", ge=0)
    max_grad_norm: float = setting(1.0, "gradients are clipped at this norm", ge=0)
    lr_scheduler_type: Literal[SCHEDULERS] = setting("linear", "learning-rate schedule")
    lr_scheduler_kwargs: str | None = setting(None, "arguments of the schedule, as JSON")
    warmup_steps: float = setting(0, "steps of warm-up; below 1, their share of all steps", TRAINING, ge=0)
    label_smoothing_factor: float = setting(0.0, "label smoothing", ge=0, lt=1)
    neftune_noise_alpha: float | None = setting(None, "noise on embeddings (NEFTune)")
    train_sampling_strategy: str = setting("random", "random, group_by_length or sequential")
    length_column_name: str = setting("length", "column of precomputed lengths")
    average_tokens_across_devices: bool = setting(True, "count the tokens of a step over all devices")
    bf16: bool | None = setting(None, "bf16 autocast (where the machine has it)", MACHINES)
    fp16: bool = setting(False, "fp16 autocast", MACHINES)
    bf16_full_eval: bool = setting(False, "evaluate in bf16 weights")
    fp16_full_eval: bool = setting(False, "evaluate in fp16 weights")
    tf32: bool | None = setting(None, "TF32 matrix products on Ampere GPUs and later")
    use_cpu: bool = setting(False, "no GPU", MACHINES, effect=False)
    gradient_checkpointing: bool | None = setting(None, "recompute activations to save memory")
    gradient_checkpointing_kwargs: str | None = setting(None, "its arguments, as JSON")
    activation_checkpointing: bool | None = setting(None, "newer name of gradient_checkpointing")
    activation_checkpointing_kwargs: str | None = setting(None, "its arguments, as JSON")
    torch_compile: bool = setting(False, "compile the model")
    torch_compile_backend: str | None = setting(None, "backend of torch.compile")
    torch_compile_mode: str | None = setting(None, "mode of torch.compile")
    torch_empty_cache_steps: int | None = setting(None, "steps between two clearings of the GPU's cache", effect=False)
    use_liger_kernel: bool = setting(False, "Liger kernels")
    liger_kernel_config: str | None = setting(None, "their configuration, as JSON")
    use_cache: bool = setting(False, "key-value cache of the model")
    full_determinism: bool = setting(False, "deterministic kernels on GPUs, slower")
    eval_strategy: str = setting("epoch", "when held-out tweets are scored: epoch, steps or no")
    eval_steps: float | None = setting(None, "steps between two scorings")
    eval_delay: float = setting(0, "epochs or steps before the first scoring")
    eval_on_start: bool = setting(False, "score once before training")
    eval_accumulation_steps: int | None = setting(
        None, "batches predicted before they are moved to the CPU", effect=False
    )
    eval_do_concat_batches: bool = setting(True, "join the batches of an evaluation")
    eval_use_gather_object: bool = setting(False, "gather nested objects in an evaluation")
    batch_eval_metrics: bool = setting(False, "compute metrics batch by batch")
    include_for_metrics: list[str] = setting([], "more inputs for the metrics")
    save_strategy: str = setting("no", "save a run's state besides --save_minutes: no, epoch, steps", effect=False)
    save_steps: float = setting(500, "steps between two states", gt=0, effect=False)
    save_on_each_node: bool = setting(False, "save on each node", effect=False)
    restore_callback_states_from_checkpoint: bool = setting(False, "restore callbacks from a checkpoint")
    report_to: list[str] = setting([], "trackers: tensorboard, wandb, trackio, mlflow", HUB, effect=False)
    project: str = setting("huggingface", "the trackers' project (the output folder's name)", effect=False)
    logging_steps: float = setting(10, "steps between two losses that trackers get", gt=0, effect=False)
    logging_strategy: Literal[INTERVALS] = setting("steps", "when trackers get losses", effect=False)
    logging_first_step: bool = setting(False, "report the first step's loss", effect=False)
    logging_nan_inf_filter: bool = setting(False, "leave losses that are not finite out of the report", effect=False)
    log_level: str = setting("passive", "log level of transformers", effect=False)
    log_level_replica: str = setting("warning", "log level on the other processes", effect=False)
    log_on_each_node: bool = setting(True, "log on each node", effect=False)
    disable_tqdm: bool | None = setting(True, "no progress bar for each run", effect=False)
    include_num_input_tokens_seen: str = setting("no", "count tokens: all, non_padding or no", effect=False)
    skip_memory_metrics: bool = setting(True, "do not measure memory", effect=False)
    trackio_space_id: str | None = setting(None, "Space of trackio")
    trackio_bucket_id: str | None = setting(None, "bucket of trackio")
    trackio_static_space_id: str | None = setting(None, "static Space of trackio")
    push_to_hub: bool = setting(False, "upload the one run that --members and --folds name", HUB, effect=False)
    hub_model_id: str | None = setting(None, "repository of --push_to_hub", HUB, effect=False)
    hub_token: str | None = setting(None, "token with write access; never saved", effect=False, secret=True)
    hub_private_repo: bool | None = setting(None, "false: let everybody see it (private)", effect=False)
    dataloader_drop_last: bool = setting(False, "drop an epoch's last, smaller batch")
    dataloader_num_workers: int = setting(0, "processes that collate batches", effect=False)
    dataloader_pin_memory: bool = setting(True, "pinned memory", effect=False)
    dataloader_persistent_workers: bool = setting(False, "keep those processes between epochs", effect=False)
    dataloader_prefetch_factor: int | None = setting(None, "batches that each of them prepares", effect=False)
    dataloader_multiprocessing_context: str | None = setting(None, "how those processes are started")
    dataloader_in_order: bool = setting(True, "batches in their order")
    accelerator_config: str | None = setting(None, "configuration of the Accelerator, as JSON")
    fsdp_config: str | None = setting(None, "FSDP's tuning")
    ddp_find_unused_parameters: bool | None = setting(None, "DDP: find unused parameters")
    ddp_bucket_cap_mb: int | None = setting(None, "DDP: size of a bucket")
    ddp_broadcast_buffers: bool | None = setting(None, "DDP: broadcast buffers")
    ddp_static_graph: bool | None = setting(None, "DDP: static graph")
    ddp_backend: str | None = setting(None, "DDP: backend")
    ddp_timeout: int = setting(1800, "DDP: seconds until a collective operation fails")
    debug: list[str] = setting([], "underflow_overflow", effect=False)
    do_train: bool = setting(False, "accepted for compatibility", effect=False)
    do_eval: bool = setting(False, "accepted for compatibility", effect=False)
    do_predict: bool = setting(False, "accepted for compatibility", effect=False)
    local_rank: int = setting(-1, "accepted for compatibility", effect=False)


@dataclass
class MemberArguments(MemberSettings, TrainerSettings):
    """All settings of a member."""


# Names that TrainingArguments or the examples had in version 4, which people paste.
RENAMED = {
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
# Flags of TrainingArguments that this job decides itself, and where to say what they would say.
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


def flag_of(setting_field: dataclasses.Field) -> str:
    """Return the name of a setting's flag and recipe key, without dashes."""
    return setting_field.metadata["flag"] or setting_field.name


def fields_by_flag(settings: type) -> dict[str, dataclasses.Field]:
    """Return the fields of a settings class by the names of their flags."""
    return {flag_of(f): f for f in dataclasses.fields(settings)}


def default_of(setting_field: dataclasses.Field) -> Any:
    """Return a setting's default."""
    if setting_field.default is not dataclasses.MISSING:
        return setting_field.default
    return setting_field.default_factory()


JOB_FIELDS, MEMBER_FIELDS = fields_by_flag(JobSettings), fields_by_flag(MemberArguments)
FIELDS = JOB_FIELDS | MEMBER_FIELDS
TRAINER_NAMES = frozenset(fields_by_flag(TrainerSettings))
DEFAULTS: dict[str, Any] = {flag: default_of(f) for flag, f in FIELDS.items()}
WITHOUT_EFFECT = frozenset(flag for flag, f in FIELDS.items() if not f.metadata["effect"])
SECRET = frozenset(flag for flag, f in FIELDS.items() if f.metadata["secret"])
