"""Trains the runs of a recipe (members x folds) on a task, votes, and writes the submission: one command for all of it.

accelerate launch run_classification.py recipes/smm4h2020.yaml --task tasks/task5.yaml \\
    --data_dir DIR --output_dir runs/task5

The same command again does only what is missing.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from smm4h import corpus, dispatch, recipe
from smm4h.appraisal import Fitting
from smm4h.arrow import column
from smm4h.attempts import given_up
from smm4h.ballots import Ballots, held_out_ballots, predicted_ballots
from smm4h.claims import once
from smm4h.errors import InputError, run_main
from smm4h.files import write_json
from smm4h.folds import add_folds, stratified_choice, write_folds
from smm4h.label_problems import write_label_problems
from smm4h.labels import check_same_tweets, read_labels, write_labels, write_submission
from smm4h.launch import Launch, join
from smm4h.out_of_fold import write_out_of_fold
from smm4h.plan import Plan, Run, claim_folder, make_plan, read_plan, wanted_of
from smm4h.progress import JobProgress, console, counts_table, score_table, show_appraisal, state_summary, state_table
from smm4h.recipe import Job, teachers_of
from smm4h.runs import RunData, keep_best_model
from smm4h.standings import Ensemble, Standings, fit_ensemble, write_ensemble
from smm4h.teaching import Teaching, counts_of
from smm4h.tokens import fetch_encoders, tokenise
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
    tweets = read_tweets(job)
    plan = make_plan(job, tweets.content_hashes())
    claim(plan, job, tweets, launch)
    data = run_data(plan, job, tweets)
    gold = read_gold(job, tweets.test)
    costs = dispatch.costs_of(plan.wanted, data)
    runs = dispatch.longest_first(plan.wanted, costs)
    with dispatch.crew(launch, job, runs, data) as crew, job_progress(runs, costs, job, launch) as progress:
        for stage in job.stages:
            train_stage(stage, plan, job, data, crew, progress)
            teach(stage + 1, plan, job, tweets, launch)
        elect(plan, job, tweets)
    tell_results(plan, job, tweets, gold, launch)
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


@dataclass(frozen=True)
class Tweets:
    """A job's tweets: the labelled ones with their fold columns, those to predict, and those to be pseudo-labelled."""

    labelled: Dataset
    test: Dataset | None
    unlabelled: Dataset | None
    findings: list[corpus.Finding]  # what was odd about any of them

    @property
    def pool(self) -> Dataset | None:
        """Where pseudo-labelled tweets come from."""
        return self.test if self.unlabelled is None else self.unlabelled

    @property
    def gold(self) -> np.ndarray:
        """Class indices (n_tweets,) of the labelled ones."""
        return column(self.labelled, "label").to_numpy()

    def content_hashes(self) -> dict[str, str | None]:
        hashes = {"labelled": corpus.content_hash(self.labelled), "test": self.test and corpus.content_hash(self.test)}
        if self.unlabelled is not None:
            hashes["unlabelled"] = corpus.content_hash(self.unlabelled)
        return hashes


def read_tweets(job: Job) -> Tweets:
    """Reads all files, or the data set of the Hub, and cuts the folds."""
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
        test, more = read_unlabelled(test_file, job)
        findings += more
    unlabelled, more = read_unlabelled(settings.unlabelled_file, job)
    findings += more
    if settings.max_train_samples:
        labels = column(labelled, "label").to_numpy()
        kept = stratified_choice(labels, settings.max_train_samples, seed=job.members[0].get("seed"))
        labelled = corpus.renumbered(labelled.select(kept))
    if test is not None and settings.max_predict_samples:
        test = corpus.renumbered(test.select(range(min(settings.max_predict_samples, len(test)))))
    if test is None and unlabelled is None and any(member.get("pseudo_labels") for member in job.members):
        raise InputError(
            "members with pseudo_labels need unlabelled tweets: --test_file or --unlabelled_file, or a recipe without "
            "such members"
        )
    seeds = sorted({member.get("fold_seed") for member in job.members})
    is_grouped = settings.fold_by == "stratified_group"
    groups = corpus.leak_groups(labelled, job.task, by_user=settings.group_users) if is_grouped else None
    labelled = add_folds(labelled, settings.n_folds, seeds, groups)
    return Tweets(labelled, test, unlabelled, findings + corpus.cross_findings(labelled, test, seeds, job.task))


def read_unlabelled(path: str | Path | None, job: Job) -> tuple[Dataset | None, list[corpus.Finding]]:
    if not path:
        return None, []
    return corpus.read_tweets([path], job.task, labelled=False, encoding=job.settings.encoding)


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
    tweets = read_tweets(job)
    console.print(f"{len(tweets.labelled)} labelled tweets and {len(tweets.test or [])} test tweets can be read")


def claim(plan: Plan, job: Job, tweets: Tweets, launch: Launch) -> None:
    """Makes the folder this job's, and writes down the folds and what was odd about the tweets."""
    labelled, findings = tweets.labelled, tweets.findings
    for notice in [*job.notices, *claim_folder(plan, job, len(tweets.unlabelled or []))]:
        tell(launch, f"note: {notice}")
    report_file = plan.output_dir / "data_report.json"
    once(plan.folds_file, lambda: write_folds(labelled, plan.folds_file))
    report = [finding._asdict() for finding in findings]
    once(report_file, lambda: write_json(report_file, report))
    names, counts = job.task.labels, np.bincount(tweets.gold, minlength=job.task.n_classes)
    shares = ", ".join(f"{name}: {count}" for name, count in zip(names, counts, strict=True))
    tell(launch, f"{job.task.name}: {len(labelled)} labelled tweets ({shares})")
    for finding in findings:
        tell(launch, f"  {finding.where}: {finding.count or ''} {finding.what}".replace("  ", " ", 1))


def run_data(plan: Plan, job: Job, tweets: Tweets) -> RunData:
    """Writes the tweets' tokens, from which the runs learn, and says where all that they need lies."""
    folder = plan.output_dir / "tokens"
    members = list({run.member.name: run.member for run in plan.wanted}.values())
    for part in ("labelled", "test", "unlabelled"):
        if (table := getattr(tweets, part)) is not None:
            tokenise(folder, part, table, members)
    taught = [stage for stage in job.stages if stage > 1]
    return RunData(
        task=job.task,
        folds_file=plan.folds_file,
        token_folder=folder,
        pseudo_folder=plan.output_dir / "pseudo_labels",
        has_test=tweets.test is not None,
        pool="test" if tweets.unlabelled is None else "unlabelled",
        teachers=frozenset(m.name for stage in taught for m in teachers_of(job.settings, job.members, stage)),
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
    if unready := [run for run in runs if not data.is_ready(run) and not run.is_done()]:
        missing = [run for run in teacher_runs(stage, plan, job) if not run.is_done()]
        if any(given_up(run) for run in missing):
            return
        raise InputError(
            f"{unready[0].member.name} needs pseudo labels, and {len(missing)} runs of their teachers are missing "
            f"({missing[0].name}, ...); run the command without --members and --folds"
        )
    crew.finish(runs, progress.look)
    for member in {run.member.name for run in runs if job.settings.keep_models == "best"}:
        keep_best_model(plan.runs_of([member]))


def teacher_runs(stage: int, plan: Plan, job: Job) -> list[Run]:
    """The runs whose word labels the pseudo tweets of a stage; of the second one, the paper's result-A."""
    return plan.runs_of(member.name for member in teachers_of(job.settings, job.members, stage))


def fitting_of(job: Job) -> Fitting:
    return Fitting(job.task.aim, job.settings.vote, job.settings.decision, job.settings.ties)


def teach(stage: int, plan: Plan, job: Job, tweets: Tweets, launch: Launch) -> None:
    """Labels the tweets that a stage's runs learn from besides the labelled ones, once all its teachers are done."""
    runs, teachers = [run for run in plan.runs if run.stage == stage], teacher_runs(stage, plan, job)
    if not runs or not all(run.is_done() for run in teachers):
        return
    fitting = fitting_of(job)

    def vote(part: str) -> tuple[Ballots, np.ndarray]:
        """The teachers' ballots on the test tweets, or on the `unlabelled` ones, and the elected classes."""
        ensemble, _ = fit_ensemble(held_out_ballots(teachers), tweets.gold, fitting, job.task)
        ballots = predicted_ballots(teachers, part, fitting.mean)
        return ballots, ensemble.for_means(teachers, part).choose(ballots)

    if tweets.test is not None:
        votes = plan.output_dir / "votes" / f"stage{stage - 1}.tsv"
        once(votes, lambda: write_vote(votes, *vote("test")))
    teaching = Teaching(job.settings, job.task, tweets.labelled, tweets.pool, teachers, vote)
    for seed in sorted({run.member.get("fold_seed") for run in runs}):
        folder = plan.output_dir / "pseudo_labels"
        if teaching.write(folder, stage, seed) and launch.speaks:
            console.print(counts_table(f"pseudo labels, folds of seed {seed}", counts_of(folder, stage, seed)))


def write_vote(path: Path, ballots: Ballots, elected: np.ndarray) -> None:
    write_labels(path, ballots.ids, ballots.names(elected))


def elect(plan: Plan, job: Job, tweets: Tweets) -> None:
    """Once all runs are done: the out-of-fold table, the ensemble's rule, doubtful labels, vote and submission."""
    if not all(run.is_done() for run in plan.runs):
        return
    table, fitting = plan.out_of_fold_file, fitting_of(job)
    once(table, lambda: write_out_of_fold(table, held_out_ballots(plan.runs), tweets.gold))
    once(plan.ensemble_file, lambda: write_ensemble(plan, fitting, job.task, has_test=tweets.test is not None))
    problems = plan.output_dir / "label_problems.tsv"
    once(problems, lambda: write_label_problems(problems, table, tweets.labelled))
    if tweets.test is None:
        return
    votes = plan.output_dir / "votes" / "final.tsv"

    def vote() -> None:
        ballots = predicted_ballots(plan.runs, mean=fitting.mean)
        write_vote(votes, ballots, Ensemble.read(plan.ensemble_file).choose(ballots))

    once(votes, vote)
    elected = read_labels(votes)
    path = plan.output_dir / "submission" / f"{Path(job.task.submission.file).stem}.zip"
    once(path, lambda: write_submission(path, job.task.submission, elected.ids, elected.labels.to_pylist()))


def tell_results(plan: Plan, job: Job, tweets: Tweets, gold: np.ndarray | None, launch: Launch) -> None:
    """Writes scores.json and appraisal.json and shows them, with where everything lies."""
    if not launch.speaks:
        return
    missing = [run for run in plan.runs if not run.is_done()]
    if missing:
        tell(launch, f"{len(missing)} of {len(plan.runs)} runs are missing, so there is no final vote yet")
    members = [name for name in plan.members if all(run.is_done() for run in plan.runs_of([name]))]
    if not members:
        return
    standings = Standings(plan, fitting_of(job), job.task, tweets.gold, gold)
    standings.add_members(members)
    electorates = {f"stage-{stage - 1} vote": teacher_runs(stage, plan, job) for stage in job.stages if stage > 1}
    electorates["final vote"] = plan.runs
    for name, runs in electorates.items():
        if all(run.is_done() for run in runs):
            standings.add_vote(name, runs, fitting_of(job))
    baselines = standings.add_baselines()
    flattered = flattered_rows(plan, job, electorates)
    write_json(plan.output_dir / "scores.json", {flattered.get(k, k): v for k, v in standings.scores.items()})
    show_scores(standings, flattered, job)
    if not missing:
        seeds = sorted({member.get("fold_seed") for member in job.members})
        appraisal = standings.appraise("final vote", baselines, corpus.across_folds(tweets.labelled, seeds))
        write_json(plan.output_dir / "appraisal.json", appraisal)
        show_appraisal(appraisal, job.task.measure)
    console.print()
    for path, what in places(plan):
        console.print(f"{plan.output_dir / path}  {what}", markup=False, soft_wrap=True)


def flattered_rows(plan: Plan, job: Job, electorates: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """The names, marked, of members and votes whose teachers saw the held-out tweets."""
    if job.settings.pseudo_from == "unseen":
        return {}
    members = {run.member.name for run in plan.runs if run.stage > 1}
    votes = {name for name, runs in electorates.items() if members & {run.member.name for run in runs}}
    return {name: f"{name} *" for name in members | votes}


def show_scores(standings: Standings, flattered: Mapping[str, str], job: Job) -> None:
    task, scores = job.task, standings.scores
    rows = [(flattered.get(name, name), [score["out_of_fold"], score["test"]]) for name, score in scores.items()]
    title = f"\n{task.name}: {task.measure} of {', '.join(task.positive)}, 95 % bootstrap intervals"
    console.print(score_table(title, task.measure, ["out of fold", "test"], rows))
    if flattered:
        console.print("* trained on pseudo labels by teachers that saw the held-out tweets: out of fold, it flatters")
    idle = [name for name, score in scores.items() if score["out_of_fold"]["recall"] == 0]
    if idle:
        console.print(
            f"found no {' or '.join(task.positive)} at all: {', '.join(idle)}; more labelled tweets, more epochs, a "
            "higher learning rate or --decision tuned may help",
            markup=False,
        )


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
        ("baselines/", "what the vote is to beat, on the same folds"),
        ("out_of_fold.parquet", "each member's probabilities of each labelled tweet, held out"),
        ("ensemble.json", "how the members' probabilities become a label"),
        ("appraisal.json", "what the vote gains, member by member, and over baselines"),
        ("label_problems.tsv", "labelled tweets whose label the members contradict"),
        ("votes/stage1.tsv", "vote of the teachers"),
        ("pseudo_labels/", "tweets with voted labels, a part for each fold"),
        ("votes/final.tsv", "vote of all members"),
    ]
    known += [(f"submission/{path.name}", "what to submit") for path in (plan.output_dir / "submission").glob("*.zip")]
    return [(path, what) for path, what in known if (plan.output_dir / path).exists()]


if __name__ == "__main__":
    run_main(main)
