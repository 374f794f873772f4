"""Export of a finished ensemble: a folder with weights, tokenizers, code and config that transformers can load.

    config.json  model.safetensors.index.json  README.md  figures/  heads.py  tweet_ensemble.py  ...
    members/NAME/config.json  model.safetensors  tokenizer.json  ...

Each member's folder is an ensemble of one member and can be loaded by itself; the index of the whole ensemble points
to the members' weights. No file contains tweets.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from heads import BASES
from smm4h.config.job import Member
from smm4h.config.plans.plan import Plan
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.data.tokenization import VARIANT
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.inference.finished_job import STUDENT_FILE, FinishedJob, read_student
from smm4h.inference.new_tweets.profile import TweetProfile
from smm4h.inference.new_tweets.reference import profile_without_words
from smm4h.inference.predictor import runs_with_models
from smm4h.models.label_spaces import space_of
from smm4h.models.tweet_ensemble import TweetEnsembleConfig, prefix_of
from smm4h.models.voting import VotingRule
from smm4h.models.word_models import (
    TERMS,
    BucketEmbeddingClassifier,
    HashedTfidf,
    WordEmbeddingClassifier,
)
from smm4h.reporting.hub import display_name, upload
from smm4h.reporting.leak_check.fingerprints import TweetFingerprints
from smm4h.reporting.leak_check.privacy import LeakCheck
from smm4h.reporting.model_card import ensemble_card, local_bases, run_card, student_card
from smm4h.training.words.baselines import WordModel, load_baseline, shape_of
from smm4h.utils.durable import write_sums
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json, write_json, write_text
from smm4h.utils.temporaries import private_folder

LIBRARY = Path(__file__).parents[1]
ENTRY = "tweet_ensemble"  # the module that loads a published ensemble
PROJECT_IMPORT = re.compile(r"^(\s*)from (?:smm4h\.models\.)?([\w.]+) import ", re.MULTILINE)
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "bpe.codes", "spm.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
LOCAL_KEYS = ("_name_or_path", "auto_map", "architectures", "transformers_version", "dtype", "torch_dtype")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@cache
def source_files(entry: str) -> dict[str, str]:
    """Return by file name the sources of a module and of this project's modules that it imports.

    Imports of these modules become relative, since the files stand in one folder; a package's name comes before that
    of its module there.
    """
    sources, pending = {}, [entry]
    while pending:
        name = pending.pop()
        if f"{_flat(name)}.py" in sources:
            continue
        source = _path_of(name).read_text(encoding="utf-8")
        modules = [module for _, module in PROJECT_IMPORT.findall(source) if _path_of(module).is_file()]
        pending += modules

        def relative(match: re.Match, modules: list[str] = modules) -> str:
            return f"{match[1]}from .{_flat(match[2])} import " if match[2] in modules else match[0]

        sources[f"{_flat(name)}.py"] = PROJECT_IMPORT.sub(relative, source)
    return sources


def _flat(module: str) -> str:
    return module.replace(".", "_")


def _path_of(module: str) -> Path:
    if module == "heads":
        return LIBRARY.parent / "heads.py"
    return Path(LIBRARY / "models", *module.split(".")).with_suffix(".py")


def write_published(
    folder: Path,
    runs: dict[str, list[Run]],
    ensemble: FittedEnsemble,
    task: Task,
    dtype: str,
    profile: TweetProfile | None = None,
) -> None:
    """Write all files of a published ensemble except the model card.

    Args:
        runs: by name, of the members with a weight above 0; see `predictor.runs_with_models`.
        dtype: a key of `DTYPES`, of the encoders' weights.
        profile: of the labelled tweets, without their words.
    """
    rule, sources = ensemble.rule.drop_zero_weight(), source_files(ENTRY)
    entries, weight_map, total = [], {}, 0
    for index, (name, member_runs) in enumerate(runs.items()):
        member_folder = folder / "members" / name
        member_folder.mkdir(parents=True)
        tensors, about = _member_tensors(name, member_runs, DTYPES[dtype])
        save_file(tensors, member_folder / WEIGHTS, metadata={"format": "pt"})
        _copy_tokenizer(member_runs[0], member_folder)
        entry = {"name": name, "tokenizer": f"members/{name}", **_entry(member_runs[0].member), **about}
        member_rule = _rule_of_one(rule, index)
        _write_config(member_folder, [{**entry, "tokenizer": "."}], member_rule, ensemble.labels, task, dtype)
        _write_sources(member_folder, sources)
        entries.append(entry)
        weight_map |= dict.fromkeys(tensors, f"members/{name}/{WEIGHTS}")
        total += sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    stored = profile and profile.to_dict()
    _write_config(folder, entries, rule, ensemble.labels, task, dtype, profile=stored)
    _write_sources(folder, sources)


def _rule_of_one(rule: VotingRule, index: int) -> VotingRule:
    """Return the rule of one member alone: its decision in a hard vote, or else argmax."""
    decision, cuts = np.ones_like(rule.decision), None
    if rule.method == "hard":
        decision = rule.decision[index : index + 1]
        cuts = rule.cuts and {group: cut[index : index + 1] for group, cut in rule.cuts.items()}
    members = [rule.members[index]]
    alone = VotingRule("soft", members, rule.ties, rule.mean, decision, cuts=cuts, refits_alone=rule.refits_alone)
    return space_of(rule, ()).rule(alone)


def _entry(member: Member) -> dict[str, Any]:
    """Return a member's settings that a published config needs."""
    # A local path is cut to its last part, or the config would publish folders of this machine.
    variant = [Path(str(getattr(member.args, name))).name for name in VARIANT]
    settings = {name: getattr(member.args, name) for name in ("classifier", "cleaning", "packed")}
    return {**settings, "precision": member.precision, "variant": " ".join(variant)}


def _member_tensors(
    name: str, runs: Sequence[Run], dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors of all runs by their names in the ensemble, and the keys of the config that describe them."""
    tensors, folds, model = {}, [], {}
    for number, run in enumerate(runs):
        run.check_file(run.model)
        if run.member.has_encoder:
            parts = {k: v for file in sorted(run.model.glob("*.safetensors")) for k, v in load_file(file).items()}
            parts = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in parts.items()}
            config, fold = _public_config(_without_keys(read_json(run.model / CONFIG)), parts), {}
            if model and _base(config) != _base(model):
                raise InputError(
                    f"{run.model} is an adapter of other base weights than {runs[0].model}, and both are published "
                    f"beside one base; remove {run.done_file} and give the job's command again, with the base of then"
                )
            model = config
        else:
            parts, fold = _word_model_tensors(load_baseline(run.model))
        tensors |= {f"members.{prefix_of(name)}.{number}.{key}": tensor for key, tensor in parts.items()}
        folds.append(fold)
    return tensors, {"model": model, "folds": folds, "refitted": [run.is_refit for run in runs]}


def _base(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a model's config says of the base that its adapter stands beside; None without an adapter."""
    return (config.get("adapter") or {}).get("base")


def _public_config(config: dict[str, Any], weights: dict[str, torch.Tensor] | None = None) -> dict[str, Any]:
    """Return a model's config without a local path to the base model of its adapter, if it has one.

    Args:
        weights: the adapter's, by name; their shapes are added, which an ensemble needs to load them.
    """
    if not config.get("adapter"):
        return config
    adapter, shapes = config["adapter"], {} if weights is None else {name: list(w.shape) for name, w in weights.items()}
    base = {**adapter["base"], "name": display_name(adapter["base"]["name"])}
    return {**config, "adapter": {**adapter, "base": base, **({"shapes": shapes} if shapes else {})}}


def _word_model_tensors(model: WordModel) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors of a word model, and the keys of the config that describe them."""
    if isinstance(model, WordEmbeddingClassifier | BucketEmbeddingClassifier):
        is_safe = isinstance(model, BucketEmbeddingClassifier)
        size = {"n_buckets": model.n_buckets} if is_safe else {"n_words": len(model.words)}
        return dict(model.state_dict()), {**size, **shape_of(model)}
    arrays = {name: np.ascontiguousarray(array).view(np.int64) for name, array in model.arrays.items()}
    about = {key: value for key, value in model.about.items() if key != "classifier"}
    if isinstance(model, HashedTfidf):
        about["n_terms"] = {kind: len(model.arrays[f"terms_{kind}"]) for kind in TERMS}
    parts = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return parts, {**about, "n_rows": len(model.arrays["intercept"])}


def readable_members(runs: Iterable[Run]) -> list[str]:
    """Return the names of the members whose weights list hashed terms, as older versions made them."""
    listing = {run.member.name: run for run in runs if not run.member.has_encoder and "n_buckets" not in _config(run)}
    return list(listing)


def _config(run: Run) -> dict[str, Any]:
    run.check_file(run.model / CONFIG)
    return read_json(run.model / CONFIG)


def check_word_members(source: Path, *, is_upload: bool) -> str | None:
    """Return a warning where a job's members would give training tweets back; None where none would.

    Raises `InputError` for them where they are to be uploaded.
    """
    if (source / STUDENT_FILE).is_file():
        return None
    job = FinishedJob.read(source)
    runs = runs_with_models(job.plan, job.with_models.rule.drop_zero_weight())
    names = readable_members([run for of_member in runs.values() for run in of_member])
    if not names:
        return None
    message = (
        f"{', '.join(names)}: trained by an older version, whose lists of hashed words spell training tweets out, word "
        f"for word; remove {' and '.join(str(source / name) for name in names)} and give the job's command again, "
        "which takes seconds for such a member"
    )
    if is_upload:
        raise InputError(f"{message}, or say --readable_words if the tweets are public; nothing was published")
    return f"{message}, before anybody gets this folder"


def base_notice(source: Path) -> str | None:
    """Return a notice where a job's adapters stand beside a model of this machine that others must bring themselves."""
    names = [] if (source / STUDENT_FILE).is_file() else local_bases(FinishedJob.read(source).plan.runs)
    if not names:
        return None
    places = " and ".join(f"{BASES}/{name}" for name in names)
    return (
        f"adapters are published without the weights of {' and '.join(names)}, which lie in a folder of this machine "
        f"and not on the Hub: they are looked for at {places} in what is published; save: merged publishes all"
    )


def _without_keys(config: dict[str, Any], *dropped: str) -> dict[str, Any]:
    """Return a config without some keys, by default `LOCAL_KEYS`; the config of its encoder loses `LOCAL_KEYS`."""
    kept = {key: value for key, value in config.items() if key not in (dropped or LOCAL_KEYS)}
    if isinstance(kept.get("encoder"), dict):
        kept["encoder"] = _without_keys(kept["encoder"])
    return kept


def _copy_tokenizer(run: Run, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        if (run.model / name).is_file():
            shutil.copyfile(run.model / name, folder / name)
    _remove_local_path(folder)


def _remove_local_path(folder: Path) -> None:
    """Remove the path that a tokenizer was loaded from from its config."""
    path = folder / "tokenizer_config.json"
    if path.is_file():
        write_json(path, {key: value for key, value in read_json(path).items() if key != "name_or_path"})


def _write_config(
    folder: Path, members: Sequence[dict], rule: VotingRule, labels: Sequence[str], task: Task, dtype: str, **further
) -> None:
    config = TweetEnsembleConfig(
        members=members,
        rule=rule.to_dict(),
        task_name=task.name,
        columns={
            name: names
            for name, names in asdict(task.columns).items()
            if name in ("id", "text", "label") or (name in ("group", "context") and names)
        },
        submission_columns=task.output_names,
        positive_labels=task.positive,
        problem_type=task.space.problem_type,
        **further,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        architectures=["TweetEnsemble"],
        dtype=dtype,
        auto_map={
            "AutoConfig": f"{ENTRY}.TweetEnsembleConfig",
            "AutoModelForSequenceClassification": f"{ENTRY}.TweetEnsemble",
        },
        custom_pipelines={
            "text-classification": {
                "impl": f"{ENTRY}.TweetPipeline",
                "pt": ["AutoModelForSequenceClassification"],
                "type": "text",
            }
        },
    )
    write_text(folder / CONFIG, config.to_json_string(use_diff=False))


def _write_sources(folder: Path, sources: dict[str, str]) -> None:
    for name, source in sources.items():
        write_text(folder / name, source)


def project_texts() -> list[str]:
    """Return this project's sources and templates, whose words may occur in published files."""
    files = [LIBRARY.parent / "heads.py", *LIBRARY.rglob("*.py"), *(LIBRARY / "reporting" / "templates").iterdir()]
    return [path.read_text(encoding="utf-8") for path in files]


def allowed(name: str) -> bool:
    """Return whether a file with this name, relative to the published folder, may be published."""
    path = Path(name)
    if path.parts[0] == "members" and len(path.parts) == 3:
        return path.name in (CONFIG, WEIGHTS, *TOKENIZER_FILES) or path.name in source_files(ENTRY)
    if path.parts[0] == "figures" and len(path.parts) == 2:
        return path.suffix == ".png"
    if len(path.parts) > 1:
        return False
    return name in ("README.md", CONFIG, WEIGHTS, INDEX, *TOKENIZER_FILES) or name in source_files(ENTRY)


def files_to_upload(folder: Path) -> list[Path]:
    """Return all files of a folder; raise `InputError` for a file that may not be published."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        if not allowed(file.relative_to(folder).as_posix()):
            raise InputError(f"{file} is none of the files that are published; remove it")
    return files


@dataclass(frozen=True)
class Unpublished:
    """What must not be in a folder that is published, and what was public before.

    Args:
        fingerprints: of the tweets.
        task: whose own words, which the card repeats, are no leaks.
        encoders: by folder in the published one, name and revision of the encoder whose tokenizer lies there.
    """

    fingerprints: TweetFingerprints
    task: Task
    encoders: dict[str, tuple[str, str | None]]

    def check(self, folder: Path, files: Sequence[Path] | None = None) -> None:
        """Search a folder's files, by default all; raise `InputError` for one that may not be published, and a leak."""
        own = [*project_texts(), self.task.about or "", *self.task.labels, *self.task.meanings.values()]
        with private_folder(Path(tempfile.gettempdir())) as temporary:

            def own_files(part: Path) -> tuple[str, Path | None]:
                key = part.relative_to(folder).as_posix()
                if key not in self.encoders:
                    return "", None
                name, revision = self.encoders[key]
                return display_name(name), own_tokenizer(name, revision, temporary / key)

            LeakCheck(self.fingerprints, own).check(folder, files or files_to_upload(folder), own_files)


def own_tokenizer(encoder: str, revision: str | None, folder: Path) -> Path | None:
    """Write an encoder's own tokenizer to a folder, unless it is there; return the folder, or None without the encoder.

    It is looked for on this machine only.
    """
    if not folder.is_dir():
        try:
            tokenizer = AutoTokenizer.from_pretrained(encoder, revision=revision, local_files_only=True)
            tokenizer.save_pretrained(folder)
        except Exception:  # one class for each file that may be missing or broken; the search is then of all files
            return None
        _remove_local_path(folder)
    return folder


def write_for_publication(source: Path, folder: Path, name: str, dtype: str, license: str | None) -> Unpublished:
    """Write a finished job's ensemble, or a student, with its card; return what the folder must not hold.

    Args:
        source: the job's or the student's folder.
        name: under which the model will be published.
        dtype: a key of `DTYPES`, of the encoders' weights.

    Raises `InputError` for a job that is not finished or has not kept its models.
    """
    if (source / STUDENT_FILE).is_file():
        return write_published_student(source, folder, name, dtype, license)
    job = FinishedJob.read(source)
    job.plan.derived.check(job.plan.fingerprints_file)
    fingerprints = TweetFingerprints.read(job.plan.fingerprints_file)
    runs = runs_with_models(job.plan, job.with_models.rule.drop_zero_weight())
    profile = profile_without_words(job.plan, job.with_models.out_of_fold, job.task.space)
    write_published(folder, runs, job.with_models, job.task, dtype, profile)
    ensemble_card(job, name, license).write(folder)
    return Unpublished(
        fingerprints, job.task, {f"members/{n}": _encoder_of(of_member[0]) for n, of_member in runs.items()}
    )


def _encoder_of(run: Run) -> tuple[str, str | None]:
    return run.member.args.model_name_or_path, run.member.args.model_revision


def write_published_student(student: Path, folder: Path, name: str, dtype: str, license: str | None) -> Unpublished:
    """Write a student's model and card; return what the folder must not hold of the tweets that it has learnt from.

    Args: see `write_for_publication`.
    """
    about, fingerprints = read_student(student), TweetFingerprints.read(student / "marks.npz")
    job = FinishedJob.read(Path(os.path.normpath(student / about["job"])))
    for file in sorted((student / "model").iterdir()):
        if file.suffix == ".safetensors":
            tensors = {key: tensor.to(DTYPES[dtype]) for key, tensor in load_file(file).items()}
            save_file(tensors, folder / file.name, metadata={"format": "pt"})
        elif file.name in (CONFIG, *TOKENIZER_FILES):
            shutil.copyfile(file, folder / file.name)
    write_json(folder / CONFIG, {**_without_keys(read_json(folder / CONFIG), "_name_or_path"), "dtype": dtype})
    _remove_local_path(folder)
    student_card(job, about, name, license).write(folder)
    return Unpublished(fingerprints, job.task, {".": (about["encoder"], None)})


def publish_checked(folder: Path, unpublished: Unpublished, deliver: Callable[[], str]) -> str:
    """Check the files of a folder, publish them, and return their address.

    Args:
        unpublished: what the folder must not hold.
        deliver: publishes the folder and returns its address.

    Raises `InputError` for a file that may not be published, and for a leak.
    """
    unpublished.check(folder)
    write_sums(folder, (name for name in names_in(folder) if name != "README.md" and not name.startswith("figures/")))
    return deliver()


def names_in(folder: Path) -> list[str]:
    """Return the names of a folder's files, relative to it."""
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def push_run(plan: Plan, task: Task, run: Run, name: str, *, token: str | None, public: bool) -> str:
    """Upload one run's model with its card to a repository on the Hub, and return its address.

    Raises `InputError` for a word model of an older version; see `check_word_members`.
    """
    if readable_members([run]):
        raise InputError(
            f"{run.name}: trained by an older version, whose lists of hashed words spell training tweets out; remove "
            f"{run.directory} and give the command again"
        )
    with private_folder(Path(tempfile.gettempdir())) as folder:
        run.check_file(run.model)
        plan.derived.check(plan.fingerprints_file)
        for file in run.model.iterdir():
            if allowed(file.name):
                shutil.copyfile(file, folder / file.name)
        _remove_local_path(folder)
        if run.member.has_encoder:
            write_json(folder / CONFIG, _public_config(read_json(folder / CONFIG)))
        run_card(plan, task, run, name, license=None).write(folder)
        unpublished = Unpublished(TweetFingerprints.read(plan.fingerprints_file), task, {".": _encoder_of(run)})
        return publish_checked(folder, unpublished, lambda: upload(folder, name, token=token, public=public))
