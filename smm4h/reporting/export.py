"""A finished ensemble -> a folder that loads anywhere: weights by member, tokenizers, code, config. No tweets.

    config.json  model.safetensors.index.json  README.md  figures/  heads.py  tweet_ensemble.py  ...
    members/NAME/config.json  model.safetensors  tokenizer.json  ...

Each member's folder is an ensemble of one, and loads alone; the whole one's index points to their weights.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from smm4h.config.job import Member
from smm4h.config.plan import Plan, Run
from smm4h.config.task import Task
from smm4h.data.tokenization import VARIANT
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.inference.distillation import STUDENT_FILE
from smm4h.inference.finished_job import FinishedJob
from smm4h.models.tweet_ensemble import TweetEnsembleConfig, prefix_of
from smm4h.models.voting import VotingRule
from smm4h.models.word_models import TERMS, HashedTfidf, WordEmbeddingClassifier
from smm4h.reporting.hub import upload
from smm4h.reporting.model_card import run_card, student_card
from smm4h.reporting.privacy import LeakCheck, TweetFingerprints
from smm4h.training.baselines import load_baseline
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json, write_json, write_text

LIBRARY = Path(__file__).parents[1]
ENTRY = "tweet_ensemble"  # the module that loads a published ensemble
OURS = re.compile(r"^(\s*)from (?:smm4h\.models\.)?(\w+) import ", re.MULTILINE)
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "bpe.codes", "spm.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
OF_THIS_MACHINE = ("_name_or_path", "auto_map", "architectures", "transformers_version", "dtype", "torch_dtype")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@cache
def source_files(entry: str) -> dict[str, str]:
    """The sources of a module and of all of ours that it imports, by file name, as they stand beside each other."""
    found, asked = {}, [entry]
    while asked:
        name = asked.pop()
        if f"{name}.py" in found:
            continue
        source = _path_of(name).read_text(encoding="utf-8")
        ours = [module for _, module in OURS.findall(source) if _path_of(module).is_file()]
        asked += ours
        found[f"{name}.py"] = OURS.sub(
            lambda match, ours=ours: f"{match[1]}from .{match[2]} import " if match[2] in ours else match[0], source
        )
    return found


def _path_of(module: str) -> Path:
    return LIBRARY.parent / "heads.py" if module == "heads" else LIBRARY / "models" / f"{module}.py"


def write_published(folder: Path, runs: dict[str, list[Run]], ensemble: FittedEnsemble, task: Task, dtype: str) -> None:
    """Writes all but the model card.

    Args:
        runs: each counting member's, see `serving.runs_with_models`.
        dtype: a key of `DTYPES`, of the encoders' weights.
    """
    rule, sources = ensemble.rule.drop_zero_weight(), source_files(ENTRY)
    entries, weight_map, total = [], {}, 0
    for place, (name, of_member) in enumerate(runs.items()):
        own = folder / "members" / name
        own.mkdir(parents=True)
        tensors, about = _member_tensors(name, of_member, DTYPES[dtype])
        save_file(tensors, own / WEIGHTS, metadata={"format": "pt"})
        _copy_tokenizer(of_member[0], own)
        entry = {"name": name, "tokenizer": f"members/{name}", **_entry(of_member[0].member), **about}
        alone = _rule_of_one(rule, place)
        _write_config(own, [{**entry, "tokenizer": "."}], alone, ensemble.labels, task, dtype)
        _write_sources(own, sources)
        entries.append(entry)
        weight_map |= dict.fromkeys(tensors, f"members/{name}/{WEIGHTS}")
        total += sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    _write_config(folder, entries, rule, ensemble.labels, task, dtype)
    _write_sources(folder, sources)


def _rule_of_one(rule: VotingRule, place: int) -> VotingRule:
    """How a member judges alone: by the decision that it has in a hard vote, or else by its highest probability."""
    own = rule.decision[place : place + 1] if rule.method == "hard" else np.ones_like(rule.decision)
    return VotingRule("soft", [rule.members[place]], rule.ties, rule.mean, own)


def _entry(member: Member) -> dict[str, Any]:
    variant = [Path(str(member.get(name))).name for name in VARIANT]  # of a folder of this machine its name only
    settings = {name: member.get(name) for name in ("classifier", "cleaning", "packed")}
    return {**settings, "precision": member.precision, "variant": " ".join(variant)}


def _member_tensors(
    name: str, runs: Sequence[Run], dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """All folds' tensors by their names in the ensemble, and what the config says of them."""
    tensors, folds, model = {}, [], {}
    for number, run in enumerate(runs):
        if run.member.has_encoder:
            parts = {k: v for file in sorted(run.model.glob("*.safetensors")) for k, v in load_file(file).items()}
            parts = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in parts.items()}
            model, fold = _cleaned(read_json(run.model / CONFIG)), {}
        else:
            parts, fold = _tensors_of_words(load_baseline(run.model))
        tensors |= {f"members.{prefix_of(name)}.{number}.{key}": tensor for key, tensor in parts.items()}
        folds.append(fold)
    return tensors, {"model": model, "folds": folds, "refitted": [run.is_refit for run in runs]}


def _tensors_of_words(model: HashedTfidf | WordEmbeddingClassifier) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    if isinstance(model, WordEmbeddingClassifier):
        n_classes = model.net.classifier[-1].out_features
        return dict(model.state_dict()), {"n_words": len(model.words), "n_classes": n_classes}
    arrays = {name: np.ascontiguousarray(array).view(np.int64) for name, array in model.arrays.items()}
    about = {key: value for key, value in model.about.items() if key != "classifier"}
    n_terms = {kind: len(model.arrays[f"terms_{kind}"]) for kind in TERMS}
    parts = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return parts, {**about, "n_terms": n_terms, "n_rows": len(model.arrays["intercept"])}


def _cleaned(config: dict[str, Any], *without: str) -> dict[str, Any]:
    """A config without some keys, or what says how and where it was made; the encoder's within it too."""
    kept = {key: value for key, value in config.items() if key not in (without or OF_THIS_MACHINE)}
    if isinstance(kept.get("encoder"), dict):
        kept["encoder"] = _cleaned(kept["encoder"])
    return kept


def _copy_tokenizer(run: Run, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        if (run.model / name).is_file():
            shutil.copyfile(run.model / name, folder / name)
    _forget_machine(folder)


def _forget_machine(folder: Path) -> None:
    """Takes out of a tokenizer's config from which folder it was loaded."""
    path = folder / "tokenizer_config.json"
    if path.is_file():
        write_json(path, {key: value for key, value in read_json(path).items() if key != "name_or_path"})


def _write_config(
    folder: Path, members: Sequence[dict], rule: VotingRule, labels: Sequence[str], task: Task, dtype: str
) -> None:
    config = TweetEnsembleConfig(
        members=members,
        rule=rule.to_dict(),
        task_name=task.name,
        columns={"id": task.columns.id, "text": task.columns.text, "label": task.columns.label},
        submission_columns=task.submission.columns,
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
    """What may stand in published files, since it is this project's: its sources and templates."""
    files = [LIBRARY.parent / "heads.py", *LIBRARY.rglob("*.py"), *(LIBRARY / "reporting" / "templates").iterdir()]
    return [path.read_text(encoding="utf-8") for path in files]


def allowed(name: str) -> bool:
    """Whether a file of this name, relative to the folder, is one of those that may be uploaded."""
    path = Path(name)
    if path.parts[0] == "members" and len(path.parts) == 3:
        return path.name in (CONFIG, WEIGHTS, *TOKENIZER_FILES) or path.name in source_files(ENTRY)
    if path.parts[0] == "figures" and len(path.parts) == 2:
        return path.suffix == ".png"
    if len(path.parts) > 1:
        return False
    return name in ("README.md", CONFIG, WEIGHTS, INDEX, *TOKENIZER_FILES) or name in source_files(ENTRY)


def files_to_upload(folder: Path) -> list[Path]:
    """All files of a folder; raises `InputError` for one that does not belong to what is published."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        if not allowed(str(file.relative_to(folder))):
            raise InputError(f"{file} is none of the files that are published; remove it")
    return files


def write_published_student(
    student: Path, folder: Path, name: str, dtype: str, license: str | None
) -> TweetFingerprints:
    """Writes a student's model and card; returns the marks of what must not be in them."""
    about, marks = read_json(student / STUDENT_FILE), TweetFingerprints.read(student / "marks.npz")
    outcome = FinishedJob.read(Path(os.path.normpath(student / about["job"])))
    for file in sorted((student / "model").iterdir()):
        if file.suffix == ".safetensors":
            tensors = {key: tensor.to(DTYPES[dtype]) for key, tensor in load_file(file).items()}
            save_file(tensors, folder / file.name, metadata={"format": "pt"})
        elif file.name in (CONFIG, *TOKENIZER_FILES):
            shutil.copyfile(file, folder / file.name)
    write_json(folder / CONFIG, {**_cleaned(read_json(folder / CONFIG), "_name_or_path"), "dtype": dtype})
    _forget_machine(folder)
    student_card(outcome, about, name, license).write(folder)
    return marks


def publish_checked(folder: Path, marks: TweetFingerprints, deliver: Callable[[], str]) -> str:
    """Delivers what a folder holds, if all of it belongs there and none of it must stay on this machine."""
    LeakCheck(marks, project_texts()).check(folder, files_to_upload(folder))
    return deliver()


def push_run(plan: Plan, task: Task, run: Run, name: str, *, token: str | None, public: bool) -> str:
    """One run's model to a repository of its own; returns its address."""
    with tempfile.TemporaryDirectory(prefix="push") as room:
        folder = Path(room)
        for file in run.model.iterdir():
            if allowed(file.name):
                shutil.copyfile(file, folder / file.name)
        _forget_machine(folder)
        run_card(plan, task, run, name, license=None).write(folder)
        marks = TweetFingerprints.read(plan.fingerprints_file)
        return publish_checked(folder, marks, lambda: upload(folder, name, token=token, public=public))
