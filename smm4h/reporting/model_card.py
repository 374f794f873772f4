"""Model cards with Hub metadata, for ensembles, single runs and students."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from heads import BASES
from smm4h.config.arguments import WITHOUT_EFFECT
from smm4h.config.job import Adaptation, Member
from smm4h.config.plans.plan import Plan
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.data.outputs.predictions import read_predictions
from smm4h.ensemble.scoring import FINAL, group_rows
from smm4h.inference.distilling.student import one_decision_note
from smm4h.inference.finished_job import FinishedJob
from smm4h.inference.predictor import best_models_notice, runs_with_models
from smm4h.metrics import format_interval
from smm4h.models.word_models import SAFE
from smm4h.reporting.figures import Picture
from smm4h.reporting.html_report import command_of, environment, pictures_of, rule_text, shown_word
from smm4h.reporting.hub import display_name, is_hub_name
from smm4h.reporting.terminal import decision_text, expected_text
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json, write_atomically, write_text

SHOWN_ELSEWHERE = {
    "classifier",
    "head",
    "model_name_or_path",
    "cleaning",
    "pseudo_labels",
    "model_revision",
    "packed",
    "adapt",
}
PLAIN = "Texts go in as they are."
ABOUT_FOLDS = "Out of fold: every labelled tweet is judged by models, decisions and rules that were fitted without it."


@dataclass(frozen=True)
class Card:
    """The content of a model card; `rows` are names with a score, or None, for each of `columns`."""

    title: str
    what: str
    usage: str
    usage_note: str
    task: Task
    counts: Mapping[str, int]
    n_tweets: int  # labelled ones
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[dict[str, Any] | None]]]
    scores_note: str
    confusion: np.ndarray
    confusion_where: str
    decision: str
    members: Sequence[tuple[str, str, str]]
    shared: str
    training_note: str
    commands: str
    versions: Mapping[str, str]
    encoders: Sequence[str]  # their names on the Hub
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    limits: Sequence[str] = ()
    data_note: str = ""
    license: str | None = None
    tags: Sequence[str] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write README.md and the figures into a folder."""
        for picture in self.pictures:
            path = folder / "figures" / f"{picture.name}.png"
            write_atomically(path, lambda partial, picture=picture: partial.write_bytes(picture.png()))
        write_text(folder / "README.md", str(self.model_card()))

    def model_card(self) -> ModelCard:
        """Return the card with its YAML metadata, which `ModelCard.validate` can check on the Hub."""
        task = self.task
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        body = (
            environment(autoescape=False)
            .get_template("card.md")
            .render(
                **content,
                labels=task.labels,
                confusion_labels=task.decided_names,
                about=task.about or f"what the task {task.name} is about",
                measure=task.measure,
                measured=task.measured
                + (", micro-averaged" if task.measure == "f1" and len(task.positive) > 1 else ""),
                rarest=min(self.counts, key=self.counts.get),
            )
        )
        return ModelCard(f"---\n{self._metadata().to_yaml()}\n---\n\n{body}")

    def _metadata(self) -> ModelCardData:
        """Return the metadata that the Hub displays and searches, scores included."""
        task, scores = self.task, self.rows[0][1]
        results = [
            EvalResult(
                task_type="text-classification",
                dataset_type=task.name,
                dataset_name=f"{task.name}, {column}",
                dataset_split=column.replace(" ", "_"),
                metric_type=kind,
                metric_name=task.measured if kind == task.measure else f"{kind} of {', '.join(task.positive)}",
                metric_value=round(score[kind], 4),
            )
            for column, score in zip(self.columns, scores, strict=True)
            if score
            for kind in (task.measure, "precision", "recall")
        ]
        return ModelCardData(
            model_name=self.title,
            eval_results=results,
            library_name="transformers",
            pipeline_tag="text-classification",
            tags=["smm4h", "tweets", "health", "imbalanced-classification", *self.tags],
            metrics=[task.measure, "precision", "recall"],
            license=self.license,
            base_model=list(self.encoders) or None,
        )


def data_note_of(job: FinishedJob) -> str:
    """Return what a job learnt from beside its labelled tweets, as the end of a sentence about them."""
    note = f", and {sum(file['tweets'] for file in job.extra)} extra training rows" if job.extra else ""
    files = {one["unlabelled"]["sha256"]: one["unlabelled"] for one in job.adaptations if "unlabelled" in one}
    if not files:
        return note
    names = {"labelled": "among_labelled", "test": "among_test"}
    counts = {name: sum(file.get(key, 0) for file in files.values()) for name, key in names.items()}
    shared = " and ".join(f"{count} duplicates of {name} tweets" for name, count in counts.items() if count)
    n_texts = sum(file["tweets"] for file in files.values())
    with_others = f" ({shared} among them)" if shared else ""
    return f"{note}, and {n_texts} unlabelled texts{with_others} that encoders were adapted to"


def _members(members: Sequence[Member]) -> tuple[list[tuple[str, str, str]], str]:
    """Return rows of name, kind and own settings, and a description of the settings that all encoders share."""
    named = [{k: v for k, v in m.settings.items() if k not in SHOWN_ELSEWHERE | WITHOUT_EFFECT} for m in members]
    encoders = [settings for settings, member in zip(named, members, strict=True) if member.has_encoder]
    common = {k: v for k, v in (encoders[0] if encoders else {}).items() if all(s.get(k) == v for s in encoders)}
    rows = []
    for settings, member in zip(named, members, strict=True):
        own = {k: v for k, v in settings.items() if common.get(k) != v} if member.has_encoder else {}
        rows.append((member.name, _kind(member), _listed(own) or "none"))
    return rows, _listed(common) or "nothing but the defaults"


def _kind(member: Member) -> str:
    """Return a member's classifier or head and encoder, cleaning and pseudo labels in words."""
    cleaning, pseudo = member.args.cleaning, member.args.pseudo_labels
    if member.is_outside:
        return "predictions of a model from elsewhere, not published"
    kind = member.args.classifier
    if member.has_encoder:
        kind = f"head {member.args.head} on {display_name(member.args.model_name_or_path)}"
    if member.adaptation is not None:
        kind += f", {adapted_text(member.adaptation)}"
    return kind + (f", cleaned ({', '.join(cleaning)})" if cleaning else "") + (", pseudo labels" if pseudo else "")


def adapted_text(adaptation: Adaptation) -> str:
    """Return in words what an encoder was adapted to; no file is named."""
    texts = {"unlabelled": adaptation.unlabelled, "labelled": adaptation.labelled, "test": adaptation.test}
    names = [name for name, are_read in texts.items() if are_read]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if names[:-1] else names)
    return f"adapted before by masked words of {listed} texts, read {adaptation.epochs:g} times, without labels"


def _listed(settings: Mapping[str, Any]) -> str:
    """Return settings as one line."""
    return ", ".join(f"{name} {shown_word(str(value))}" for name, value in sorted(settings.items()))


ONE_OF = 'truncation=True)  # [{"label": ..., "score": ...}, ...]'
LIST_OF = 'truncation=True)  # for each text the list of its labels: [[{"label": ..., "score": ...}, ...], ...]'
SCORE_OF = "truncation=True, top_k=None)  # for each text all labels; those are given whose score is above 0.5"


def usage_of(name: str, more: str = "", result: str = ONE_OF) -> str:
    """Return the lines of Python that load a model published as `name`.

    Args:
        result: the end of the call, and what it returns.
    """
    return (
        "from transformers import pipeline\n\n"
        f'classify = pipeline("text-classification", "{name}"{more})\n'
        f'classify(["one tweet", "another tweet"], {result}'
    )


def outside_notes(job: FinishedJob) -> list[str]:
    """Return a sentence on the score of what is published, where members from elsewhere are no part of it."""
    if not (outside := job.without_models()):
        return []
    score, measure = job.with_models.out_of_fold, job.task.measure
    return [
        f"{', '.join(outside)}: predictions of models from elsewhere, which are not part of this repository. It holds "
        f"a vote of the other members, fitted for itself, that scores {score[measure]:.3f} "
        f"({format_interval(score['interval'])}) out of fold."
    ]


def needed_packages(runs: Sequence[Run]) -> str:
    """Return sentences on the packages that runs' models need beside transformers; empty without one."""
    needs_emoji = any("bertweet" in run.member.args.cleaning for run in runs)
    packages = "peft bitsandbytes" if any(run.member.args.quantise for run in runs) else "peft"
    return (" Emoji become words: `pip install emoji==0.6.0` first." if needs_emoji else "") + (
        f" An adapter needs `pip install {packages}`." if any(run.member.saves_adapter_alone for run in runs) else ""
    )


def adapter_notes(runs: Iterable[Run]) -> list[str]:
    """Return a sentence for each member whose models are adapters without their base model: where it is found."""
    first = {run.member.name: run for run in runs if run.member.saves_adapter_alone and run.model.is_dir()}
    notes = []
    for member, run in first.items():
        adapter = read_json(run.model / "config.json")["adapter"]
        name, base = display_name(adapter["base"]["name"]), adapter["base"]
        held = f", held in {adapter['quantise'].replace('bit', ' bits')}" if adapter["quantise"] else ""
        where = (
            f"are loaded from the Hub (revision `{base['revision']}`)"
            if is_hub_name(base["name"])
            else f"are not on the Hub: put that model's folder at `{BASES}/{name}`, beside this file"
        )
        notes.append(
            f"{member}: LoRA adapters and heads only. The weights that they stand beside, those of {name}{held}, "
            f"{where}; others are refused by their checksum."
        )
    return notes


def local_bases(runs: Iterable[Run]) -> list[str]:
    """Return the names of base models that adapters stand beside and nobody can load from the Hub.

    Raises `InputError` for two of one name, which could not lie beside each other in what is published.
    """
    saved = [run.model / "config.json" for run in runs if run.member.saves_adapter_alone and run.model.is_dir()]
    bases = [read_json(path)["adapter"]["base"] for path in saved]
    folders = list(dict.fromkeys(base["name"] for base in bases if base["is_local"]))
    names = [display_name(folder) for folder in folders]
    if alike := [folder for folder in folders if names.count(display_name(folder)) > 1]:
        raise InputError(
            f"adapters stand beside different models whose folders have one name ({', '.join(alike)}), by which they "
            "are found; publish them with save: merged, or give these folders other names before the job"
        )
    return names


def ensemble_card(job: FinishedJob, name: str, license: str | None) -> Card:
    """Return the card of an ensemble published as `name`."""
    task, plan = job.task, job.plan
    names = [name for name in job.scores if name != FINAL]
    has_test = job.final["test"] is not None
    parts = ["out_of_fold", "test"] if has_test else ["out_of_fold"]
    rows = [
        (f"**{FINAL}**", [job.final[part] for part in parts]),
        *((f"{n} \\*" if n in job.leaky else n, [job.scores[n][part] for part in parts]) for n in names),
    ]
    members, shared = _members(list({run.member.name: run.member for run in plan.runs}.values()))
    notes = ["\\* trained on pseudo labels by teachers that saw the held-out tweets, which flatters out of fold."]
    notes = notes if job.leaky else []
    if expected := job.appraisal.get("expected"):
        notes.append(expected_text(expected, task.measure))
    for kind, unshared in job.appraisal["unshared"].items():
        low, high = unshared["interval"]
        score = f"{unshared[task.measure]:.3f} ({low:.3f} to {high:.3f})"
        notes.append(
            f"On the {unshared['tweets']} tweets without {kind} in another fold, the vote scores {score} out of fold."
        )
    notes += [*outside_notes(job), *adapter_notes(plan.runs)]
    notes += [_groups_note(task, job.final)] if job.final["out_of_fold"].get("groups") else []
    rule = job.with_models.rule.drop_zero_weight()
    notes += [f"Here, {best}."] if (best := best_models_notice(plan, rule)) else []
    n_models = sum(map(len, runs_with_models(plan, rule).values()))
    return Card(
        title=name.split("/")[-1],
        what=f"An ensemble of {len(rule.members)} members, {n_models} models in all, that reads tweets.",
        usage=usage_of(name, ", trust_remote_code=True", LIST_OF if task.multi_label else ONE_OF),
        usage_note="Texts go in as they are: each member has its own cleaning and tokenizer. One member alone: the "
        f"same with its folder, `members/NAME`.{needed_packages(plan.runs)}",
        task=task,
        counts=job.counts,
        n_tweets=len(job.gold),
        columns=["out of fold", "test"] if has_test else ["out of fold"],
        rows=rows,
        scores_note=ABOUT_FOLDS,
        confusion=job.confusion("out_of_fold"),
        confusion_where="out of fold",
        decision=f"The vote: {rule_text(job, job.with_models.rule)}"
        + (f"\n\n{'Promised: ' if job.promise else ''}{told}" if (told := decision_text(job)) else ""),
        members=members,
        shared=shared,
        training_note=runs_note(plan),
        commands=command_of(job.command),
        versions=job.versions,
        encoders=[n for n in job.encoder_names if is_hub_name(n)],
        pictures=pictures_of(job, for_card=True),
        notes=notes,
        data_note=data_note_of(job),
        limits=_readable_in(job),
        license=license,
        tags=["ensemble"],
    )


OF_ENCODERS = (
    "Encoders: embeddings that differ from the pretrained encoder's tell which word pieces occur in the training "
    "tweets, without their order; and a reader who has a whole tweet can tell, better than by chance, whether it was "
    "among them."
)
OF_BUCKETS = (
    "Members that count words: weights depend on no word, and no piece of one, that fewer than {safe} authors have, "
    "nor on pairs of words, users' names, addresses or digits, and no list of words is kept. A reader who tries a "
    "word learns at best that {safe} authors may have it."
)
OF_LISTS = "Members of an older version that count words: from their hashes a reader can spell out training tweets."


def _readable_in(job: FinishedJob) -> list[str]:
    """Return what a reader of the ensemble's weights can learn about the training tweets, a sentence for each kind."""
    runs = [run for run in job.plan.runs_of(job.with_models.rule.drop_zero_weight().members) if run.model.is_dir()]
    word_models = [run for run in runs if not run.member.has_encoder]
    are_safe = {"n_buckets" in read_json(run.model / "config.json") for run in word_models}
    sentences = [OF_ENCODERS] if len(word_models) < len(runs) else []
    sentences += [OF_BUCKETS.format(safe=SAFE)] if True in are_safe else []
    return sentences + ([OF_LISTS] if False in are_safe else [])


def _groups_note(task: Task, final: Mapping[str, Any]) -> str:
    """Return the vote's scores by group as a Markdown table."""
    parts = [part for part in ("out_of_fold", "test") if final[part]]
    rows = group_rows(*(final[part] for part in parts), of=task.groups_are)
    names = " | ".join(f"{part.replace('_', ' ')} | 95 %" for part in parts)
    lines = [f"The vote by {task.scored_by}:\n", f"| | {names} |", f"|---|{'---|---|' * len(parts)}"]
    for name, scores in rows:
        shown = (
            f"{score[task.measure]:.3f} | {score['interval'][0]:.3f} to {score['interval'][1]:.3f}" if score else "- |"
            for score in scores
        )
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def runs_note(plan: Plan) -> str:
    """Return the number of runs, and of refitted runs, in words."""
    n_refits = sum(run.is_refit for run in plan.runs)
    refits = f", and {n_refits} more on all labelled tweets" if n_refits else ""
    return f"{len(plan.runs) - n_refits} runs (member x fold){refits}."


def run_card(plan: Plan, task: Task, run: Run, name: str, license: str | None) -> Card:
    """Return the card of one run's model, with scores on its held-out tweets."""
    content = read_json(plan.plan_file)
    held_out = read_predictions(run.held_out_file)
    labels = task.indices(pd.read_parquet(plan.folds_file, columns=["label"])["label"])
    gold = labels[held_out.rows]
    groups = None if held_out.groups is None else np.array(held_out.groups.to_pylist(), dtype=object)
    score = task.score(gold, task.space.most_probable(held_out.probabilities), groups)
    members, shared = _members([run.member])
    cleaning = run.member.args.cleaning
    cleaned_by = f"({', '.join(cleaning)}; the config has it under `cleaning`)"
    counts = task.space.counts(labels)
    encoder = run.member.args.model_name_or_path
    return Card(
        title=name.split("/")[-1],
        what=f"One model of an ensemble: member {run.member.name}, trained on all folds but number {run.fold}.",
        usage=usage_of(name, ", trust_remote_code=True", SCORE_OF if task.multi_label else ONE_OF),
        usage_note=(f"Texts must be cleaned first {cleaned_by}." if cleaning else PLAIN) + needed_packages([run]),
        task=task,
        counts=dict(zip(task.labels, counts.tolist(), strict=True)),
        n_tweets=len(labels),
        columns=["held out"],
        rows=[(run.name, [score])],
        scores_note=f"On the {len(gold)} tweets of the fold that the run held out.",
        confusion=np.array(score["confusion"]),
        confusion_where="held out",
        decision="A probability of 0.5 gives a label." if task.multi_label else "The highest probability decides.",
        members=members,
        shared=shared,
        training_note=f"Trained on {len(labels) - len(gold)} of the tweets.",
        commands=command_of(content.get("command", [])),
        versions=content["versions"],
        encoders=[encoder] if is_hub_name(encoder) else [],
        notes=adapter_notes([run]),
        limits=[OF_ENCODERS if run.member.has_encoder else OF_BUCKETS.format(safe=SAFE)],
        license=license,
    )


def student_card(job: FinishedJob, about: Mapping[str, Any], name: str, license: str | None) -> Card:
    """Return the card of a model distilled from an ensemble; `about` is the content of its student.json."""
    task, checks = job.task, about["scores"]
    names = list(dict.fromkeys(name for check in checks for name in check["scores"]))
    rows = [(f"**{n}**" if n == "student" else n, [check["scores"].get(n) for check in checks]) for n in names]
    speeds = about["tweets_per_second"]
    notes = [f"Tweets a second on the same machine: {', '.join(f'{n} {speed:.0f}' for n, speed in speeds.items())}."]
    if job.rule.cuts:
        note = one_decision_note(task.by, job.rule.cuts)
        notes.append(f"{note[0].upper()}{note[1:]}.")
    if not checks:
        rows, notes = [("**student**", [])], [*notes, "Nobody has scored it: it was made without a check."]
    confusion = (
        checks[-1]["scores"]["student"]["confusion"]
        if checks
        else np.zeros((len(task.space.decided), len(task.space.decided)), int)
    )
    settings, encoder = _listed(about["settings"]), display_name(about["encoder"])
    distilled = ["python", "distill.py", job.plan.output_dir.name, "--model_name_or_path", encoder]
    return Card(
        title=name.split("/")[-1],
        what=f"One model of {about['parameters'] / 1e6:.0f} million weights that has learnt from an ensemble.",
        usage=usage_of(name, result=SCORE_OF if task.multi_label else ONE_OF),
        usage_note=f"{PLAIN} No code comes with it.",
        task=task,
        counts=job.counts,
        n_tweets=len(job.gold),
        columns=[check["where"] for check in checks],
        rows=rows,
        scores_note="`ensemble` is the vote that it has learnt from, then comes that vote's best member.",
        confusion=np.array(confusion),
        confusion_where=checks[-1]["where"] if checks else "not known",
        decision="The highest probability decides. Its bias was moved until it gives each label as often as the "
        "ensemble does, so that of two labels the one that the ensemble would choose has more than 0.5.",
        members=[("student", encoder, settings)],
        shared="nothing else",
        training_note="It has learnt the probabilities that the ensemble gave labelled tweets out of fold, "
        f"and {about['unlabelled_tweets']} unlabelled ones.",
        commands=f"{command_of(job.command)}\n{shlex.join(distilled)}",
        versions=about["versions"],
        encoders=[about["encoder"]] if is_hub_name(about["encoder"]) else [],
        notes=notes,
        data_note=f", and {about['unlabelled_tweets']} unlabelled ones",
        limits=[OF_ENCODERS],
        license=license,
        tags=["distillation"],
    )
