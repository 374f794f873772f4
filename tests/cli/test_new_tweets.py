"""The command `predict` on new tweets of one's own: columns, counts, warnings, chosen members, explained labels."""

import json
import random
import re
import shutil
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from conftest import job_words, recipe_of, train_here

import smm4h
from smm4h.cli import predict, publish
from smm4h.data.streaming import Block
from smm4h.inference.new_tweets.explanation import pick_tweets
from smm4h.utils.derived import DerivedFiles

TASK = """\
name: fever
labels: [calm, "=ill"]
positive: ["=ill"]
measure: f1
columns: {id: post_id, text: body, label: effect}
"""
COMMON = re.findall(r"\w+", "the my was with so day very today then we saw it bus rain home work after long again")


def sentence(rng: random.Random, *words: str, length: int = 12) -> str:
    """Return a tweet of common words, one of its own, and some given ones."""
    chosen = [*rng.choices(COMMON, k=length), f"w{rng.randrange(10**6):x}y", *words]
    rng.shuffle(chosen)
    return " ".join(chosen)


def tweets(seed: int, count: int, share: float = 0.25, length: int = 12) -> list[dict[str, str]]:
    """Return tweets of which a share has the word that decides, and columns beside the text."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        is_ill = rng.random() < share
        text = sentence(rng, *(["zorblax"] if is_ill else []), length=length)
        label = "=ill" if is_ill else "calm"
        rows.append({"post_id": f"x{number}", "body": text, "effect": label, "author": f"@a{number}", "p_calm": "7"})
    return rows


@dataclass
class WordJob:
    """A job of one member that counts words, with a baseline whose models are kept."""

    folder: Path
    words: list[str]


@pytest.fixture(scope="session")
def word_job(make_shared) -> WordJob:
    def make(folder: Path) -> WordJob:
        (folder / "task.yaml").write_text(TASK)
        pd.DataFrame(tweets(1, 200)).to_csv(folder / "labelled.csv", index=False)
        words = job_words(
            "none",
            folder / "out",
            recipe=recipe_of(folder, counts="{classifier: tfidf-logistic}", svm="{classifier: tfidf-svm}"),
            task=folder / "task.yaml",
            train_file=folder / "labelled.csv",
            max_train_samples=200,
            n_folds=3,
            baselines="tfidf-svm",
            keep_baselines=True,
        )
        for flag in ("--data_dir", "--max_predict_samples", "--model_name_or_path"):
            del words[words.index(flag) : words.index(flag) + 2]
        result = train_here(words)
        assert result.code == 0, result.err
        return WordJob(folder / "out", words)

    return make_shared("words", make)


def new_file(folder: Path, rows: list[dict[str, str]], name: str = "new.csv") -> Path:
    path = folder / name
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


READERS = {
    ".csv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False),
    ".tsv": lambda path: pd.read_table(path, dtype=str, keep_default_na=False),
    ".gz": lambda path: pd.read_table(path, dtype=str, keep_default_na=False),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False),
    ".parquet": pd.read_parquet,
}


@pytest.mark.parametrize("name", ["o.csv", "o.tsv", "o.jsonl", "o.parquet", "o.tsv.gz"])
def test_columns_of_the_input_and_all_probabilities_come_in_every_format(word_job, tmp_path, call, name):
    rows = tweets(2, 30)
    rows[3]["author"], rows[4]["author"] = "two\nlines", '"quoted" =1+1'
    words = [word_job.folder, new_file(tmp_path, rows), "--output", tmp_path / name, "--block", 7]
    result = call(predict.main, *words, "--columns", "author,p_calm,label", "probabilities")
    assert result.code == 0, result.err
    table = READERS[Path(name).suffix](tmp_path / name)
    assert table.columns.tolist() == ["post_id", "author", "input_p_calm", "effect", "p_calm", "p_=ill"]
    assert table["post_id"].tolist() == [row["post_id"] for row in rows]
    authors = [row["author"] for row in rows]
    if ".tsv" in name:
        authors[3] = "two lines"
        assert "1 cells held tabs or line ends, which are spaces in a .tsv" in result.err
    if name[-3:] in ("csv", "tsv", ".gz"):
        authors = [f"'{author}" if author[0] == "@" else author for author in authors]
    assert table["author"].tolist() == authors
    assert (table["input_p_calm"] == "7").all()
    assert ((table["p_calm"].astype(float) + table["p_=ill"].astype(float) - 1).abs() < 1e-5).all()
    assert set(table["effect"]) == ({"calm", "'=ill"} if name == "o.csv" else {"calm", "=ill"})
    assert "the input's column p_calm is called input_p_calm" in result.err


@pytest.mark.parametrize("name", ["o.csv", "o.tsv"])
def test_names_of_columns_are_written_as_their_cells_are(word_job, tmp_path, call, name):
    """Else a spreadsheet would run them, and a tab in one would be a column that no row has."""
    rows = [{**row, "=cmd|x": "1", "a\tb": "2", "two\nlines": "3"} for row in tweets(2, 4)]
    result = call(
        predict.main, word_job.folder, new_file(tmp_path, rows), "--output", tmp_path / name, "--keep_columns"
    )
    assert result.code == 0, result.err
    table = READERS[Path(name).suffix](tmp_path / name)
    own = ["'=cmd|x", "a\tb", "two\nlines"] if name == "o.csv" else ["'=cmd|x", "a b", "two lines"]
    assert table.columns.tolist()[5:8] == own
    assert table[own].to_numpy().tolist() == [["1", "2", "3"]] * 4


def test_keep_columns_passes_all_on_in_a_private_file_that_is_left_out_of_its_folder_later(word_job, tmp_path, call):
    folder = tmp_path / "tweets"
    folder.mkdir()
    new_file(folder, tweets(2, 20))
    words = [word_job.folder, folder, "--output", folder / "done.csv", "--keep_columns"]
    assert call(predict.main, *words).code == 0
    table = pd.read_csv(folder / "done.csv")
    assert table.columns.tolist()[1:] == ["body", "input_effect", "author", "p_calm", "effect", "probability"]
    assert (folder / "done.csv").stat().st_mode & 0o777 == 0o600
    again = call(predict.main, *words, "--overwrite")
    assert "done.csv was left out" in again.err
    assert len(pd.read_csv(folder / "done.csv")) == 20


def test_values_of_any_type_are_passed_on_as_text(word_job, tmp_path, call):
    frame = pd.DataFrame(tweets(2, 5))
    frame["created"], frame["tags"] = pd.Timestamp("2020-03-01 12:00"), [["a", "b"]] * 5
    frame.to_parquet(tmp_path / "new.parquet")
    words = [
        word_job.folder,
        tmp_path / "new.parquet",
        "--output",
        tmp_path / "o.csv",
        "--columns",
        "created,tags,label",
    ]
    result = call(predict.main, *words)
    assert result.code == 0, result.err
    table = pd.read_csv(tmp_path / "o.csv")
    assert table.columns.tolist() == ["post_id", "created", "tags", "effect"]
    assert table.iloc[0, 1:3].tolist() == ["2020-03-01T12:00:00", '["a", "b"]']


def test_names_of_the_output_can_be_asked_for_and_unknown_columns_are_refused(word_job, tmp_path, call):
    words = [word_job.folder, new_file(tmp_path, tweets(2, 5)), "--output", tmp_path / "o.tsv"]
    result = call(predict.main, *words, "--columns", "label,auther")
    assert result.code == 2
    assert "--columns auther (did you mean author?): predictions are label, probability" in result.err
    assert call(predict.main, *words, "--names", "tweet_id", "Class", "--columns", "input_label", "label").code == 2
    assert "need columns of different names" in call(predict.main, *words, "--names", "id", "id").err
    assert call(predict.main, *words, "--names", "tweet_id", "Class", "--columns", "label").code == 0
    assert (tmp_path / "o.tsv").read_text().startswith("tweet_id\tClass\n")


def test_tweets_like_the_labelled_ones_are_counted_and_nothing_is_warned_of(word_job, tmp_path, call):
    result = call(predict.main, word_job.folder, new_file(tmp_path, tweets(5, 400)), "--output", tmp_path / "o.tsv")
    n_ill = (pd.read_table(tmp_path / "o.tsv")["effect"] == "=ill").sum()
    assert f"400 tweets, calm: {400 - n_ill}, =ill: {n_ill}; expected from the labelled ones calm: " in result.err
    assert "not like the labelled ones" not in result.err


SPANISH = re.findall(r"\w+", "el la perro casa noche lluvia trabajo con muy hoy luego vimos otra vez camino mesa gente")


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (tweets(6, 100, share=1.0), "of them get the label =ill, of the labelled ones"),
        (tweets(6, 100, length=25), "half of them have up to"),
        ([row | {"body": " ".join(random.Random(i).choices(SPANISH, k=12))} for i, row in enumerate(tweets(6, 100))],
         "of a tweet's words are in no labelled tweet"),
    ],
)  # fmt: skip
def test_other_tweets_are_warned_of(word_job, tmp_path, call, rows, found):
    result = call(predict.main, word_job.folder, new_file(tmp_path, rows), "--output", tmp_path / "o.tsv")
    assert "these tweets are not like the labelled ones: " in result.err
    assert found in result.err


def test_no_word_of_a_labelled_tweet_is_in_the_profile(word_job):
    content = (word_job.folder / "profile.parquet").read_bytes()
    assert b"zorblax" not in content
    assert (word_job.folder / "profile.parquet").stat().st_mode & 0o777 == 0o600


def test_a_job_without_a_profile_still_counts_and_compares_labels(word_job, tmp_path, call):
    shutil.copytree(word_job.folder, tmp_path / "job")
    DerivedFiles(tmp_path / "job").remove([tmp_path / "job" / "profile.parquet"])  # older versions made none
    words = [tmp_path / "job", new_file(tmp_path, tweets(6, 100, share=1.0, length=30)), "--output", tmp_path / "o.tsv"]
    result = call(predict.main, *words)
    assert "expected from the labelled ones calm" in result.err
    assert "of them get the label =ill" in result.err
    assert "characters" not in result.err


def test_some_members_and_baselines_vote_alone(word_job, tmp_path, call):
    words = [word_job.folder, new_file(tmp_path, tweets(7, 40)), "--columns", "probability,votes,label"]
    tables = {}
    for members in ("tfidf-svm", "counts", "counts,tfidf-svm"):
        output = tmp_path / f"{members}.tsv"
        result = call(predict.main, *words, "--members", members, "--output", output)
        assert result.code == 0, result.err
        tables[members] = pd.read_table(output)
    assert tables["counts,tfidf-svm"]["votes"].max() == 2
    assert tables["counts"]["votes"].max() == 1
    assert not tables["counts"]["probability"].equals(tables["tfidf-svm"]["probability"])
    refused = call(predict.main, *words, "--members", "count", "--output", tmp_path / "o.tsv")
    assert refused.code == 2
    assert "--members count (did you mean counts?)" in refused.err


def test_a_baseline_without_models_is_refused_in_one_sentence(word_job, tmp_path, call):
    shutil.copytree(word_job.folder, tmp_path / "job")
    shutil.rmtree(tmp_path / "job" / "baselines" / "tfidf-svm" / "fold-0" / "model")
    words = [tmp_path / "job", new_file(tmp_path, tweets(7, 5)), "--output", tmp_path / "o.tsv"]
    result = call(predict.main, *words, "--members", "tfidf-svm")
    assert result.code == 2
    assert "models of baselines are kept by --keep_baselines only; remove" in result.err


class Words(HTMLParser):
    """The shaded words of a page, and all tags in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.shaded, self.is_shaded = set(), [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.is_shaded = tag == "span" and dict(attributes).get("class", "").endswith("s5")

    def handle_data(self, data):
        if self.is_shaded:
            self.shaded.append(data)
        self.is_shaded = False


@pytest.fixture(scope="session")
def published_words(word_job, make_shared) -> Path:
    def make(folder: Path) -> Path:
        publish.main([str(word_job.folder), "--to_folder", str(folder / "published")])
        return folder / "published"

    return make_shared("published-words", make)


@pytest.mark.parametrize("kind", ["job", "published", "members"])
def test_the_word_that_decides_is_found(word_job, published_words, tmp_path, call, kind):
    model = published_words if kind == "published" else word_job.folder
    rows = tweets(8, 60)
    rows[0]["body"] = rows[1]["body"] = "Zorblax <script>alert(1)</script> & <b>zorblax</b> so we saw"
    words = [model, new_file(tmp_path, rows), "--output", tmp_path / "o.csv", "--explain", 5]
    words += ["--members", "counts,tfidf-svm"] if kind == "members" else []
    result = call(predict.main, *words)
    assert result.code == 0, result.err
    assert "explaining 5 tweets: with each word left out" in result.err
    table = pd.read_csv(tmp_path / "o.explained.csv")
    assert table.columns.tolist() == ["post_id", "effect", "probability", "word", "weight", "keeps_label"]
    assert table.groupby("post_id", sort=False).first()["word"].str.lower().tolist() == ["zorblax"] * 5
    assert set(table["effect"]) == {"'=ill"}
    page = (tmp_path / "o.explained.html").read_text()
    found = Words(page)
    assert set(map(str.lower, found.shaded)) >= {"zorblax"}
    assert {"script", "b"}.isdisjoint(found.tags)
    assert "holds tweets" in page
    for path in tmp_path.glob("o.explained.*"):
        assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "o.csv").unlink()
    refused = call(predict.main, *words)  # what was explained before is not replaced either
    assert refused.code == 2
    assert "is there already" in refused.err


def test_texts_without_a_word_and_copies_are_not_explained():
    blocks = [Block(0, ["a", "b", "c"], ["", "  \n", "two words"]), Block(1, ["d", "e"], ["two words", "😷"])]
    assert [tweet.id for tweet in pick_tweets(blocks, [0, 1, 3, 2, 4], 3)] == ["d", "e"]


def test_a_published_ensemble_expects_what_the_job_does_and_has_its_names(published_words, tmp_path, call):
    result = call(
        predict.main, published_words, new_file(tmp_path, tweets(5, 100, length=30)), "--output", tmp_path / "o.tsv"
    )
    assert "; expected from the labelled ones calm: " in result.err
    assert "characters, of the labelled ones" in result.err
    assert (tmp_path / "o.tsv").read_text().startswith("post_id\teffect\t")
    config = json.loads((published_words / "config.json").read_text())
    assert config["profile"]["words"] is None  # no list of the labelled tweets' words leaves the job


def test_notebooks_get_probabilities_and_words(word_job):
    ensemble = smm4h.load(word_job.folder, device="cpu")
    table = ensemble.predict([row["body"] for row in tweets(9, 20)], explain=2)
    assert table.columns.tolist() == ["label", "p_calm", "p_=ill", "words"]
    explained = table["words"].dropna()
    assert [next(iter(words)) for words in explained] == ["zorblax"] * 2
    assert set(table.loc[explained.index, "label"]) == {"=ill"}
    words = ensemble.explain(["we saw zorblax today"])
    assert words.iloc[0][["label", "word", "keeps_label"]].tolist() == ["=ill", "zorblax", False]
