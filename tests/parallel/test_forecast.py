"""The forecast: a probe in processes of its own, sizes, schedule, and what a time limit leaves out."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest
from conftest import job_words, recipe_of

from smm4h.cli import train
from smm4h.cli.train_job import fitting_on_gpus
from smm4h.config.plans.plan import make_plan
from smm4h.config.recipe import read_command_line
from smm4h.data.splits import load_splits
from smm4h.parallel.environment import LaunchEnvironment
from smm4h.parallel.forecast import forecast as module
from smm4h.parallel.forecast.costs import Measured, fit_seconds, kind_of_cost, kind_of_run
from smm4h.parallel.forecast.forecast import Forecaster, Workers, makespan, shortages
from smm4h.parallel.forecast.limit import planned_within, smaller_jobs, within_time_limit
from smm4h.parallel.forecast.size import JobSize, planned_steps
from smm4h.training.building.run_trainer import make_trainer
from smm4h.training.run_data import training_part
from smm4h.utils.errors import InputError

MEASURED = Measured(1.0, 0.5, 0.001, 0.5, 40_000_000, 100_000_000, fits=((100, 1.0), (200, 2.0)))


@pytest.fixture
def paper_job(tiny_encoder, tmp_path):
    return read_command_line(job_words(tiny_encoder, tmp_path / "out", runs_per_device=1))


@pytest.fixture
def splits(paper_job):
    return load_splits(paper_job)


def plan_of(job, splits):
    return make_plan(job, splits.content_hashes(), splits.outside_hashes())


def forecaster_of(job, splits, **measured) -> Forecaster:
    """A forecaster by costs that are given, the same for each kind, on one device."""
    kinds = {kind_of_cost(run.member, is_baseline=run.is_baseline) for run in plan_of(job, splits).wanted}
    n_workers = job.settings.runs_per_device
    workers = Workers(n_workers, 1, [None] * n_workers, 1)
    return Forecaster(JobSize.of_job(job, splits), workers, dict.fromkeys(kinds, replace(MEASURED, **measured)), 0.0)


@pytest.mark.parametrize(
    "flags",
    [
        {"num_train_epochs": 3, "per_device_train_batch_size": 7, "gradient_accumulation_steps": 2},
        {"negatives_per_positive": 1, "min_steps": 40},
    ],
    ids=str,
)
def test_steps_are_those_that_the_trainer_plans(prepare_job, tmp_path, tiny_encoder, flags):
    prepared = prepare_job(**flags)
    run = prepared.runs[0]
    part = training_part(run, prepared.data, None)
    trainer = make_trainer(run, prepared.data, tmp_path / "own", part, lambda step, steps: None, lambda: False)
    n_batches = len(trainer.get_train_dataloader())
    planned = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1]
    job = read_command_line(job_words(tiny_encoder, tmp_path / "out", **flags))
    size = JobSize.of_job(job, load_splits(job))
    steps, _ = planned_steps(run.member, size.shown_tweets(run.member, is_refit=False))
    assert n_batches > 0
    assert abs(steps - planned) <= 1


def test_runs_go_to_the_next_free_worker_stage_by_stage(paper_job, splits):
    runs = plan_of(paper_job, splits).runs
    seconds = {run.name: 1.0 for run in runs}
    assert makespan(runs, seconds, 1) == 45
    assert makespan(runs, seconds, 2) == 18 + 5  # 35 runs of stage 1, 10 of stage 2
    assert makespan(runs, seconds, 100) == 2


def test_fits_are_carried_on_by_their_power_law_within_bounds():
    assert fit_seconds([(100, 1.0), (200, 2.0)], 400) == pytest.approx(4.0)
    assert fit_seconds([(100, 1.0), (200, 1.0)], 400) == pytest.approx(2**0.7)
    assert fit_seconds([(100, 0.01), (200, 1.0)], 400) == pytest.approx(2**1.5)
    assert fit_seconds([(100, 1.0)], 50) == pytest.approx(0.5)


def test_folds_go_first_then_members_from_the_last_one_and_teachers_stay_with_their_learners(paper_job):
    jobs = list(smaller_jobs(paper_job))
    assert [job.settings.n_folds for job in jobs[:4]] == [5, 4, 3, 3]
    names = [[member.name for member in job.members] for job in jobs[2:]]
    gone = [set(before) - set(after) for before, after in itertools.pairwise(names)]
    assert [name for names in gone for name in names] == [
        *("last3-pooler-42", "last2-pooler-clean-pseudo", "bigru-clean-pseudo", "last2-pooler-clean"),
        *("last2-pooler-24", "bigru-24", "last3-42", "last2-pooler-42"),
    ]
    assert [member.name for member in jobs[-1].members] == ["bigru-42"]


def test_the_largest_job_within_the_limit_is_planned_and_a_limit_too_short_is_refused(paper_job, splits):
    forecaster = forecaster_of(paper_job, splits)
    whole = forecaster.forecast(plan_of(paper_job, splits), paper_job)
    for share, n_folds in ((1.01, 5), (0.99, 4), (0.5, 3)):
        job = replace(paper_job, settings=replace(paper_job.settings, time_limit=f"{whole.seconds * share:.0f}s"))
        planned, forecast = planned_within(job, splits, forecaster)
        assert planned.settings.n_folds == n_folds
        assert forecast.seconds <= round(whole.seconds * share)
    job = replace(paper_job, settings=replace(paper_job.settings, time_limit="1s"))
    with pytest.raises(InputError, match="3 folds of bigru-42 alone"):
        planned_within(job, splits, forecaster)


def test_kept_models_and_checkpoints_are_counted(paper_job, splits):
    def forecast(**settings):
        job = replace(paper_job, settings=replace(paper_job.settings, **settings))
        return forecaster_of(job, splits, step=100.0).forecast(plan_of(job, splits), job)

    every, best, none = (forecast(keep_models=kept) for kept in ("all", "best", "none"))
    assert every.disk - none.disk == pytest.approx(45 * MEASURED.model_bytes)
    assert best.disk - none.disk == pytest.approx(9 * MEASURED.model_bytes)
    half = forecast(keep_models_in="bfloat16")
    assert half.disk - none.disk == pytest.approx(45 * MEASURED.model_bytes / 2)
    assert every.disk_meanwhile == 4 * MEASURED.model_bytes  # weights, best ones, and two moments
    assert forecast(save_minutes=0).disk_meanwhile == MEASURED.model_bytes


def test_no_more_runs_at_a_time_than_a_gpu_holds(paper_job, splits, tmp_path):
    def trained_at_a_time(runs, streams, gpu_total) -> tuple[tuple[int, int], str]:
        asked = replace(paper_job.settings, runs_per_device=runs, streams_per_device=streams)
        job = replace(paper_job, settings=asked)
        of_gpu = {"gpu_memory": 5_000_000_000, "gpu_total": gpu_total}
        forecast = forecaster_of(job, splits, **of_gpu).forecast(plan_of(job, splits), job)
        fitting = fitting_on_gpus(job, forecast).settings
        notes = [line for line in shortages(forecast, tmp_path) if "GPU" in line]
        return (fitting.runs_per_device, fitting.streams_per_device), "".join(notes)

    def forecast_of(runs, gpu_total) -> str:
        job = replace(paper_job, settings=replace(paper_job.settings, runs_per_device=runs))
        of_gpu = {"gpu_memory": 5_000_000_000, "gpu_total": gpu_total}
        return str(forecaster_of(job, splits, **of_gpu).forecast(plan_of(job, splits), job))

    assert forecast_of(4, 12_000_000_000) == forecast_of(2, 80_000_000_000)
    assert trained_at_a_time(3, 2, 80_000_000_000) == ((3, 2), "")
    assert trained_at_a_time(3, 2, 24_000_000_000) == (
        (3, 1),
        "a GPU has 24 GB of memory, and 6 runs at a time would take more than 90% of it; at most 4 are trained on it "
        "(--runs_per_device, --streams_per_device)",
    )
    assert trained_at_a_time(4, 1, 12_000_000_000)[0] == (2, 1)
    assert trained_at_a_time(1, 8, 12_000_000_000)[0] == (1, 2)
    assert trained_at_a_time(2, 2, 4_000_000_000)[0] == (1, 1)  # its error comes from the run itself
    assert trained_at_a_time(2, 2, 0) == ((2, 2), "")


@pytest.mark.slow
def test_the_probe_measures_every_kind_and_leaves_nothing_behind(tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "QUICK", 0.0)
    rows = {"a": "{head: mean}", "b": "{head: last3}", "c": "{classifier: tfidf-svm}", "d": "{classifier: textcnn}"}
    flags = {"recipe": recipe_of(tmp_path, **rows), "max_train_samples": 200, "runs_per_device": 1}
    words = job_words(tiny_encoder, tmp_path / "out", **flags)
    job = read_command_line(words)
    splits = load_splits(job)
    plan = plan_of(job, splits)
    forecaster = Forecaster.of_job(plan, job, splits, LaunchEnvironment.detect())
    assert len(forecaster.measured) == 3  # both heads cost the same
    encoder = forecaster.measured[kind_of_cost(plan.runs[0].member, is_baseline=False)]
    assert min(encoder.step, encoder.prediction, encoder.finish, encoder.model_bytes) > 0
    forecast = forecaster.forecast(plan, job)
    assert forecast.was_measured
    assert 0 < forecast.seconds < 3600
    assert not (tmp_path / "out").exists()


def test_quantised_weights_are_measured_in_the_shortest_job_too(paper_job, splits, monkeypatch):
    """On a CPU bitsandbytes takes minutes where the guess says seconds."""
    probed = []
    monkeypatch.setattr(module, "probe", lambda runs, *_: probed.append(len(runs)) or {})
    plan, launch = plan_of(paper_job, splits), LaunchEnvironment.detect()
    Forecaster.of_job(plan, paper_job, splits, launch)
    assert probed == []
    plan.runs[-1].member.args.quantise = "4bit"
    Forecaster.of_job(plan, paper_job, splits, launch)
    assert probed == [len(plan.wanted)]


@pytest.mark.parametrize(
    ("row", "n_steps"),
    [
        ("{head: mean, max_steps: 20000}", 20_000),
        ("{head: mean, max_steps: 10000, gradient_accumulation_steps: 2}", 20_000),
        ("{head: mean, adapt: {epochs: 1600, batch_size: 8}}", 20_800),  # 13 batches of 100 texts
    ],
)
def test_many_steps_of_a_tiny_encoder_are_no_short_job(tiny_encoder, tmp_path, monkeypatch, row, n_steps):
    """Its operations are counted in seconds, and each of its steps takes some milliseconds beside them."""
    probed = []
    monkeypatch.setattr(module, "probe", lambda runs, *_: probed.append(len(runs)) or {})
    words = job_words(tiny_encoder, tmp_path / "out", recipe=recipe_of(tmp_path, a=row), n_folds=2, runs_per_device=1)
    job = read_command_line(words)
    splits = load_splits(job)
    plan = make_plan(job, *splits.hashes())
    forecaster = Forecaster.of_job(plan, job, splits, LaunchEnvironment.detect())
    assert probed == [len(plan.wanted)]
    assert forecaster.guess > 0.01 * n_steps


def test_with_a_limit_the_shortest_job_is_measured_too_and_made_smaller(paper_job, splits, monkeypatch):
    """The guess is of the whole job: by it, no fold and no member that is left out would save any time."""
    monkeypatch.setattr(module, "probe", lambda runs, *_: dict.fromkeys(map(kind_of_run, runs), MEASURED))
    plan, launch = plan_of(paper_job, splits), LaunchEnvironment.detect()
    assert not Forecaster.of_job(plan, paper_job, splits, launch).measured  # so short is it by the guess
    whole = forecaster_of(paper_job, splits).forecast(plan, paper_job)

    def limited_to(seconds):
        job = replace(paper_job, settings=replace(paper_job.settings, time_limit=f"{seconds:.0f}s"))
        return within_time_limit(job, splits, launch)[0]

    with pytest.raises(InputError, match=r"3 folds of bigru-42 alone are forecast to take about (5|10|15|20) s"):
        limited_to(1)
    assert limited_to(whole.seconds * 0.99).settings.n_folds == 4


def test_all_processes_of_a_launch_plan_the_same_job_and_so_do_those_of_a_resumed_one(paper_job, splits, monkeypatch):
    """Each would measure other costs: the main process chooses, and what it chose is kept."""
    job = replace(paper_job, settings=replace(paper_job.settings, time_limit="60s"))
    first = LaunchEnvironment.detect()
    launches = [replace(first, rank=rank, world_size=2, local_rank=rank, local_world_size=2) for rank in (1, 0)]
    budgets = []
    for step in (0.5, 50.0):  # the second time as a resumed job on a slower machine
        monkeypatch.setattr(
            Forecaster, "of_job", lambda plan, job, splits, launch, s=step: forecaster_of(job, splits, step=s)
        )
        with ThreadPoolExecutor(2) as pool:
            planned = [pool.submit(within_time_limit, job, splits, launch) for launch in launches]
            budgets += [limited.result(timeout=60)[0].budget for limited in planned]
    assert len(set(map(str, budgets))) == 1
    assert budgets[0].n_folds < 5


@pytest.mark.slow
def test_a_probe_changes_no_byte_of_a_job(tiny_encoder, tmp_path, call, monkeypatch):
    rows = {"a": "{head: mean, checkpoint: last}", "b": "{classifier: tfidf-svm}"}
    files = {}
    for name, quick in (("probed", 0.0), ("not", 1e9)):
        monkeypatch.setattr(module, "QUICK", quick)
        flags = {"recipe": recipe_of(tmp_path, **rows), "n_folds": 2, "baselines": "none"}
        result = call(train.main, *job_words(tiny_encoder, tmp_path / name, **flags))
        assert result.code == 0, result.err
        assert ("so short a job is not measured" in result.out) == (name == "not")
        paths = [*(tmp_path / name).glob("*/fold-*/*.parquet"), *(tmp_path / name).glob("*/fold-*/model/*")]
        paths += [tmp_path / name / "out_of_fold.parquet", tmp_path / name / "votes" / "final.tsv"]
        files[name] = {path.relative_to(tmp_path / name): path.read_bytes() for path in paths}
    assert len(files["not"]) > 10
    assert files["probed"] == files["not"]


@pytest.mark.slow
def test_a_limited_job_keeps_its_plan_and_holds_every_tweet_out_once(tiny_encoder, tmp_path, call, monkeypatch):
    """The forecast is replaced by given costs, so that a limit means the same on every machine."""
    monkeypatch.setattr(Forecaster, "of_job", lambda plan, job, splits, launch: forecaster_of(job, splits))
    rows = {"a": "{head: mean}", "b": "{head: last3}", "c": "{classifier: tfidf-svm}"}
    words = job_words(tiny_encoder, tmp_path / "out", recipe=recipe_of(tmp_path, **rows))
    result = call(train.main, *words, "--time_limit", "30s")
    assert result.code == 0, result.err
    text = " ".join(result.out.split())
    assert "3 folds in place of 5: every tweet is still held out once" in text
    assert "left out: b; trained: a, c" in text
    stored = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert stored["budget"]["time_limit"] == "30s"
    assert stored["budget"]["members"] == ["a", "c"]
    table = pd.read_parquet(tmp_path / "out" / "out_of_fold.parquet")
    assert len(table) == table["row"].nunique() == 60
    assert {path.parent.name for path in (tmp_path / "out" / "a").glob("*/DONE")} == {"fold-0", "fold-1", "fold-2"}
    monkeypatch.setattr(Forecaster, "of_job", lambda *given: pytest.fail("a resumed job is not planned anew"))
    before = (tmp_path / "out" / "plan.json").read_bytes()
    assert call(train.main, *words, "--time_limit", "0:00:30").code == 0
    assert (tmp_path / "out" / "plan.json").read_bytes() == before
    for flags, message in (((), "planned for --time_limit 30s"), (("--time_limit", "2h"), "--time_limit 2h is asked")):
        result = call(train.main, *words, *flags)
        assert result.code == 2
        assert message in " ".join(result.err.split())


def test_a_limit_is_refused_beside_single_folds_and_where_it_is_no_duration(tiny_encoder, tmp_path, call):
    words = job_words(tiny_encoder, tmp_path / "out")
    for flags, message in (
        (("--time_limit", "2h", "--folds", 0), "leave it out beside --folds"),
        (("--time_limit", "120"), "120 is no duration; write hours"),
    ):
        result = call(train.main, *words, *flags)
        assert result.code == 2
        assert message in " ".join(result.err.split())
        assert not (tmp_path / "out").exists()
