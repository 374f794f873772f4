"""Checks of settings: whatever can be wrong with a recipe is said before anything is read or trained."""

import yaml

from smm4h.config.arguments import RANGES, JobSettings
from smm4h.config.job import Member, class_weights, teachers_of
from smm4h.config.task import Task
from smm4h.utils.errors import InputError, nearest


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
