"""Folders that are no finished job are named."""

import shutil

from smm4h.cli import publish, report, vote


def test_an_unfinished_job_is_refused(tuned_job, tmp_path, call):
    shutil.copytree(tuned_job.folder, tmp_path / "job")
    (tmp_path / "job" / "svm" / "fold-1" / "DONE").unlink()
    result = call(report.main, tmp_path / "job")
    assert result.code == 2
    assert "1 run is missing (svm/fold-1, ...); give the job's command" in result.err


def test_a_folder_that_is_no_job_and_an_unfinished_one_are_named(finished_job, call, tmp_path):
    result = call(vote.main, tmp_path, "--output", tmp_path / "v.tsv")
    assert "is not a job's output folder" in result.err
    (tmp_path / "plan.json").write_text((finished_job.folder / "plan.json").read_text())
    result = call(vote.main, tmp_path, "--output", tmp_path / "v.tsv")
    assert "45 of 45 runs are missing" in result.err


def test_what_is_damaged_is_named_by_the_commands_that_would_leave_it_out(tuned_job, tmp_path, call):
    """In one sentence, whatever the library says that reads the file, and with no other warning."""
    job = shutil.copytree(tuned_job.folder, tmp_path / "job")
    member = next(path.parent for path in job.glob("counts/*/model"))
    to_folder = ["--to_folder", tmp_path / "published"]
    for path, main, words in (
        (job / "profile.parquet", publish.main, to_folder),
        (job / "made.json", publish.main, to_folder),
        (member / "model" / "config.json", publish.main, to_folder),
        (job / "counts" / "fold-0" / "test.parquet", report.main, []),
    ):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        result = call(main, job, *words)
        assert result.code == 2, path
        assert result.err.startswith(f"error: {path} ")
        assert len(result.err.splitlines()) == 1
        assert not (tmp_path / "published").exists()
        path.write_bytes(content)
