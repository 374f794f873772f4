"""The demo: a page on this machine, and a Space beside a published model."""

import json
import re
import sys

import pytest
from conftest import INVENTED, ROOT
from huggingface_hub import RepoCard

import smm4h
from smm4h.cli import demo, publish
from smm4h.data.readers.formats import read_tsv
from smm4h.inference.finished_job import FinishedJob
from smm4h.reporting.export import Unpublished
from smm4h.reporting.leak_check.fingerprints import TweetFingerprints
from smm4h.reporting.space import GRADIO, page_fields, write_space
from smm4h.utils.errors import InputError

gradio = pytest.importorskip("gradio", reason="gradio makes the demo's page; it comes with the extra `demo`")
TEXT = "my son was born with a cleft lip, long day"


def answers_of(app: "gradio.Blocks", *inputs: str) -> list[tuple]:
    """Return what the page shows, one after the other, when its button is pressed."""
    (button,) = app.fns.values()
    return list(button.fn(*inputs))


def test_the_page_answers_with_the_jobs_label_all_probabilities_and_words(tuned_job):
    first, last = answers_of(demo.build_app(str(tuned_job.folder)), TEXT, "", "")
    expected = smm4h.load(tuned_job.folder, device="cpu").predict([TEXT]).iloc[0]
    label, probabilities, pieces = last
    assert label.split(" ")[0] == expected["label"]
    assert [round(value, 6) for value in probabilities.values()] == [
        round(float(expected[f"p_{name.split(' ')[0]}"]), 6) for name in probabilities
    ]
    assert first == (label, probabilities, [])
    assert "".join(piece for piece, _ in pieces) == TEXT
    assert [piece for piece, weight in pieces if weight is not None] == TEXT.split()


def test_a_words_weight_is_what_the_labels_probability_loses_without_it():
    from smm4h.reporting.demo_app import EXPLAINED, carried, shades  # which imports gradio

    def classify(items):
        rare = [0.9 if "pain" in item["text"] else 0.2 for item in items]
        return [("effect" if share > 0.5 else "none", {"none": 1 - share, "effect": share}) for share in rare]

    pieces = carried(classify, {"text": " such a pain  today"})
    assert {word: round(weight, 6) for word, weight in pieces if weight is not None} == {
        **{"such": 0, "a": 0, "today": 0},
        "pain": 0.7,
    }
    assert dict(shades(pieces))["pain"] == 1
    long = carried(classify, {"text": "word " * (EXPLAINED + 5)})
    assert len([weight for _, weight in long if weight is not None]) == EXPLAINED


def test_the_page_says_where_the_likeliest_label_need_not_win(tuned_job):
    job = FinishedJob.read(tuned_job.folder)
    rule = job.rule.to_dict()
    said = page_fields(job.task, rule)["decision"]
    assert said == f"The label need not be the likeliest one: how probable each label must be was {job.rule.chosen}."
    plain = {**rule, "decision": [[1.0] * len(row) for row in rule["decision"]]}
    assert page_fields(job.task, plain)["decision"] == page_fields(job.task, None)["decision"] == ""
    assert said in json.dumps(demo.build_app(str(tuned_job.folder)).get_config_file())


def test_an_empty_text_is_refused_on_the_page(tuned_job):
    app = demo.build_app(str(tuned_job.folder))
    with pytest.raises(gradio.Error, match="Type a text first"):
        answers_of(app, "  ", "", "")


def test_nothing_is_offered_beyond_the_page(tuned_job):
    config = demo.build_app(str(tuned_job.folder)).get_config_file()
    assert config["analytics_enabled"] is False
    assert {dependency["api_visibility"] for dependency in config["dependencies"]} == {"private"}


def test_without_gradio_one_sentence_says_what_to_install(call, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "smm4h.reporting.demo_app", raising=False)
    monkeypatch.delattr("smm4h.reporting.demo_app", raising=False)
    result = call(demo.main, tmp_path)
    assert result.code == 2
    assert 'a demo needs gradio, which is not here: pip install "smm4h[demo]"' in result.err


@pytest.mark.parametrize(("words", "message"), [(["--port", "0"], "--port 0 is no port"), ([], "is no job's output")])
def test_bad_input_is_one_sentence(call, tmp_path, words, message):
    result = call(demo.main, tmp_path, *words)
    assert result.code == 2
    assert message in result.err


def test_a_space_is_published_beside_the_model_and_needs_nothing_of_the_project(tuned_job, call, tmp_path):
    target = tmp_path / "ensemble"
    for more in ([], ["--overwrite"]):
        result = call(publish.main, tuned_job.folder, "--to_folder", target, "--space", *more)
        assert result.code == 0, result.err
    space = tmp_path / "ensemble-demo"
    assert sorted(path.name for path in space.iterdir()) == ["README.md", "app.py", "demo.json", "requirements.txt"]
    assert json.loads((space / "demo.json").read_text())["model"] == "../ensemble"
    source = (space / "app.py").read_text()
    assert not re.findall(r"^\s*(?:from|import) (?:smm4h|heads)", source, re.MULTILINE)
    module = {"__name__": "app", "__file__": str(space / "app.py")}
    exec(compile(source, "app.py", "exec"), module)
    (answer,) = module["published"](str(target))([{"text": TEXT}])
    expected = smm4h.load(target, device="cpu").predict([TEXT]).iloc[0]
    assert answer[0] == expected["label"]
    assert answer[1] == pytest.approx({label: expected[f"p_{label}"] for label in answer[1]}, abs=1e-6)


def test_a_space_has_the_metadata_and_the_packages_by_which_the_hub_builds_it(tuned_job, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"members": [{"cleaning": ["bertweet"]}]}))
    (tmp_path / "space").mkdir()
    task = FinishedJob.read(tuned_job.folder).task
    write_space(tmp_path / "space", "me/ensemble", tmp_path, task, "apache-2.0")
    data = RepoCard.load(tmp_path / "space" / "README.md").data.to_dict()
    assert (data["sdk"], data["sdk_version"], data["app_file"]) == ("gradio", GRADIO, "app.py")
    assert (data["models"], data["license"]) == (["me/ensemble"], "apache-2.0")
    packages = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    assert {line.partition("==")[0] for line in packages} >= {"torch", "transformers", "emoji"}
    assert f"gradio=={GRADIO} " in (ROOT / "requirements-dev.txt").read_text()


def test_a_tweet_in_a_space_is_a_leak(tuned_job, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "space").mkdir()
    job = FinishedJob.read(tuned_job.folder)
    files = write_space(tmp_path / "space", "me/ensemble", tmp_path, job.task, None)
    unpublished = Unpublished(TweetFingerprints.read(job.plan.fingerprints_file), job.task, {})
    unpublished.check(tmp_path / "space", files)
    tweet = max(read_tsv(INVENTED / "task5_test_participant.tsv", None).columns[2][:40], key=len)
    with (tmp_path / "space" / "demo.json").open("a") as stream:
        stream.write(tweet)
    with pytest.raises(InputError, match=r"demo\.json, line \d+ holds"):
        unpublished.check(tmp_path / "space", files)


def test_a_folder_that_is_no_space_is_not_replaced(tuned_job, call, tmp_path):
    (tmp_path / "ensemble-demo").mkdir()
    result = call(publish.main, tuned_job.folder, "--to_folder", tmp_path / "ensemble", "--space", "--overwrite")
    assert result.code == 2
    assert "where --space would write, is there already and no earlier demo" in result.err
