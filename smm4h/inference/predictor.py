"""A finished ensemble in use: texts in, labels out, from a job's folder or as it was published."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from heads import AdapterError, TweetClassifier, TweetClassifierConfig
from smm4h.config.plans.plan import Plan, fold_runs, new_tweet_runs, read_plan
from smm4h.config.plans.run import Run
from smm4h.config.plans.subtask_jobs import check_one_subtask
from smm4h.config.task import Columns, MultiLabel, Submission, Task
from smm4h.data.tokenization import VARIANT, hub_arguments, load_saved_tokenizer, prefer_cache_without_network
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.inference.classifier import ClassifierPredictor, classifier_folder, classifier_task, load_classifier
from smm4h.inference.finished_job import STUDENT_FILE, read_student
from smm4h.inference.new_tweets.chosen_members import choose_members
from smm4h.models.encoding import CutTweets
from smm4h.models.label_spaces import PROBLEM, space_of
from smm4h.models.predictors import EncoderPredictor, EnsembleOutput, TextPredictor
from smm4h.models.tweet_ensemble import TweetEnsemble, TweetEnsembleConfig
from smm4h.models.voting import VotingRule
from smm4h.training.words.baselines import load_baseline
from smm4h.utils.devices import available_memory
from smm4h.utils.durable import SUMS_FILE, Hashes, hash_files, read_sums
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json
from smm4h.utils.tracebacks import reason_of

SHARE_OF_MEMORY = 0.5  # of the free memory, for models that are kept


def load_run(run: Run, device: str) -> EncoderPredictor | TextPredictor:
    """Return the model of a finished run, ready to predict."""
    args = run.member.args
    if not run.member.has_encoder:
        return TextPredictor(load_baseline(run.model), args.cleaning)
    model = _load_encoder(run, device).eval().to(device)
    tokenizer = load_saved_tokenizer(run.model, model.encoder.config)
    variant = " ".join(str(getattr(args, name)) for name in VARIANT)
    return EncoderPredictor(model, tokenizer, args.cleaning, variant, run.member.precision, packed=args.packed)


def _load_encoder(run: Run, device: str) -> TweetClassifier:
    """Return a finished run's model; raise `InputError` where it is an adapter whose base model is not to be had."""
    options = {}
    if run.member.saves_adapter_alone:
        # Its base is found as it was for training, by the revision that the adapter names.
        hub = {name: value for name, value in hub_arguments(run.member).items() if name != "revision"}
        options = {"base_options": {**hub, "device": device}}
    try:
        return TweetClassifier.from_pretrained(run.model, dtype=torch.float32, **options)
    except AdapterError as error:
        raise InputError(f"{run.model}: {error}") from None


def base_bytes(runs: Iterable[Run]) -> int:
    """Return the bytes in memory of the base models that runs' adapters stand beside, each counted once."""
    bases = [read_json(run.model / "config.json")["adapter"]["base"] for run in runs if run.member.saves_adapter_alone]
    return sum({base["sha256"]: base["bytes"] for base in bases}.values())


def saved_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a finished run's model, without its weights."""
    return load_saved_tokenizer(folder, TweetClassifierConfig.from_pretrained(folder).encoder_config())


def runs_with_models(plan: Plan, rule: VotingRule) -> dict[str, list[Run]]:
    """Return the runs of a rule's members that have a model, by name.

    These are all runs that predict new tweets, or with `--keep_models best` each member's best fold and its refit; see
    `best_models_notice`.

    Raises `InputError` where other models were not kept.
    """
    runs = _asked_runs(plan, rule)
    if outside := [name for name in rule.members if name not in plan.members_with_models]:
        raise InputError(
            f"{plan.output_dir}: {', '.join(outside)} came from elsewhere as predictions, without a model that could "
            "read new tweets; train a member beside them"
        )
    kept = {name: [run for run in of_member if run.model.is_dir()] for name, of_member in runs.items()}
    few = [name for name in kept if kept[name] != runs[name] and not _has_best(kept[name], runs[name])]
    missing = [run for name in few for run in runs[name] if run not in kept[name]]
    if missing:
        refitted = {run.member.name for run in plan.runs if run.is_refit and run.model.is_dir()}
        has_refits = refitted >= set(plan.members_with_models)
        way_out = f", or let the refits predict alone (ensemble.py {plan.output_dir} --predict_with refits --save)"
        raise InputError(
            f"{missing[0].model} is not there: {len(missing)} of the ensemble's models were not kept; train with "
            f"--keep_models all{way_out if has_refits else ''}"
        )
    return kept


def _asked_runs(plan: Plan, rule: VotingRule) -> dict[str, list[Run]]:
    """Return the runs of a rule's members that are to predict new tweets, by name."""
    return {name: new_tweet_runs(plan.runs_of([name]), refits_alone=rule.refits_alone) for name in rule.members}


def _has_best(kept: Sequence[Run], runs: Sequence[Run]) -> bool:
    """Return whether a member's kept runs are one fold and all refits."""
    return len(fold_runs(kept)) == 1 and len(kept) - 1 == len(runs) - len(fold_runs(runs))


def best_models_notice(plan: Plan, rule: VotingRule) -> str | None:
    """Return a notice where `--keep_models best` left members one fold's model; None where all were kept."""
    kept, asked = runs_with_models(plan, rule.drop_zero_weight()), _asked_runs(plan, rule)
    fewer = [name for name, runs in kept.items() if len(runs) < len(asked[name])]
    if not fewer:
        return None
    return (
        f"of {', '.join(fewer)} one fold's model was kept (--keep_models best) and answers alone, where the job's own "
        "test predictions are the mean over all folds; --keep_models all keeps them"
    )


def free_memory(device: str, n_processes: int) -> float:
    """Return the free bytes for each of the processes that share this machine, where `device` keeps its models."""
    if not device.startswith("cuda"):
        return available_memory() / n_processes
    return torch.cuda.mem_get_info(device)[0] / math.ceil(n_processes / torch.cuda.device_count())


class EnsemblePredictor:
    """The members of a finished job. Models stay in memory if all of them fit; else each is loaded when it is needed.

    Args:
        n_processes: number of processes that share this machine.
        out_of_fold: the ensemble's scores out of fold, with its confusion matrix; for what is to be expected.

    Raises `InputError` for a folder that has not kept the models.
    """

    def __init__(
        self,
        plan: Plan,
        rule: VotingRule,
        labels: Sequence[str],
        device: str,
        n_processes: int = 1,
        out_of_fold: Mapping[str, Any] | None = None,
    ) -> None:
        self.rule, self.labels, self.device = rule.drop_zero_weight(), list(labels), device
        self.plan, self.out_of_fold = plan, out_of_fold
        self.runs = runs_with_models(plan, self.rule)
        size = sum(file.stat().st_size for runs in self.runs.values() for run in runs for file in run.model.iterdir())
        size += base_bytes(run for of_member in self.runs.values() for run in of_member)
        self.keeps = size < free_memory(device, n_processes) * SHARE_OF_MEMORY
        self.loaded: dict[str, EncoderPredictor | TextPredictor] = {}
        self.checked: set[str] = set()  # names of runs whose weights are whole
        self.cut: dict[str, CutTweets] = {}  # of the texts that were predicted last, by a member of each tokenizer

    def predict(
        self, texts: Sequence[str], groups: Sequence[str] | None = None, contexts: Sequence[str] | None = None
    ) -> EnsembleOutput:
        """Return the ensemble's predictions for some texts.

        Args:
            groups: (n_tweets,) for cuts by group.
            contexts: (n_tweets,) second texts, where the members were trained with such.
        """
        return EnsembleOutput.from_rule(self.rule, self.predict_members(texts, contexts), groups)

    def predict_members(self, texts: Sequence[str], contexts: Sequence[str] | None = None) -> np.ndarray:
        """Return the probabilities (n_members, n_tweets, n_classes) of the rule's members, in its order."""
        cache: dict = {}
        self.cut = {}
        return np.stack([self.predict_member(name, texts, cache, contexts) for name in self.rule.members])

    def predict_member(
        self, name: str, texts: Sequence[str], cache: dict, contexts: Sequence[str] | None = None
    ) -> np.ndarray:
        """Return a member's probabilities (n_tweets, n_classes): the mean over its runs, as the rule asks for it.

        `cache` keeps token ids for members that read the same.
        """
        runs = self.runs[name]
        probs = []
        for run in runs:
            model = self._load(run)
            probs.append(model.predict_proba(texts, cache, contexts))
            if cut := getattr(model, "cut", None):
                self.cut[name] = cut
        space = space_of(self.rule, self.labels)
        return space.mean_of_models(self.rule.mean, probs, [run.is_refit for run in runs])

    def tokenizer_of(self, name: str) -> PreTrainedTokenizerBase:
        """Return the tokenizer of a member with an encoder."""
        return saved_tokenizer(self.runs[name][0].model)

    def model_files(self) -> dict[str, Path]:
        """Return the files of all models by run and name."""
        models = [run for runs in self.runs.values() for run in runs]
        return {f"{run.name}/{name}": path for run in models for name, path in _files_in(run.model).items()}

    def check(self, hashes: Hashes) -> None:
        """Raise `InputError` for a damaged model, before anything depends on it.

        Args:
            hashes: of `model_files`; reading the weights takes as long as loading them, and is done once.
        """
        for run in (run for runs in self.runs.values() for run in runs):
            own = {name: listed for name, listed in run.listed_files().items() if name.startswith("model/")}
            is_whole = all(
                hashes.get(f"{run.name}/{name.removeprefix('model/')}", {}).get("sha256") == listed["sha256"]
                for name, listed in own.items()
            )
            if is_whole:
                self.checked.add(run.name)
            else:
                self._check(run)  # which says what is wrong

    def _check(self, run: Run) -> None:
        if run.name not in self.checked:
            run.check_file(run.model)
            self.checked.add(run.name)

    def _load(self, run: Run) -> EncoderPredictor | TextPredictor:
        if run.name in self.loaded:
            return self.loaded[run.name]
        self._check(run)
        model = load_run(run, self.device)
        if self.keeps:
            self.loaded[run.name] = model
        return model


Predictor = EnsemblePredictor | TweetEnsemble | ClassifierPredictor


def load_published(name: str, device: str) -> TweetEnsemble | ClassifierPredictor:
    """Return a published ensemble, a student or another classifier, by its folder or its name on the Hub.

    Raises `InputError` where that is none.
    """
    folder = classifier_folder(name)
    if not Path(folder).is_dir():
        prefer_cache_without_network()
    try:
        config, _ = PretrainedConfig.get_config_dict(folder)
        if '"is_local": false' in json.dumps(config):  # an adapter's base is asked for on the Hub
            prefer_cache_without_network()
        if config.get("model_type") == TweetEnsembleConfig.model_type:
            return TweetEnsemble.from_pretrained(folder).to(device)
        if not config.get("model_type"):
            raise ValueError("it has no config.json that names a model_type")
    except AdapterError as error:
        raise InputError(f"{name}: {error}") from None
    except (OSError, ValueError, KeyError) as error:
        reason = reason_of(error, 200)
        kind = "no job's output folder" if Path(name).exists() else "no folder"
        raise InputError(f"{name} is {kind}, and no published ensemble either ({reason})") from None
    return load_classifier(folder, config, device)


def task_of(config: TweetEnsembleConfig) -> Task:
    """Return what a published ensemble's config holds of its task: labels, and names of columns."""
    labels = [config.id2label[index] for index in range(config.num_labels)]
    columns, submission = Columns(**config.columns), Submission("", config.submission_columns)
    multi_label = MultiLabel() if config.problem_type == PROBLEM else None
    known = {"submission": submission, "multi_label": multi_label}
    return Task(config.task_name, labels, config.positive_labels or labels, "f1", columns, **known)


def load_predictor(
    name: str, device: str, n_processes: int = 1, members: Sequence[str] = ()
) -> tuple[Predictor, Task, Hashes]:
    """Return the ensemble of a job's folder, a published one, or a single classifier; its task; its files' hashes.

    Args:
        members: only these members and baselines of a job, in a vote of their own.

    Raises `InputError` for a name that is none of these, and for a file that is not as it was written.
    """
    check_one_subtask(Path(name))
    if (Path(name) / "plan.json").is_file():
        plan, task = read_plan(Path(name))
        plan.derived.check(plan.ensemble_file)
        if members:
            plan, ensemble = choose_members(plan, task, members)
        else:
            ensemble = FittedEnsemble.read(plan.ensemble_file, with_models=True)
        rule, labels = ensemble.rule, ensemble.labels
        predictor = EnsemblePredictor(plan, rule, labels, device, n_processes, ensemble.out_of_fold)
        hashes = hash_files({**_files(plan.plan_file, plan.ensemble_file), **predictor.model_files()})
        predictor.check(hashes)
        return predictor, task, hashes
    if members:
        raise InputError(
            f"--members chooses among those of a job, whose folder has what their vote is fitted to; {name} is none"
        )
    folder = classifier_folder(name)
    known = checked_hashes(Path(name), Path(folder)) if Path(folder).is_dir() else None
    published = load_published(name, device)
    task = task_of(published.config) if isinstance(published, TweetEnsemble) else classifier_task(folder, published)
    return published, task, known or hash_files(_files_in(cached_folder(folder)))


def checked_hashes(folder: Path, model: Path) -> Hashes:
    """Return the hashes of a model's files; raise `InputError` for one that is not as it was published or distilled.

    Args:
        folder: of a published model with `SHA256SUMS`, or of a student; in any other nothing is listed.
        model: the folder in it that holds the model's files.
    """
    student = folder if model != folder else folder.parent  # `model` may be named itself
    if (student / STUDENT_FILE).is_file() and model == student / "model":
        read_student(student)
    hashes = hash_files(_files_in(model))
    for name, expected in read_sums(folder).items():
        if name not in hashes or hashes[name]["sha256"] != expected:
            wrong = "has another content than was published" if name in hashes else "is gone"
            raise InputError(
                f"{folder / name} {wrong}; copy or publish the model again, or, if the change is meant, remove "
                f"{folder / SUMS_FILE}"
            )
    return hashes


def cached_folder(name: str) -> Path:
    """Return the folder of a published model: itself, or of a name on the Hub its revision in the cache."""
    if Path(name).is_dir():
        return Path(name)
    config = try_to_load_from_cache(name, "config.json")
    return Path(config).parent if isinstance(config, str) else Path(name)


def _files(*paths: Path) -> dict[str, Path]:
    return {path.name: path for path in paths}


def _files_in(folder: Path) -> dict[str, Path]:
    """Return a model's files, at any depth, by their names within its folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder): path for path in paths}
    return {str(name): path for name, path in names.items() if not any(part[0] in "._" for part in name.parts)}


def left_out_notices(name: str) -> list[str]:
    """Return a line where members of a job have no models, and one where they have that of one fold alone.

    Where they have none, a rule fitted without them labels new tweets.
    """
    if not (Path(name) / "plan.json").is_file():
        return []
    plan, task = read_plan(Path(name))
    best = best_models_notice(plan, FittedEnsemble.read(plan.ensemble_file, with_models=True).rule)
    notices = [best] if best else []
    left_out = [member for member in plan.members if member not in plan.members_with_models]
    if not left_out:
        return notices
    scores = [
        FittedEnsemble.read(plan.ensemble_file, with_models=kind).out_of_fold[task.measure] for kind in (True, False)
    ]
    return [
        *notices,
        f"{', '.join(left_out)} came from elsewhere as predictions, without a model: new tweets get the vote of the "
        f"other members, fitted for itself, whose {task.measure} is {scores[0]:.3f} out of fold, not {scores[1]:.3f}",
    ]


def cut_tweets(predictor: Predictor) -> dict[str, CutTweets]:
    """Return, of the texts that were predicted last, how many each tokenizer cut, by a member that has it."""
    if isinstance(predictor, TweetEnsemble):
        models = [(name, model) for name, of_member in predictor.predictors.items() for model in of_member]
        cuts = {name: model.cut for name, model in models if getattr(model, "cut", None)}
    else:
        cuts = predictor.cut if isinstance(predictor.cut, dict) else {predictor.name: predictor.cut}
    return {name: cut for name, cut in cuts.items() if cut is not None and cut.count}
