"""publish.py: what it makes loads anywhere and labels as the job did; what must stay on this machine does."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import QUICKSTART, ROOT, TASK5, job_words, shell
from datasets import Dataset
from huggingface_hub import ModelCard
from stand_in import Repository, StandIn

import predict
import publish
from smm4h.config.task import read_task
from smm4h.data.dataset import read_tweets
from smm4h.data.prediction_files import read_labels
from smm4h.data.readers import read_tsv
from smm4h.reporting.export import TOKENIZER_FILES, source_files
from smm4h.reporting.privacy import LeakCheck, TweetFingerprints
from smm4h.utils.errors import InputError

TEST = QUICKSTART / "task5_test_participant.tsv"
TABLE = read_tsv(QUICKSTART / "task5_training.tsv", None)
LOAD = """
import json, sys
from transformers import pipeline
texts, answers = json.load(open("texts.json")), []
for name in sys.argv[1:]:
    answers.append(pipeline("text-classification", name, trust_remote_code=True)(texts, truncation=True))
assert not [module for module in sys.modules if module.startswith("smm4h")]
json.dump(answers, open("answers.json", "w"))
"""


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """The 40 tweets that the finished jobs predicted."""
    path = tmp_path_factory.mktemp("new") / "new.tsv"
    path.write_bytes(b"".join(TEST.read_bytes().splitlines(keepends=True)[:41]))
    return path


@pytest.fixture(scope="module", params=["finished_job", "tuned_job"])
def job(request):
    return request.getfixturevalue(request.param).folder


@pytest.fixture(scope="module")
def published(job, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "ensemble"
    outcome = shell(sys.executable, "publish.py", job, "--to_folder", folder)
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def hub(monkeypatch):
    server = StandIn()
    yield server
    server.close()


def at(hub, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "stand-in-token"}


def labels_in_a_fresh_process(names, new, folder: Path, env: dict | None = None) -> list[list[str]]:
    """What each of `names` says, in a process in an empty folder that knows nothing of this project."""
    folder.mkdir()
    (folder / "texts.json").write_text(
        json.dumps(list(read_tweets([new], read_task(TASK5), labelled=False)[0]["text"]))
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HOME": str(folder / "home")}
    command = [sys.executable, "-I", "-c", LOAD, *map(str, names)]
    done = subprocess.run(
        command, cwd=folder, env=environment | (env or {}), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "answers.json").read_text())
    return [[answer["label"] for answer in answers] for answers in found]


def test_a_fresh_process_labels_as_the_job_did_and_members_load_alone(job, published, new, tmp_path):
    members = sorted((published / "members").iterdir())[:4]
    whole, *alone = labels_in_a_fresh_process([published, *members], new, tmp_path / "empty")
    assert whole == read_labels(job / "votes" / "final.tsv").labels.to_pylist()
    assert [len(labels) for labels in alone] == [40] * len(members)


def test_predict_takes_the_published_folder(job, published, new, tmp_path, call):
    columns = ("--columns", "label", "probability", "margin", "votes")
    for name, ensemble in (("job", job), ("published", published)):
        outcome = call(predict.main, ensemble, new, "--output", tmp_path / f"{name}.tsv", *columns)
        assert outcome.code == 0, outcome.err
    assert (tmp_path / "published.tsv").read_bytes() == (tmp_path / "job.tsv").read_bytes()


def test_nothing_but_allowed_files_is_there(published):
    sources = set(source_files("tweet_ensemble"))
    allowed = {"config.json", "model.safetensors", *TOKENIZER_FILES, *sources}
    for path in published.rglob("*"):
        if path.is_file() and path.parent.parent.name == "members":
            assert path.name in allowed
        elif path.is_file() and path.parent.name == "figures":
            assert path.suffix == ".png"
        elif path.is_file():
            assert path.name in {*sources, "config.json", "model.safetensors.index.json", "README.md"}


def test_no_tweet_id_user_or_place_of_this_machine_is_in_any_file(published, tiny_encoder):
    ids, users, texts = (set(column) for column in TABLE.columns[:3])
    for path in published.rglob("*"):
        if path.is_file() and path.suffix not in (".safetensors", ".png"):
            content = path.read_text()
            assert not any(text in content for text in texts)
            assert not any(one in content for one in ids | users)
            assert str(tiny_encoder.parent) not in content
            assert str(ROOT) not in content


def test_one_commit_makes_a_private_repository_that_loads_by_name(tuned_job, hub, new, tmp_path):
    here = at(hub, tmp_path / "home")
    words = [sys.executable, "publish.py", tuned_job.folder, "--hub_model_id", "me/ensemble"]
    outcome = shell(*words, env=here)
    assert outcome.code == 0, outcome.err
    repository = hub.repositories["me/ensemble"]
    assert repository.private
    assert repository.commits == ["Publish me/ensemble"]
    expected = read_labels(tuned_job.folder / "votes" / "final.tsv").labels.to_pylist()
    there = {name: here[name] for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE")}
    assert labels_in_a_fresh_process(["me/ensemble"], new, tmp_path / "empty", there) == [expected]
    predicted = [sys.executable, "predict.py", "me/ensemble", new, "--output", tmp_path / "l.tsv", "--columns", "label"]
    outcome = shell(*predicted, env=here)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "l.tsv").read_bytes() == (tuned_job.folder / "votes" / "final.tsv").read_bytes()
    repository.files |= {"members/gone/config.json": b"{}", ".gitattributes": b"*"}
    assert shell(*words, env=here).code == 0
    assert ".gitattributes" in repository.files
    assert "members/gone/config.json" not in repository.files
    assert len(repository.commits) == 2


def test_a_repository_that_everybody_sees_is_not_written_to_unasked(tuned_job, hub, tmp_path):
    hub.repositories["me/ensemble"] = Repository(commits=["first"])
    words = [sys.executable, "publish.py", tuned_job.folder, "--hub_model_id", "me/ensemble"]
    outcome = shell(*words, env=at(hub, tmp_path))
    assert outcome.code == 2
    assert "me/ensemble can be seen by everybody; say --public" in outcome.err
    assert hub.repositories["me/ensemble"].commits == ["first"]
    assert shell(*words, "--public", env=at(hub, tmp_path)).code == 0


def test_without_a_hub_one_sentence_says_so(tuned_job, hub, tmp_path):
    hub.close()
    words = [sys.executable, "publish.py", tuned_job.folder, "--hub_model_id", "me/ensemble"]
    outcome = shell(*words, env=at(hub, tmp_path))
    assert outcome.code == 2
    assert "error: the Hub did not take" in outcome.err
    assert "Traceback" not in outcome.err


PLANTED = {
    "a tweet": (lambda i, user, text: text, "words of a tweet"),
    "a part of a tweet": (lambda i, user, text: " ".join(text.upper().split()[2:8]), "words of a tweet"),
    "an id": (lambda i, user, text: i, "a tweet's id"),
    "a user": (lambda i, user, text: user, "a user's name"),
    "a mention": (lambda i, user, text: "@caleb42", "a user's name"),
    "a name": (lambda i, user, text: "caleb42", "a user's name"),
    "a token": (lambda i, user, text: "hf_" + "abcdEFGH1234" * 3, "a secret token"),
    "a secret": (lambda i, user, text: "not-a-known-shape-of-token", "a secret of this machine's environment"),
}


def a_tweet_of(job: Path) -> tuple[str, str, str]:
    """Id, user and text of a labelled tweet of the job that has ten plain words and mentions nobody."""
    known = set(pd.read_parquet(job / "folds.parquet")["id"])
    rows = zip(*TABLE.columns[:3], strict=True)
    return next(
        row for row in rows if row[0] in known and re.fullmatch(r"[a-z ]{10,} .*", row[2]) and len(row[2].split()) > 9
    )


@pytest.mark.parametrize(
    ("kind", "file"), [*((kind, "tokenizer_config.json") for kind in PLANTED), ("a tweet", "config.json")]
)
def test_what_is_planted_is_refused_with_file_and_line(tuned_job, hub, tmp_path, call, monkeypatch, kind, file):
    make, what = PLANTED[kind]
    text = make(*a_tweet_of(tuned_job.folder))
    folder = tmp_path / "job"
    shutil.copytree(tuned_job.folder, folder)
    path = folder / "encoder" / "fold-0" / "model" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "note": f"see: {text}"}, indent=1))
    monkeypatch.setenv("WANDB_API_KEY", "not-a-known-shape-of-token")
    if file == "config.json":  # runs share what the config says of their model: the last one's counts
        shutil.copy(path, folder / "encoder" / "refit" / "model" / file)
    outcome = call(publish.main, folder, "--to_folder", tmp_path / "published")
    assert outcome.code == 2
    assert f"holds {what}" in outcome.err
    assert "config.json, line " in outcome.err
    assert text not in outcome.err
    assert not (tmp_path / "published").exists()


def test_a_name_that_is_an_ordinary_word_does_no_harm(tmp_path):
    """Somebody is called @absolute; every encoder's config and vocabulary has the word."""
    (tmp_path / "vocab.txt").write_text("[PAD]\nabsolute\njane\n")
    (tmp_path / "config.json").write_text('{"kind": "absolute"}')
    tweets = Dataset.from_dict({"text": ["hi @absolute and @janedoe and @somebody_1"], "id": ["1234567"], "user": [""]})
    search = LeakCheck(TweetFingerprints.from_tables([tweets]), ["sources"])
    search.check(tmp_path, tmp_path.iterdir())
    for planted in ("janedoe", "SOMEBODY_1", "@absolute", "1234567"):
        (tmp_path / "config.json").write_text(f'{{"kind": "{planted}"}}')
        with pytest.raises(InputError, match=r"config\.json, line 1 holds a (user's name|tweet's id)"):
            LeakCheck(TweetFingerprints.from_tables([tweets]), ["sources"]).check(tmp_path, tmp_path.iterdir())


def test_a_stray_file_stays(tuned_job, tmp_path, call):
    shutil.copytree(tuned_job.folder, tmp_path / "job")
    (tmp_path / "job" / "encoder" / "fold-0" / "model" / "tweets.txt").write_text("anything")
    outcome = call(publish.main, tmp_path / "job", "--to_folder", tmp_path / "published")
    assert outcome.code == 0, outcome.err
    assert not list((tmp_path / "published").rglob("tweets.txt"))


def test_the_card_tells_all_that_a_stranger_must_know(job, published):
    card = ModelCard.load(published / "README.md")
    scores = json.loads((job / "scores.json").read_text())
    final = next(of for name, of in scores.items() if name.startswith("final vote"))
    told = {(one.dataset_name, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert told["task5, out of fold", "f1"] == round(final["out_of_fold"]["f1"], 4)
    assert told["task5, test", "f1"] == round(final["test"]["f1"], 4)
    for heading in ("Data", "Scores", "How it decides", "How it was trained", "Limits", "Citation"):
        assert f"\n## {heading}\n" in card.text
    assert "More information needed" not in card.text
    assert all(name.removesuffix(" *") in card.text for name in scores)
    assert "accelerate launch run_classification.py" in card.text
    for picture in ("scores", "confusion_out_of_fold", "precision_recall", "calibration"):
        assert f"(figures/{picture}.png)" in card.text
        assert (published / "figures" / f"{picture}.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say where to: --hub_model_id me/name, or --to_folder FOLDER"),
        (["--to_folder", "{tmp}"], "is there already; name a new one"),
        (["--hub_model_id", "a b"], "--hub_model_id a b: "),
    ],
)
def test_bad_input_is_one_sentence(tuned_job, tmp_path, call, words, message):
    outcome = call(publish.main, tuned_job.folder, *[word.format(tmp=tmp_path) for word in words])
    assert outcome.code == 2
    assert message in outcome.err


def test_one_run_is_pushed_by_the_usual_flags(tiny_encoder, hub, new, tmp_path):
    words = job_words(tiny_encoder, tmp_path / "out", "--push_to_hub", "--hub_model_id", "me/one")
    command = [sys.executable, "run_classification.py", *words]
    here = at(hub, tmp_path / "home")
    many = shell(*command, env=here)
    assert many.code == 2
    assert "--push_to_hub pushes one run of a member: name it with --members and --folds" in many.err
    one = shell(*command, "--members", "last3-42", "--folds", 0, env=here)
    assert one.code == 0, one.err
    repository = hub.repositories["me/one"]
    assert repository.private
    assert len(repository.commits) == 1
    assert {"README.md", "config.json", "heads.py", "model.safetensors"} <= set(repository.files)
    assert not any("parquet" in name or "tsv" in name for name in repository.files)
    assert "last3-42" in repository.files["README.md"].decode()
    there = {name: here[name] for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE")}
    assert len(labels_in_a_fresh_process(["me/one"], new, tmp_path / "empty", there)[0]) == 40
