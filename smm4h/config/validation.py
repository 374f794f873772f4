"""Checks of settings: whatever can be wrong with a recipe is said before anything is read or trained."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from smm4h.config.arguments import DEFAULTS, FIELDS, JobSettings
from smm4h.config.decision import LeastCost, Tuned, parse_decision
from smm4h.config.job import LABELLED_FILES, Job, Member, teachers_of
from smm4h.config.task import Task
from smm4h.models.cleaning import NORMALIZERS, emoji_namer
from smm4h.utils.errors import InputError, nearest
from smm4h.utils.files import check_is_file, check_is_input, check_output_folder, is_same_file

# Settings that change a whole process, and their values that do not; the cache of quantised weights knows no streams.
OF_THE_PROCESS = {
    "report_to": ([], ["none"]),
    "full_determinism": (False,),
    "tf32": (None,),
    "torch_compile": (False,),
    "quantise": (None,),
}


def check_range(name: str, value: Any, where: str) -> None:
    """Raise `InputError` for a number outside its setting's range, and for one that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}--{name} {value} is no number that a training could use; write another")
    bounds = FIELDS[name].metadata["range"]
    if bounds is not None and value not in bounds:
        raise InputError(f"{where}--{name} {value} is out of its range: {bounds}")


def check_input_files(job: Job) -> None:
    """Raise `InputError` for a missing input file, and for an output folder that is one, before any slow import."""
    settings = job.settings
    encoders = [Path(name) for member in job.members if (name := member.args.model_name_or_path)]
    for folder in [settings.data_dir, *(encoder for encoder in encoders if encoder.is_dir())]:
        if folder is not None and is_same_file(job.output_dir, folder):
            raise InputError(
                f"--output_dir {job.output_dir} is {folder}, which this command reads; name another folder"
            )
    check_output_folder(job.output_dir, [])
    _check_companions(settings)
    if settings.dataset_name is not None:
        _check_beside_dataset(job)
    files = job.input_files()
    for file in (*files.labelled, *files.test):
        if file.part == "test" and settings.test_file is None and not file.path.exists():
            raise InputError(
                f"{file.path} is not there; name your test file with --test_file, or only the labelled ones with "
                "--train_file and --validation_file"
            )
        check_is_input(file.path)
    for number, file in enumerate(files.labelled):
        if any(is_same_file(file.path, other.path) for other in files.labelled[:number]):
            raise InputError(f"{file.path} is named twice as labelled tweets; name each file once")
    for path in (*files.gold, *(file.labels for file in files.labelled if file.labels)):
        check_is_file(path)
    check_extra_files(job, [*(file.path for file in (*files.labelled, *files.test)), *files.gold])
    for member in job.members:
        for file in member.outside_files.values():
            check_is_file(Path(file))
    if job.settings.unlabelled_file:
        check_is_input(job.settings.unlabelled_file)
    for file in job.adaptation_files:
        check_is_input(file)


COMPANIONS = {"dataset_config_name": "dataset_name", "extra_parent_column": "extra_train_file"}


def _check_companions(settings: JobSettings) -> None:
    """Raise `InputError` for a flag about input that is not named, and so for one that would be passed over."""
    for flag, needed in COMPANIONS.items():
        if getattr(settings, flag) != DEFAULTS[flag] and not getattr(settings, needed):
            raise InputError(f"--{flag} is about the tweets of --{needed}, which names none; give both, or neither")


def _check_beside_dataset(job: Job) -> None:
    """Raise `InputError` for flags that name labelled tweets beside a data set of the Hub."""
    for flag in LABELLED_FILES:
        if getattr(job.settings, flag):
            raise InputError(
                f"--{flag} and --dataset_name both name the job's tweets; leave one of them out (--test_file and "
                "--gold_file may replace the data set's split test)"
            )


def check_extra_files(job: Job, others: Sequence[Path]) -> None:
    """Raise `InputError` for extra training tweets that are missing, named twice, or the job's own tweets."""
    files = [Path(name) for name in job.settings.extra_train_file]
    for number, path in enumerate(files):
        check_is_input(path)
        for other in (*others, *files[:number]):
            if is_same_file(path, other):
                raise InputError(f"--extra_train_file {path} is read as {other} already; name it once")


def check_packages(job: Job) -> None:
    """Raise where a package is missing that a member needs, before anything is read."""
    if any("bertweet" in member.args.cleaning for member in job.members):
        emoji_namer()
    for member in job.members:
        if member.asks_for_adapter and find_spec("peft") is None:
            raise InputError(f'{job.where(member)}adapter needs the package peft; pip install ".[adapters]"')
        if member.args.quantise:
            _check_quantisation(member, job.where(member))


def _check_quantisation(member: Member, where: str) -> None:
    """Raise `InputError` where no package or no device of this machine can quantise a member's weights."""
    asked = f"{where}quantise {member.args.quantise}"
    if find_spec("bitsandbytes") is None:
        raise InputError(f'{asked} needs the package bitsandbytes; pip install ".[quantised]", or leave quantise out')
    from smm4h.utils.devices import why_not_quantised  # imports torch

    if reason := why_not_quantised(use_cpu=member.args.use_cpu):
        raise InputError(f"{asked}: {reason}; leave quantise out, or train on an NVIDIA GPU")


def check_member(member: Member, task: Task, where: str) -> None:
    """Raise `InputError` for settings of a member that contradict each other or the task."""
    if member.is_outside:
        return check_outside(member, where)
    if member.has_encoder and member.args.model_name_or_path is None:
        raise InputError(f"{where}name an encoder: --model_name_or_path dmis-lab/biobert-base-cased-v1.1, or a folder")
    if member.args.checkpoint == "best" and member.args.eval_strategy == "no":
        raise InputError(f"{where}checkpoint best needs --eval_strategy epoch or steps; or choose --checkpoint last")
    _check_evaluations(member, where)
    if member.args.refit and member.has_encoder and member.args.checkpoint == "best":
        raise InputError(
            f"{where}refit holds no tweets out that could choose an epoch; choose --checkpoint last, or --refit false"
        )
    if member.args.save_strategy not in ("no", "epoch", "steps"):
        raise InputError(f"{where}--save_strategy {member.args.save_strategy}: choose no, epoch or steps")
    if member.args.train_sampling_strategy == "batch_rebalance":
        raise InputError(f"{where}--train_sampling_strategy: choose random, group_by_length or sequential")
    if (
        member.args.truncation == "windows"
        and member.args.window_pooling == "max"
        and len(task.positive) == task.n_classes
        and not task.multi_label
    ):
        raise InputError(f"{where}--window_pooling max looks for rare labels, and the task names none; choose mean")
    _check_class_weights(member, task, where)
    _check_adapter(member, where)
    _check_adaptation(member, where)
    if len(normalizers := [name for name in NORMALIZERS if name in member.args.cleaning]) > 1:
        raise InputError(
            f"{where}cleaning {' and '.join(normalizers)} are of different encoders; name the encoder's own"
        )
    check_length(member.args.max_seq_length, where)


def check_length(longest: int, where: str = "") -> None:
    """Raise `InputError` for a longest input that has no room for a text between the tokenizer's own tokens."""
    if longest < 4:
        raise InputError(f"{where}--max_seq_length {longest} leaves no room for a tweet")


def _check_evaluations(member: Member, where: str) -> None:
    """Raise `InputError` where the best epoch is asked for, and the last one is over before any is scored."""
    args = member.args
    is_short = args.max_steps <= 0 and not args.min_steps and args.eval_delay > args.num_train_epochs
    if member.has_encoder and args.checkpoint == "best" and args.eval_strategy == "epoch" and is_short:
        raise InputError(
            f"{where}--eval_delay {args.eval_delay:g} leaves none of {args.num_train_epochs:g} epochs to be scored; "
            "lower it, or train more epochs"
        )


OUTSIDE_PARTS = ("out_of_fold", "test", "unlabelled")


def check_outside(member: Member, where: str) -> None:
    """Raise `InputError` for predictions that are no files by part, and for settings that they can't have."""
    expected = "write {out_of_fold: FILE, test: FILE}"
    try:
        files = member.outside_files
    except (ValueError, TypeError):  # no mapping
        raise InputError(f"{where}predictions {member.args.predictions}: {expected}") from None
    for part in files:
        if part not in OUTSIDE_PARTS:
            raise InputError(f"{where}predictions have no part {part}{nearest(part, OUTSIDE_PARTS)}; {expected}")
    if "out_of_fold" not in files:
        raise InputError(
            f"{where}predictions need out_of_fold, of all labelled tweets: without it nothing shows their worth"
        )
    if member.args.pseudo_labels:
        raise InputError(f"{where}predictions are not trained; write pseudo_labels: false in the member's row")


def _check_adapter(member: Member, where: str) -> None:
    if not member.asks_for_adapter:
        if member.args.quantise:
            raise InputError(
                f"{where}quantise {member.args.quantise} freezes the weights, so that only an adapter could learn; "
                "write adapter: lora beside it, or leave quantise out"
            )
        return
    try:
        adapter = member.adapter
    except (ValueError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()) if type(error) is ValueError else "write lora, or {kind: lora, r: 16}"
        raise InputError(f"{where}adapter {member.args.adapter}: {reason}") from None
    if not member.has_encoder:
        raise InputError(
            f"{where}adapter {adapter.kind} is one of an encoder; write adapter: none in this member's row"
        )


def _check_adaptation(member: Member, where: str) -> None:
    try:
        _ = member.adaptation
    except (ValueError, TypeError, yaml.YAMLError) as error:
        is_ours = type(error) is ValueError
        reason = " ".join(str(error).split()) if is_ours else "write a mapping such as {unlabelled: FILE, epochs: 1}"
        raise InputError(f"{where}adapt {member.args.adapt}: {reason}") from None
    if member.adaptation is not None and member.saves_adapter_alone:
        raise InputError(
            f"{where}an adapter that is saved alone names a model that others have, and adapt makes one that only this "
            "job has; write adapt: none, or save: merged without quantise"
        )


def _check_class_weights(member: Member, task: Task, where: str) -> None:
    value = member.args.class_weights
    try:
        weights = member.class_weights()
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


def check_group_cuts(settings: JobSettings, task: Task) -> None:
    """Raise `InputError` for cuts by group where there are no groups, or nothing is tuned."""
    if settings.group_cuts and not task.scored_by:
        raise InputError(
            f"--group_cuts {settings.group_cuts}: the task has no groups; name their column in the task file, such as "
            "`by: language`"
        )
    if settings.group_cuts and not isinstance(parse_decision(settings.decision), Tuned | LeastCost):
        raise InputError(
            f"--group_cuts {settings.group_cuts}: --decision {settings.decision} is not tuned; choose tuned, an F-beta "
            "or costs"
        )


def check_job(settings: JobSettings, members: list[Member], recipe: str) -> None:
    """Raise `InputError` for settings of the job that contradict each other or its members."""
    names = [member.name for member in members]
    baselines = [name for name in settings.baselines if name != "none"]
    for flag, known in (("members", [*names, *baselines]), ("pseudo_teachers", names)):
        for name in getattr(settings, flag):
            if name not in known:
                raise InputError(
                    f"--{flag}: {recipe} has no member {name}{nearest(name, known)}; it has {', '.join(names)}"
                )
    pseudo = [member.name for member in members if member.args.pseudo_labels]
    for name in settings.pseudo_teachers:
        if name in pseudo:
            raise InputError(f"--pseudo_teachers: {name} is itself trained on pseudo labels")
    if settings.time_limit and (settings.members or settings.folds):
        flag = "--members" if settings.members else "--folds"
        raise InputError(f"--time_limit plans the whole job; leave it out beside {flag}")
    if settings.n_folds < 2:
        raise InputError(f"--n_folds {settings.n_folds}: at least two folds are needed")
    for fold in settings.folds:
        if not 0 <= fold < settings.n_folds:
            raise InputError(f"--folds {fold}: folds are numbered from 0 to {settings.n_folds - 1}")
    for flag in ("max_train_samples", "max_eval_samples", "max_predict_samples"):
        value = getattr(settings, flag)
        if value is not None and value < 1:
            raise InputError(f"--{flag} {value}: at least one tweet must be kept")
    _check_streams(settings, members)
    _check_refits(settings, members)
    _check_pseudo(settings, members)
    _check_push(settings, members)
    if pseudo and settings.pseudo_from == "vote" and not 0 < settings.pseudo_fraction * settings.n_folds <= 1 + 1e-9:
        raise InputError(
            f"--pseudo_fraction {settings.pseudo_fraction}: {settings.n_folds} folds get different tweets, "
            f"so each can get {1 / settings.n_folds:.3g} of them at most"
        )


def _check_streams(settings: JobSettings, members: list[Member]) -> None:
    """Raise `InputError` where runs of one process would change each other through what the process has once."""
    if settings.streams_per_device == 1:
        return
    flag = f"--streams_per_device {settings.streams_per_device}"
    if settings.parallel == "data":
        raise InputError(f"{flag} trains several runs at a time, and --parallel data one; leave one of them out")
    for member in members:
        for name, harmless in OF_THE_PROCESS.items():
            if getattr(member.args, name) not in harmless:
                raise InputError(
                    f"{flag}: member {member.name} has {name}, which works for one run of a process at a time; leave "
                    "one of them out, or train several with --runs_per_device"
                )


def _check_refits(settings: JobSettings, members: list[Member]) -> None:
    """Raise `InputError` where refits are to be used, or kept, that a member does not have or nothing will use."""
    trained = [member for member in members if not member.is_outside]
    without = [member.name for member in trained or members if not member.args.refit or member.is_outside]
    for name in ("predict_with", "keep_models"):
        if getattr(settings, name) == "refits" and without:
            raise InputError(
                f"--{name} refits: member {without[0]} has none; give it refit: true, or leave --{name} out"
            )
    if settings.keep_models == "refits" and settings.predict_with != "refits":
        raise InputError(
            "--keep_models refits: without the folds' models --predict_with all can't label new tweets; add "
            "--predict_with refits, or keep other models"
        )


def _check_push(settings: JobSettings, members: list[Member]) -> None:
    """Raise `InputError` where more than one run, or no model, would be pushed."""
    if not any(member.args.push_to_hub for member in members):
        return
    names = [member.name for member in members]
    if len(settings.members) != 1 or len(settings.folds) != 1 or settings.members[0] not in names:
        raise InputError(
            "--push_to_hub pushes one run of a member: name it with --members and --folds; publish.py publishes the "
            "whole ensemble"
        )
    if not (members[0].args.hub_model_id or "").strip():
        raise InputError("--push_to_hub: name the repository, such as --hub_model_id me/task5-bigru")
    if settings.keep_models in ("refits", "none"):
        raise InputError(f"--push_to_hub needs the run's model; leave --keep_models {settings.keep_models} out")


def _check_pseudo(settings: JobSettings, members: list[Member]) -> None:
    """Raise `InputError` for members whose teachers would be missing."""
    if settings.group_users and settings.fold_by == "stratified":
        raise InputError("--group_users needs --fold_by stratified_group")
    learners = [member for member in members if member.args.pseudo_labels]
    if settings.unlabelled_file and not learners:
        raise InputError("--unlabelled_file: no member of the recipe trains on pseudo labels")
    stages = {member.stage for member in members}
    for member in learners:
        if member.args.pseudo_round < 1 or member.stage - 1 not in stages:
            raise InputError(
                f"member {member.name}: pseudo_round {member.args.pseudo_round} has no teachers; rounds are numbered "
                "from 1, and each is taught by the members of the one before"
            )
        if settings.pseudo_from == "unseen" and not any(
            teacher.args.fold_seed == member.args.fold_seed and not teacher.is_outside
            for teacher in teachers_of(settings, members, member.stage)
        ):
            raise InputError(
                f"member {member.name}: every teacher has seen tweets that its folds hold out; --pseudo_from unseen "
                f"needs a teacher with fold_seed {member.args.fold_seed}"
            )
