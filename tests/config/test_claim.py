"""An output folder is claimed by one job, in one act."""

import multiprocessing
import os
import sys
from dataclasses import replace

import pytest
from conftest import job_words

from smm4h.config.claim import lock_output_dir
from smm4h.config.plans.identity import identity_hash
from smm4h.config.plans.plan import make_plan
from smm4h.config.recipe import read_command_line
from smm4h.training.run_data import RunData
from smm4h.utils.errors import InputError
from smm4h.utils.leases import lease_file_of

HASHES = {"labelled": "a" * 64, "test": None}
TRIALS, STARTS = 8, 4


def job_of(encoder, output, epochs=1):
    return read_command_line(job_words(encoder, output, num_train_epochs=epochs))


def claim_again_and_again(encoder, folder, epochs, barrier, answers):
    """Claim one folder after the other at the instant at which other processes do; answer with what came of it."""
    job = job_of(encoder, folder, epochs)
    for trial in range(TRIALS):
        own = replace(job, output_dir=folder / str(trial))
        plan = make_plan(own, HASHES)
        barrier.wait(60)
        try:
            with lock_output_dir(plan, own, 0):
                answers.put((trial, epochs, "has it"))
                barrier.wait(60)
        except InputError as error:
            answers.put((trial, epochs, str(error)))
            barrier.wait(60)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_of_two_recipes_started_at_one_instant_exactly_one_has_the_folder(tiny_encoder, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(STARTS), context.Queue()
    processes = [
        context.Process(target=claim_again_and_again, args=(tiny_encoder, tmp_path, 1 + i % 2, barrier, answers))
        for i in range(STARTS)
    ]
    for process in processes:
        process.start()
    given = [answers.get(timeout=60) for _ in range(TRIALS * STARTS)]
    for process in processes:
        process.join()
    for trial in range(TRIALS):
        owners = {epochs for number, epochs, answer in given if number == trial and answer == "has it"}
        refused = {epochs: answer for number, epochs, answer in given if number == trial and answer != "has it"}
        assert len(owners) == 1
        assert set(refused) == {1, 2} - owners
        assert all("was made with another recipe" in answer for answer in refused.values())


def test_a_plan_is_claimed_where_there_are_no_hard_links(tiny_encoder, tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    job = job_of(tiny_encoder, tmp_path / "out")
    plan = make_plan(job, HASHES)
    with lock_output_dir(plan, job, 0):
        assert plan.plan_file.is_file()
    assert [path.name for path in plan.output_dir.iterdir()] == ["plan.json"]


def test_a_damaged_plan_is_made_again_unless_the_runs_are_of_another(tiny_encoder, tmp_path):
    job, other = job_of(tiny_encoder, tmp_path), job_of(tiny_encoder, tmp_path, epochs=2)
    plan = make_plan(job, HASHES)
    with lock_output_dir(plan, job, 0):
        run = plan.runs[0]
    run.directory.mkdir(parents=True)
    run.done_file.write_text(f'{{"fingerprint": "{run.fingerprint}"}}')
    whole = plan.plan_file.read_bytes()
    for damaged in (b"", whole[:100], whole.replace(b"0.0004", b"0.0005")):
        plan.plan_file.write_bytes(damaged)
        refused = pytest.raises(InputError, match=r"is damaged, and .*DONE is of another recipe")
        with refused, lock_output_dir(make_plan(other, HASHES), other, 0):
            pass
        with lock_output_dir(plan, job, 0) as notices:
            assert notices[0] == f"{plan.plan_file} was damaged and is made again"
        assert plan.plan_file.read_bytes() == whole


def test_a_job_that_was_stopped_while_another_took_its_folder_ends_with_a_sentence(tiny_encoder, tmp_path):
    job, other = job_of(tiny_encoder, tmp_path), job_of(tiny_encoder, tmp_path, epochs=2)
    plan, others_plan = make_plan(job, HASHES), make_plan(other, HASHES)
    paths = dict.fromkeys(("folds_file", "token_folder", "pseudo_folder"), tmp_path)
    identity = identity_hash(plan.identity)
    data = RunData(task=job.task, has_test=False, plan_file=plan.plan_file, identity=identity, **paths)
    with lock_output_dir(plan, job, 0):
        data.check_claimed()
        lease_file_of(plan.plan_file).unlink()  # it lapsed
        with lock_output_dir(others_plan, other, 0) as notices:
            assert "it is begun anew" in notices[0]
            with pytest.raises(InputError, match="was taken over by a job of another recipe, task or data"):
                data.check_claimed()


def test_a_second_job_of_the_same_plan_shares_the_folder(tiny_encoder, tmp_path):
    job = job_of(tiny_encoder, tmp_path)
    plan = make_plan(job, HASHES)
    with lock_output_dir(plan, job, 0), lock_output_dir(plan, job, 0) as notices:
        assert notices == []


def test_runs_of_another_version_are_said(tiny_encoder, tmp_path):
    job = job_of(tiny_encoder, tmp_path)
    plan = make_plan(job, HASHES)
    with lock_output_dir(plan, job, 0):
        for run, version in zip(plan.runs, ('"smm4h": "0.1.9+ab", ', ""), strict=False):
            run.directory.mkdir(parents=True)
            run.done_file.write_text(f'{{{version}"fingerprint": "{run.fingerprint}"}}')
    with lock_output_dir(plan, job, 0) as notices:
        assert notices[0].startswith("1 of 2 runs that are done were made by smm4h 0.1.9+ab; this is 0.")
        assert notices[1].startswith("1 of 2 runs that are done were made by smm4h an earlier version; this is 0.")
