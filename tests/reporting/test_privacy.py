"""Leak check: what must stay on this machine is not published."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import INVENTED, ROOT, accept_changed_files
from datasets import Dataset

from smm4h.cli.publish import main
from smm4h.data.readers.formats import read_tsv
from smm4h.reporting.leak_check.fingerprints import without
from smm4h.reporting.leak_check.privacy import LeakCheck, TweetFingerprints
from smm4h.utils.errors import InputError

TABLE = read_tsv(INVENTED / "task5_training.tsv", None)


def test_no_tweet_id_user_or_local_path_is_in_any_file(published_job, tiny_encoder):
    ids, users, texts = (set(column) for column in TABLE.columns[:3])
    for path in published_job.folder.rglob("*"):
        if path.is_file() and path.suffix not in (".safetensors", ".png"):
            content = path.read_text()
            assert not any(text in content for text in texts)
            assert not any(name in content for name in ids | users)
            assert str(tiny_encoder.parent) not in content
            assert str(ROOT) not in content


@pytest.mark.parametrize("n_known", [0, 1, 500])
def test_fingerprints_of_what_the_project_says_itself_are_taken_out(n_known):
    rng = np.random.default_rng(n_known)
    fingerprints = np.unique(rng.integers(0, 2**64, 300, dtype=np.uint64))
    known = np.sort(np.append(rng.choice(fingerprints, n_known), rng.integers(0, 2**64, n_known, dtype=np.uint64)))
    np.testing.assert_array_equal(without(fingerprints, known), np.setdiff1d(fingerprints, known))
    assert not len(without(fingerprints[:0], known))


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
    """Return id, user and text of a labelled tweet of the job that has ten plain words and mentions nobody."""
    known = set(pd.read_parquet(job / "folds.parquet")["id"])
    rows = zip(*TABLE.columns[:3], strict=True)
    return next(
        row for row in rows if row[0] in known and re.fullmatch(r"[a-z ]{10,} .*", row[2]) and len(row[2].split()) > 9
    )


@pytest.mark.parametrize(
    ("kind", "file"), [*((kind, "tokenizer_config.json") for kind in PLANTED), ("a tweet", "config.json")]
)
def test_what_is_planted_is_refused_with_file_and_line(tuned_job, tmp_path, call, monkeypatch, kind, file):
    make, what = PLANTED[kind]
    text = make(*a_tweet_of(tuned_job.folder))
    folder = tmp_path / "job"
    shutil.copytree(tuned_job.folder, folder)
    path = folder / "encoder" / "fold-0" / "model" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "note": f"see: {text}"}, indent=1))
    monkeypatch.setenv("WANDB_API_KEY", "not-a-known-shape-of-token")
    if file == "config.json":  # a published member has the config of its last run
        shutil.copy(path, folder / "encoder" / "refit" / "model" / file)
    for run in ("fold-0", "refit"):
        accept_changed_files(folder / "encoder" / run)
    result = call(main, folder, "--to_folder", tmp_path / "published")
    assert result.code == 2
    assert f"holds {what}" in result.err
    assert "config.json, line " in result.err
    assert text not in result.err
    assert not (tmp_path / "published").exists()


def test_a_user_named_like_an_ordinary_word_prevents_no_publication(tmp_path):
    """A user is called @absolute, a word of every encoder's config and vocabulary."""
    (tmp_path / "vocab.txt").write_text("[PAD]\nabsolute\njane\n")
    (tmp_path / "config.json").write_text('{"kind": "absolute"}')
    tweets = Dataset.from_dict({"text": ["hi @absolute and @janedoe and @somebody_1"], "id": ["1234567"], "user": [""]})
    check = LeakCheck(TweetFingerprints.from_tables([tweets]), ["sources"])
    check.check(tmp_path, tmp_path.iterdir())
    for planted in ("janedoe", "SOMEBODY_1", "@absolute", "1234567"):
        (tmp_path / "config.json").write_text(f'{{"kind": "{planted}"}}')
        with pytest.raises(InputError, match=r"config\.json, line 1 holds a (user's name|tweet's id)"):
            LeakCheck(TweetFingerprints.from_tables([tweets]), ["sources"]).check(tmp_path, tmp_path.iterdir())
