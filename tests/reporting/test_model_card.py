"""The model card of an ensemble."""

import json
import shlex
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from smm4h.config.job import Member
from smm4h.config.plans.run import Run
from smm4h.reporting.model_card import command_of, data_note_of, local_bases
from smm4h.utils.errors import InputError


def test_the_card_has_scores_sections_and_figures(published_job):
    card = ModelCard.load(published_job.folder / "README.md")
    scores = json.loads((published_job.job / "scores.json").read_text())
    final = next(parts for name, parts in scores.items() if name.startswith("final vote"))
    in_metadata = {(entry.dataset_name, entry.metric_type): entry.metric_value for entry in card.data.eval_results}
    assert in_metadata["task5, out of fold", "f1"] == round(final["out_of_fold"]["f1"], 4)
    assert in_metadata["task5, test", "f1"] == round(final["test"]["f1"], 4)
    for heading in ("Data", "Scores", "How it decides", "How it was trained", "Limits", "Citation"):
        assert f"\n## {heading}\n" in card.text
    assert "More information needed" not in card.text
    assert all(name.removesuffix(" *") in card.text for name in scores)
    assert "accelerate launch run_classification.py" in card.text
    for picture in ("scores", "confusion_out_of_fold", "precision_recall", "calibration"):
        assert f"(figures/{picture}.png)" in card.text
        assert (published_job.folder / "figures" / f"{picture}.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("/home/jane/secret/recipe.yaml", "recipe.yaml"),
        ("../jane/data", "data"),
        ("a/../../jane/x.tsv", "x.tsv"),
        ("~/x.tsv", "x.tsv"),
        ("--data_dir=/home/jane/data", "--data_dir=data"),
        ("--train_file=../a.tsv,/b/c.tsv", "--train_file=a.tsv,c.tsv"),
        ("C:\\Users\\jane\\x.tsv", "x.tsv"),
        ("..", "FOLDER"),
        ("file:///home/jane/x.tsv", "x.tsv"),
        ("$HOME/x.tsv", "x.tsv"),
        ("recipes/rare.yaml", "recipes/rare.yaml"),
        ("microsoft/deberta-v3-base", "microsoft/deberta-v3-base"),
        ("1e-5", "1e-5"),
        ('{"unlabelled": "/home/jane/my files/x.tsv", "epochs": 2}', '{"unlabelled": "x.tsv", "epochs": 2}'),
        ("--adapt={unlabelled: ~/jane/x.tsv, epochs: 2}", "--adapt={unlabelled: x.tsv, epochs: 2}"),
        ("...", "..."),
    ],
)
def test_paths_that_tell_of_this_machine_are_cut_to_their_last_part(word, shown):
    assert command_of([word]).endswith(f"run_classification.py {shlex.quote(shown)}")


def test_the_card_says_what_a_reader_of_the_weights_can_learn(published_job):
    limits = ModelCard.load(published_job.folder / "README.md").text.split("## Limits")[1]
    members = json.loads((published_job.folder / "config.json").read_text())["members"]
    assert ("Encoders: embeddings that differ" in limits) == any(m["classifier"] == "encoder" for m in members)
    assert ("Members that count words: weights depend on no" in limits) == any(
        m["classifier"] != "encoder" for m in members
    )
    assert "older version" not in limits


def test_the_card_says_how_many_texts_of_an_adaptation_are_labelled_or_test_tweets():
    file = {"file": "pool.tsv", "sha256": "1", "tweets": 200, "among_labelled": 30, "among_test": 4}
    other = {"file": "of_earlier_versions.tsv", "sha256": "2", "tweets": 50}
    job = SimpleNamespace(extra=(), adaptations=[{"unlabelled": file}, {"unlabelled": file}, {"unlabelled": other}, {}])
    shared = "30 duplicates of labelled tweets and 4 duplicates of test tweets among them"
    assert data_note_of(job) == f", and 250 unlabelled texts ({shared}) that encoders were adapted to"
    job.adaptations = [{"unlabelled": other}]
    assert data_note_of(job) == ", and 50 unlabelled texts that encoders were adapted to"


def test_base_models_of_adapters_are_named_by_their_folders_and_two_of_one_name_are_refused(tmp_path):
    def run(member, base) -> Run:
        folder = tmp_path / member / "fold-0"
        (folder / "model").mkdir(parents=True)
        config = {"adapter": {"base": {"name": base, "is_local": base.startswith("/")}}}
        (folder / "model" / "config.json").write_text(json.dumps(config))
        return Run(Member(member, {"adapter": "{save: adapter}"}), 0, folder, "")

    runs = [run("one", "/a/llama"), run("two", "/b/qwen"), run("three", "/a/llama"), run("four", "org/llama")]
    assert local_bases(runs) == ["llama", "qwen"]
    with pytest.raises(InputError, match=r"folders have one name \(/a/llama, /b/llama\)"):
        local_bases([*runs, run("five", "/b/llama")])
