"""`--check` reads everything, says what a job would do, and trains nothing."""

from pathlib import Path

from conftest import job_words

from smm4h.cli import train


def test_counts_findings_lengths_and_plan_are_printed_and_nothing_is_made(tiny_encoder, tmp_path, call):
    words = job_words(tiny_encoder, tmp_path / "out", "--check", max_train_samples=200)
    result = call(train.main, *words)
    assert result.code == 0, result.err
    header, of_all, *of_labels = (line.split() for line in result.out.splitlines()[1:6])
    assert header == ["labelled", "test"]
    assert of_all[:3] == ["all", "tweets", "200"]
    assert sum(int(row[-4]) for row in of_labels) == 200
    assert "read as cp1252" in result.out
    assert "longer than --max_seq_length 24" in result.out
    assert "45 runs of 9 members (stage 1: 35, stage 2: 10)" in result.out
    assert not (tmp_path / "out").exists()


def test_what_would_stop_the_job_stops_the_check(finished_job, tmp_path, call):
    words = [*finished_job.words, "--check"]
    assert "45 are done already" in call(train.main, *words).out
    result = call(train.main, *words, "--max_train_samples", "50")
    assert result.code == 2
    assert "was made with another data" in result.err
    empty = tmp_path / "empty"
    empty.mkdir()
    result = call(train.main, *words, "--model_name_or_path", empty, "--output_dir", tmp_path / "other")
    assert result.code == 2
    assert f"--model_name_or_path {empty}" in result.err
    assert not Path(tmp_path / "other").exists()
