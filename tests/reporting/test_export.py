"""Published folders load anywhere and label as the job did."""

import shutil

from fresh_process import labels_in_a_fresh_process

from smm4h.cli import predict, publish
from smm4h.data.prediction_files import read_labels
from smm4h.reporting.export import TOKENIZER_FILES, source_files


def test_a_fresh_process_labels_as_the_job_did_and_members_load_alone(published_job, new_tweets, tmp_path):
    members = sorted((published_job.folder / "members").iterdir())[:4]
    of_ensemble, *of_members = labels_in_a_fresh_process(
        [published_job.folder, *members], new_tweets, tmp_path / "empty"
    )
    assert of_ensemble == read_labels(published_job.job / "votes" / "final.tsv").labels.to_pylist()
    assert [len(labels) for labels in of_members] == [40] * len(members)


def test_predict_takes_the_published_folder(published_job, new_tweets, tmp_path, call):
    columns = ("--columns", "label", "probability", "margin", "votes")
    for name, ensemble in (("job", published_job.job), ("published", published_job.folder)):
        result = call(predict.main, ensemble, new_tweets, "--output", tmp_path / f"{name}.tsv", *columns)
        assert result.code == 0, result.err
    assert (tmp_path / "published.tsv").read_bytes() == (tmp_path / "job.tsv").read_bytes()


def test_only_allowed_files_are_published(published_job):
    sources = set(source_files("tweet_ensemble"))
    allowed = {"config.json", "model.safetensors", *TOKENIZER_FILES, *sources}
    for path in published_job.folder.rglob("*"):
        if path.is_file() and path.parent.parent.name == "members":
            assert path.name in allowed
        elif path.is_file() and path.parent.name == "figures":
            assert path.suffix == ".png"
        elif path.is_file():
            assert path.name in {*sources, "config.json", "model.safetensors.index.json", "README.md"}


def test_a_stray_file_is_not_published(tuned_job, tmp_path, call):
    shutil.copytree(tuned_job.folder, tmp_path / "job")
    (tmp_path / "job" / "encoder" / "fold-0" / "model" / "tweets.txt").write_text("anything")
    result = call(publish.main, tmp_path / "job", "--to_folder", tmp_path / "published")
    assert result.code == 0, result.err
    assert not list((tmp_path / "published").rglob("tweets.txt"))
