"""Every file of a job that is cut or changed is named, never used, and made again by the same command."""

import json

import pytest
from conftest import job_words, recipe_of

from smm4h.cli.predict import main as predict
from smm4h.cli.train import main
from smm4h.parallel.run_state import events, failures, log_event, try_again

MEMBERS = {
    "counts": "{classifier: tfidf-logistic}",
    "encoder": "{head: mean}",
    "learner": "{head: last3, pseudo_labels: true}",
}
LOGS = ("attempts.jsonl",)
RECORDS = ("DONE", "plan.json", "made.json")  # which hold the others' hashes
SECONDS = ("DONE", "report.html", "made.json", "plan.json", "encoders.json", *LOGS)  # may differ from time to time


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(bytes(content))


def files_of(folder):
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def contents_of(folder):
    return {name: path.read_bytes() for name, path in files_of(folder).items() if path.name not in SECONDS}


@pytest.mark.slow
def test_every_damaged_file_of_a_finished_job_is_named_and_made_again(tiny_encoder, tmp_path, call):
    output = tmp_path / "out"
    words = job_words(tiny_encoder, output, recipe=recipe_of(tmp_path, **MEMBERS), n_folds=2)
    result = call(main, *words)
    assert result.code == 0, result.err
    whole, verify = contents_of(output), ("--verify", "--output_dir", output)
    assert {"votes/final.tsv", "ensemble.json", "learner/fold-1/model/model.safetensors"} <= whole.keys()
    for damage, is_hit in ((cut, False), (flip, False), (empty, False), (flip, True)):
        hit = [path for path in files_of(output).values() if (path.name in RECORDS) == is_hit and path.name not in LOGS]
        for path in hit:
            damage(path)
        result = call(main, *verify)
        assert result.code in (1, 2)
        if not is_hit:
            assert result.err.startswith(f"error: {len(hit)} files in {output} are not as written")
            assert all(str(path) in result.out for path in hit)
            result = call(predict, output, words[0], "--output", tmp_path / "labels.tsv")
            assert result.code == 2
            assert not (tmp_path / "labels.tsv").exists()
        result = call(main, *words)
        assert result.code == 0, result.err
        assert contents_of(output) == whole
        result = call(main, *verify)
        assert result.code == 0, result.out
        assert "all files of 6 runs are as they were written" in result.out


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_that_lost_its_record_is_named(copied_job, call, is_finished):
    if not is_finished:  # killed before the vote
        (copied_job.folder / "ensemble.json").unlink()
    (copied_job.folder / "last3-42" / "fold-0" / "DONE").unlink()
    result = call(main, "--verify", "--output_dir", copied_job.folder)
    assert result.code == 1
    assert f"{copied_job.folder / 'last3-42' / 'fold-0' / 'DONE'} is gone" in result.out


def test_a_job_that_lost_its_records_of_derived_files_is_named_and_gets_them_again(copied_job, tmp_path, call):
    records, verify = copied_job.folder / "made.json", ("--verify", "--output_dir", copied_job.folder)
    listed = json.loads(records.read_text()).keys()
    records.unlink()
    result = call(main, *verify)
    assert result.code == 1
    assert f"{records} is gone" in result.out
    result = call(predict, copied_job.folder, copied_job.words[0], "--output", tmp_path / "labels.tsv")
    assert result.err.startswith(f"error: {records} is gone; give the job's command")
    assert call(main, *copied_job.words).code == 0
    assert json.loads(records.read_text()).keys() == listed
    assert call(main, *verify).code == 0


def test_a_job_whose_first_run_is_not_trained_yet_lacks_no_record(copied_job, call):
    made = (copied_job.folder / name for name in ("made.json", "ensemble.json"))
    for path in (*copied_job.folder.rglob("DONE"), *copied_job.folder.rglob("attempts.jsonl"), *made):
        path.unlink()
    result = call(main, "--verify", "--output_dir", copied_job.folder)
    assert result.code == 0, result.out


def test_an_event_after_a_torn_line_is_kept(prepare_job):
    run = prepare_job().runs[0]
    log_event(run, "begun")
    with run.attempts_file.open("a") as log:
        log.write('{"time": "2026-')
    log_event(run, "failed", error="x")
    with run.attempts_file.open("ab") as log:
        log.write(b'{"event": "failed"}\n[]\n\xff\n')
    assert [event["event"] for event in events(run)] == ["begun", "failed"]


def test_all_ranks_of_a_launch_try_a_failed_run_again_once(prepare_job):
    run = prepare_job().runs[0]
    for launch in ("first", "second"):
        for _ in range(3):
            log_event(run, "failed", error="x")
        for _rank in range(2):
            try_again(run, launch)
        assert failures(run) == []
        log_event(run, "failed", error="after the first rank's worker began")
        try_again(run, launch)
        assert len(failures(run)) == 1
    assert json.loads(run.attempts_file.read_text().splitlines()[-1])["event"] == "failed"
