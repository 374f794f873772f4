"""Trains the runs of a recipe (members x folds) on a task, votes, and writes the submission: one command for all of it.

accelerate launch run_classification.py recipes/smm4h2020.yaml --task tasks/task5.yaml \\
    --data_dir DIR --output_dir runs/task5

The same command again does only what is missing.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

import ensemble
from smm4h import corpus, dispatch, pseudo, recipe
from smm4h.arrow import column
from smm4h.attempts import given_up
from smm4h.ballots import Ballots, held_out_ballots, test_ballots
from smm4h.claims import once
from smm4h.errors import InputError, run_main
from smm4h.files import write_json
from smm4h.folds import add_folds, stratified_choice, write_folds
from smm4h.labels import check_same_tweets, read_labels, write_labels, write_submission
from smm4h.launch import Launch, join
from smm4h.plan import Plan, Run, claim_folder, make_plan, read_plan, wanted_of
from smm4h.progress import JobProgress, console, score_table, state_summary, state_table
from smm4h.recipe import Job
from smm4h.tokens import fetch_encoders, tokenise
from smm4h.training import RunData, keep_best_model
from smm4h.workers import quieten


def main() -> None:
    launch = join()
    job = recipe.read_command_line([*sys.argv[1:], *launch.flags])
    dispatch.take_place(launch, job)
    quieten()
    if job.settings.list:
        return tell_states(job, launch)
    if job.settings.fetch:
        return fetch(job, launch)
    labelled, test, findings = read_tweets(job)
    plan = make_plan(job, content_hashes(labelled, test))
    claim(plan, job, labelled, findings, launch)
    data = run_data(plan, job, labelled, test)
    gold = read_gold(job, test)
    costs = dispatch.costs_of(plan.wanted, data)
    runs = dispatch.longest_first(plan.wanted, costs)
    with dispatch.crew(launch, job, runs, data) as crew, job_progress(runs, costs, job, launch) as progress:
        for stage in (1, 2):
            train_stage(stage, plan, job, data, crew, progress)
            vote_stage(stage, plan, job, labelled, test)
    tell_results(plan, job, labelled, gold, launch)
    dispatch.name_failures(plan.wanted)


def tell(launch: Launch, text: str) -> None:
    if launch.speaks:
        console.print(text, markup=False)


def input_files(job: Job) -> tuple[list[Path], Path | None, Path | None]:
    """The labelled files in order, the test and the gold file, as flags name them or the task within --data_dir."""
    settings, official = job.settings, {}
    if settings.data_dir:
        official = {part: Path(settings.data_dir) / name for part, name in job.task.files.items()}
        if "training" not in official:
            raise InputError(
                f"{settings.task} names no files for --data_dir; name them with --train_file and --test_file"
            )
    if settings.train_file:
        official.pop("validation", None)  # it belongs to the official training file
    if settings.test_file or ("gold" in official and not official["gold"].is_file()):
        official.pop("gold", None)  # it belongs to the official test file, and few have it
    flags = ("train_file", "training"), ("validation_file", "validation"), ("test_file", "test"), ("gold_file", "gold")
    named = {part: getattr(settings, flag) or official.get(part) for flag, part in flags}
    training, validation, test, gold = (Path(path) if path else None for path in named.values())
    if training is None:
        raise InputError("name the tweets: --data_dir with the official files, or --train_file and --test_file")
    return [path for path in (training, validation) if path], test, gold


def read_tweets(job: Job) -> tuple[Dataset, Dataset | None, list[corpus.Finding]]:
    """Labelled tweets with their fold columns, test tweets, and what was odd about either."""
    settings = job.settings
    if settings.dataset_name:
        labelled, test, findings = corpus.read_hub_tweets(
            settings.dataset_name,
            settings.dataset_config_name,
            job.task,
            token=job.members[0].get("token"),
            cache_dir=job.members[0].get("cache_dir"),
        )
    else:
        training, test_file, _ = input_files(job)
        labelled, findings = corpus.read_tweets(training, job.task, labelled=True, encoding=settings.encoding)
        test = None
        if test_file:
            test, more = corpus.read_tweets([test_file], job.task, labelled=False, encoding=settings.encoding)
            findings += more
    if settings.max_train_samples:
        labels = column(labelled, "label").to_numpy()
        kept = stratified_choice(labels, settings.max_train_samples, seed=job.members[0].get("seed"))
        labelled = corpus.renumbered(labelled.select(kept))
    if test is not None and settings.max_predict_samples:
        test = corpus.renumbered(test.select(range(min(settings.max_predict_samples, len(test)))))
    if test is None and any(member.get("pseudo_labels") for member in job.members):
        raise InputError("members with pseudo_labels need test tweets: --test_file, or a recipe without such members")
    seeds = sorted({member.get("fold_seed") for member in job.members})
    labelled = add_folds(labelled, settings.n_folds, seeds)
    return labelled, test, findings + corpus.cross_findings(labelled, test, seeds)


def content_hashes(labelled: Dataset, test: Dataset | None) -> dict[str, str | None]:
    return {"labelled": corpus.content_hash(labelled), "test": test and corpus.content_hash(test)}


def tell_states(job: Job, launch: Launch) -> None:
    """Shows what is done, running, failed and missing, without a look at the tweets."""
    if launch.speaks:
        folder = job.output_dir
        plan = read_plan(folder)[0] if (folder / "plan.json").exists() else make_plan(job, {})
        wanted = wanted_of(plan.runs, job.settings)
        console.print(state_table(wanted))
        console.print(f"{len(wanted)} runs in {folder}: {state_summary(wanted)}", markup=False, soft_wrap=True)


def fetch(job: Job, launch: Launch) -> None:
    """Brings encoders and data set to this machine's cache, so that HF_HUB_OFFLINE=1 can be set afterwards."""
    if not launch.speaks:
        return
    for name in fetch_encoders(job.members):
        console.print(f"{name} is here", markup=False)
    labelled, test, _ = read_tweets(job)
    console.print(f"{len(labelled)} labelled tweets and {len(test or [])} test tweets can be read")


def claim(plan: Plan, job: Job, labelled: Dataset, findings: Sequence[corpus.Finding], launch: Launch) -> None:
    """Makes the folder this job's, and writes down the folds and what was odd about the tweets."""
    for notice in [*job.notices, *claim_folder(plan, job)]:
        tell(launch, f"note: {notice}")
    report_file = plan.output_dir / "data_report.json"
    once(plan.folds_file, lambda: write_folds(labelled, plan.folds_file))
    report = [finding._asdict() for finding in findings]
    once(report_file, lambda: write_json(report_file, report))
    names, counts = job.task.labels, np.bincount(column(labelled, "label").to_numpy(), minlength=job.task.n_classes)
    shares = ", ".join(f"{name}: {count}" for name, count in zip(names, counts, strict=True))
    tell(launch, f"{job.task.name}: {len(labelled)} labelled tweets ({shares})")
    for finding in findings:
        tell(launch, f"  {finding.where}: {finding.count or ''} {finding.what}".replace("  ", " ", 1))


def run_data(plan: Plan, job: Job, labelled: Dataset, test: Dataset | None) -> RunData:
    """Writes the tweets' tokens, from which the runs learn, and says where all that they need lies."""
    folder = plan.output_dir / "tokens"
    members = list({run.member.name: run.member for run in plan.wanted}.values())
    for part, tweets in (("labelled", labelled), ("test", test)):
        if tweets is not None:
            tokenise(folder, part, tweets, members)
    return RunData(
        task=job.task,
        folds_file=plan.folds_file,
        token_folder=folder,
        pseudo_folder=plan.output_dir / "pseudo_labels",
        has_test=test is not None,
        max_eval_samples=job.settings.max_eval_samples,
        keep_models=job.settings.keep_models,
        keep_models_in=job.settings.keep_models_in,
        save_minutes=job.settings.save_minutes,
    )


def job_progress(runs: Sequence[Run], costs: Mapping[str, float], job: Job, launch: Launch) -> JobProgress:
    return JobProgress(runs, costs, job.task.measure, quiet=not launch.speaks)


def train_stage(
    stage: int, plan: Plan, job: Job, data: RunData, crew: dispatch.Crew | dispatch.Together, progress: JobProgress
) -> None:
    """Has the stage's runs trained that are wanted and missing, by whichever workers share the folder."""
    runs = [run for run in plan.wanted if run.stage == stage]
    if stage == 2 and (unready := [run for run in runs if not data.is_ready(run) and not run.is_done()]):
        missing = [run for run in teacher_runs(plan, job) if not run.is_done()]
        if any(given_up(run) for run in missing):
            return
        raise InputError(
            f"{unready[0].member.name} needs pseudo labels, and {len(missing)} runs of their teachers are missing "
            f"({missing[0].name}, ...); run the command without --members and --folds"
        )
    crew.finish(runs, progress.look)
    for member in {run.member.name for run in runs if job.settings.keep_models == "best"}:
        keep_best_model(plan.runs_of([member]))


def teacher_runs(plan: Plan, job: Job) -> list[Run]:
    """The runs whose vote labels the pseudo tweets; the paper's result-A."""
    teachers = job.settings.pseudo_teachers
    return plan.runs_of(teachers) if teachers else [run for run in plan.runs if run.stage == 1]


def vote_stage(stage: int, plan: Plan, job: Job, labelled: Dataset, test: Dataset | None) -> None:
    """Votes on the test tweets where all voters are done: after stage 1 for pseudo labels, after stage 2 for good."""
    runs = teacher_runs(plan, job) if stage == 1 else plan.runs
    pseudo_runs = [run for run in plan.runs if run.stage == 2]
    if test is None or not all(run.is_done() for run in runs) or (stage == 1 and not pseudo_runs):
        return
    votes = plan.output_dir / "votes" / ("stage1.tsv" if stage == 1 else "final.tsv")
    once(votes, lambda: elect(runs, job, votes))
    elected = read_labels(votes)
    if stage == 1:
        for seed in sorted({run.member.get("fold_seed") for run in pseudo_runs}):
            folder = pseudo.part_file(plan.output_dir / "pseudo_labels", seed, 0).parent
            once(folder, lambda folder=folder, seed=seed: label_test_tweets(folder, seed, elected, job, labelled, test))
    else:
        path = plan.output_dir / "submission" / f"{Path(job.task.submission.file).stem}.zip"
        submission, labels = job.task.submission, elected.labels.to_pylist()
        once(path, lambda: write_submission(path, submission, elected.ids, labels))


def elect(runs: Sequence[Run], job: Job, votes: Path) -> None:
    ballots = test_ballots(runs)
    write_labels(votes, ballots.ids, ballots.names(ballots.vote(job.settings.vote, job.settings.ties)))


def label_test_tweets(folder: Path, fold_seed: int, elected, job: Job, labelled: Dataset, test: Dataset) -> None:
    """Writes each fold's pseudo-labelled tweets; the folder appears when it is whole."""
    settings = job.settings
    parts = pseudo.cut_parts(len(test), settings.pseudo_fraction, settings.n_folds, settings.pseudo_seed)
    held_out = pseudo.keys_by_fold(labelled, fold_seed, settings.n_folds)
    partial = folder.with_name(f".{folder.name}.partial")
    pseudo.write_parts(partial, test, elected.indices(job.task.labels), job.task, parts, held_out)
    partial.rename(folder)


def tell_results(plan: Plan, job: Job, labelled: Dataset, gold: np.ndarray | None, launch: Launch) -> None:
    """Writes scores.json and shows it as the last table, with where everything lies."""
    if not launch.speaks:
        return
    missing = [run for run in plan.runs if not run.is_done()]
    if missing:
        console.print(
            f"{len(missing)} of {len(plan.runs)} runs are missing, so there is no final vote yet", markup=False
        )
    members = [name for name in plan.members if all(run.is_done() for run in plan.runs_of([name]))]
    if not members:
        return
    scores = all_scores(plan, job, labelled, gold, members)
    write_json(plan.output_dir / "scores.json", scores)
    rows = [(name, [score["out_of_fold"], score["test"]]) for name, score in scores.items()]
    title = f"\n{job.task.name}: {job.task.measure} of {', '.join(job.task.positive)}, 95 % bootstrap intervals"
    console.print(score_table(title, job.task.measure, ["out of fold", "test"], rows))
    if any(member.get("pseudo_labels") for member in job.members):
        console.print("* trained on pseudo labels by teachers that saw the held-out tweets: out of fold, it flatters")
    idle = [name for name, score in scores.items() if score["out_of_fold"]["recall"] == 0]
    if idle:
        console.print(
            f"found no {' or '.join(job.task.positive)} at all: {', '.join(idle)}; more labelled tweets, "
            "more epochs or a higher learning rate may help",
            markup=False,
        )
    console.print()
    for path, what in places(plan):
        console.print(f"{plan.output_dir / path}  {what}", markup=False, soft_wrap=True)


def all_scores(
    plan: Plan, job: Job, labelled: Dataset, test_gold: np.ndarray | None, members: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Out-of-fold and test scores of each member and of the votes; None where there is nothing to score by."""
    gold = column(labelled, "label").to_numpy()
    flattered = {run.member.name for run in plan.runs if run.stage == 2}
    teachers = list(dict.fromkeys(run.member.name for run in teacher_runs(plan, job)))
    electorates = {"stage-1 vote": teachers} if flattered else {}
    electorates["final vote"] = plan.members
    scores: dict[str, dict[str, Any]] = {}

    def take(part: str, ballots: Ballots, truth: np.ndarray | None) -> None:
        for voter, choice in zip(ballots.voters, ballots.choices, strict=True):
            name = f"{voter} *" if voter in flattered else voter
            scores.setdefault(name, {"out_of_fold": None, "test": None})
            scores[name][part] = None if truth is None else job.task.score(truth, choice)

    take("out_of_fold", held_out_ballots(plan.runs_of(members)), gold)
    if test_gold is not None:
        take("test", test_ballots(plan.runs_of(members)), test_gold)
    for name, voters in electorates.items():
        if set(voters) <= set(members):
            runs = plan.runs_of(voters)
            row = f"{name} *" if flattered & set(voters) else name
            scores[row] = {"out_of_fold": vote_score(held_out_ballots(runs), gold, job), "test": None}
            if test_gold is not None:
                scores[row]["test"] = vote_score(test_ballots(runs), test_gold, job)
    return scores


def vote_score(ballots: Ballots, gold: np.ndarray, job: Job) -> dict[str, Any]:
    elected = ballots.vote(job.settings.vote, job.settings.ties)
    return ensemble.score_votes(ballots, elected, gold, job.task)[-1][1]


def read_gold(job: Job, test: Dataset | None) -> np.ndarray | None:
    """The test tweets' right labels (n_tweets,), where a gold file is there; nothing but the last table uses them."""
    path = None if job.settings.dataset_name else input_files(job)[2]
    if path is None or test is None:
        return None
    gold = read_labels(path)
    n_tweets = len(test)
    if job.settings.max_predict_samples and n_tweets < len(gold.ids):
        gold = gold.first(n_tweets)
    check_same_tweets(gold, column(test, "id"), "the test file")
    return gold.indices(job.task.labels)


def places(plan: Plan) -> list[tuple[str, str]]:
    """What lies where in the output folder, of what there is."""
    known = [
        ("scores.json", "this table"),
        ("data_report.json", "what was odd about the tweets"),
        ("folds.parquet", "which fold holds which tweet out"),
        (f"{plan.members[0]}/fold-0/", "one run: model, held-out and test probabilities, metrics"),
        ("votes/stage1.tsv", "vote of the teachers"),
        ("pseudo_labels/", "test tweets with voted labels, a part for each fold"),
        ("votes/final.tsv", "vote of all members"),
    ]
    known += [(f"submission/{path.name}", "what to submit") for path in (plan.output_dir / "submission").glob("*.zip")]
    return [(path, what) for path, what in known if (plan.output_dir / path).exists()]


if __name__ == "__main__":
    run_main(main)
