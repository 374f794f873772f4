"""The command `distill`: an ordinary checkpoint that has learnt from the ensemble."""

import base64
import gzip
import json
import re
import runpy
import shutil
import signal
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from byte_search import found_in, words_and_pairs
from conftest import INVENTED, MEMBERS, ROOT, TASK5, CommandResult, run_here, session_of, start, wait_for
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import smm4h
from smm4h.cli import distill, predict, publish
from smm4h.config.task_file import read_task
from smm4h.data.dataset import read_tweets
from smm4h.data.outputs.label_files import read_labels
from smm4h.reporting.export import project_texts


@pytest.fixture(scope="module")
def words(tuned_job, tiny_encoder) -> list:
    """The command without the output folder."""
    return [tuned_job.folder, "--model_name_or_path", tiny_encoder, "--use_cpu"]


@dataclass
class TrainedStudent:
    folder: Path
    result: CommandResult


@pytest.fixture(scope="module")
def student(words, tmp_path_factory) -> TrainedStudent:
    folder = tmp_path_factory.mktemp("student") / "student"
    result = run_here(distill.main, *words, "--output_dir", folder, "--num_train_epochs", 1)
    assert result.code == 0, result.err
    return TrainedStudent(folder, result)


def test_the_student_is_an_ordinary_checkpoint(student):
    folder = student.folder / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model).__module__.startswith("transformers.")
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".json", ".json", ".safetensors"]
    tweets, _ = read_tweets([INVENTED / "task5_test_participant.tsv"], read_task(TASK5), labelled=False)
    texts = tweets["text"][:40]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    predicted = read_labels(student.folder / "test.tsv").labels.to_pylist()
    of_predicted = logits[range(len(texts)), [model.config.label2id[label] for label in predicted]]
    np.testing.assert_allclose(of_predicted, logits.amax(dim=1), atol=1e-5)  # one epoch leaves logits close together


def test_the_student_predicts_each_label_as_often_as_the_ensemble(student, tuned_job):
    of_student = read_labels(student.folder / "test.tsv").labels.to_pylist()
    of_ensemble = read_labels(tuned_job.folder / "votes" / "final.tsv").labels.to_pylist()
    for label in ("1", "2", "3"):
        assert abs(of_student.count(label) - of_ensemble.count(label)) <= 2


def test_student_ensemble_and_best_member_are_compared(student):
    about = json.loads((student.folder / "student.json").read_text())
    assert [part["where"] for part in about["scores"]] == ["held-out fold 0", "test"]
    for part in about["scores"]:
        names = list(part["scores"])
        assert names[:2] == ["student", "ensemble"]
        assert names[2] in MEMBERS
        assert set(part["student_against"]) == set(names[1:])
    assert set(about["tweets_per_second"]) == set(names)
    for text in ("held-out fold 0", "student against ensemble: ", "tweets a second: student", "an ordinary checkpoint"):
        assert text in student.result.out


def test_a_killed_training_resumes_and_ends_with_the_same_weights(words, tmp_path, call):
    flags = [*words, "--num_train_epochs", 2, "--checks", 0, "--output_dir"]
    undisturbed = call(distill.main, *flags, tmp_path / "undisturbed")
    assert undisturbed.code == 0, undisturbed.err
    job = start([sys.executable, "distill.py", *flags, tmp_path / "killed"])
    if hasattr(job, "cpu_affinity"):
        job.cpu_affinity(job.cpu_affinity()[:1])  # as many threads as here, on which the bytes depend
    assert wait_for(lambda: (tmp_path / "killed" / ".student").is_dir(), 120)
    job.send_signal(signal.SIGTERM)
    code = job.wait(300)
    assert not session_of(job)
    assert code in (75, 0)
    again = call(distill.main, *flags, tmp_path / "killed", "--overwrite")
    assert again.code == 0, again.err
    weights = [tmp_path / name / "model" / "model.safetensors" for name in ("undisturbed", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--train_file", str(INVENTED / "task5_validation.tsv")], "the labelled tweets are not those that"),
        (["--model_name_or_path", "nowhere/at-all"], "--model_name_or_path nowhere/at-all can't be loaded"),
        (["--checks", "9"], "--checks 9: the job has 5 folds"),
    ],
)
def test_bad_input_is_one_sentence(words, call, tmp_path, more, message):
    result = call(distill.main, *words, "--output_dir", tmp_path / "student", "--num_train_epochs", 0.1, *more)
    assert result.code == 2
    assert message in result.err


class Published:
    """A published student, and what its training tweets have that nobody else is to learn."""

    def __init__(self, folder: Path, encoder: Path) -> None:
        self.folder, self.encoder, task = folder, encoder, read_task(TASK5)
        labelled, _ = read_tweets([INVENTED / "task5_training.tsv"], task, labelled=True)
        test, _ = read_tweets([INVENTED / "task5_test_participant.tsv"], task, labelled=False)
        self.texts = [text for table in (labelled, test) for text in table["text"]]
        names = re.findall(r"@(\w{5,})", " ".join(self.texts).lower())
        ids = [str(value) for table in (labelled, test) for name in ("id", "user") for value in table[name] if value]
        self.terms = {*words_and_pairs(self.texts), *names, *ids}
        self.public = "\n".join([*project_texts(), task.about or "", *(p.read_text() for p in encoder.glob("*.json"))])

    def told(self, folder: Path, place: Path) -> set[str]:
        """Return the terms that stand in a folder and are not public; `place` takes a file."""
        found = found_in([path for path in folder.rglob("*") if path.is_file()], self.terms)
        (place / "public").write_text(self.public)
        return found - found_in([place / "public"], found)


@pytest.fixture(scope="module")
def published_student(student, tiny_encoder, tmp_path_factory) -> Published:
    folder = tmp_path_factory.mktemp("published") / "student"
    publish.main([str(student.folder), "--to_folder", str(folder)])
    return Published(folder, tiny_encoder)


def test_a_published_student_has_a_card(published_student):
    card = (published_student.folder / "README.md").read_text()
    assert "that has learnt from an ensemble" in card
    assert "trust_remote_code" not in card
    assert AutoModelForSequenceClassification.from_pretrained(published_student.folder).config.num_labels == 3


def test_no_word_pair_id_or_name_of_a_tweet_stands_in_a_published_student(published_student, student, tmp_path):
    assert len(published_student.terms) > 1000
    assert published_student.told(published_student.folder, tmp_path) == set()
    assert not {path.name for path in published_student.folder.rglob("*")} & {"marks.npz", "test.tsv", "student.json"}
    assert sorted(path.name for path in student.folder.iterdir()) == ["marks.npz", "model", "student.json", "test.tsv"]
    assert not list(student.folder.rglob("*optimizer*"))


def test_the_search_finds_what_is_hidden_in_any_form(published_student, tmp_path):
    texts = [text for text in published_student.texts if text.isascii() and len(text.split()) > 8][:4]
    place = shutil.copytree(published_student.folder, tmp_path / "published")
    (place / "a.bin").write_bytes(b"\x93" + texts[0].encode("utf-16-be"))
    np.savez_compressed(place / "b.npz", texts=np.array([texts[1]]))
    (place / "c.json").write_text(json.dumps({"x": "y" + base64.b64encode(zlib.compress(texts[2].encode())).decode()}))
    (place / "d.safetensors").write_bytes(b"weights" + gzip.compress(b"no") + texts[3].upper().encode())
    told = published_student.told(place, tmp_path)
    for text in texts:
        own = {term for term in words_and_pairs([text]) if " " in term}
        assert len(told & own) > 0.8 * len(own)


def test_weights_tell_which_word_pieces_training_tweets_have(published_student):
    """What the documents say of encoders and students: a set of word pieces, of no order."""
    folders = (published_student.folder, published_student.encoder)
    models = [AutoModelForSequenceClassification.from_pretrained(folder) for folder in folders]
    rows = [model.get_input_embeddings().weight.detach().numpy() for model in models]
    changed = {int(row) for row in np.flatnonzero((rows[0] != rows[1]).any(axis=1))}
    tokenizer = AutoTokenizer.from_pretrained(published_student.encoder)
    pieces = {piece for ids in tokenizer(published_student.texts)["input_ids"] for piece in ids}
    assert changed <= pieces
    assert len(changed) > 0.5 * len(pieces)


def test_training_tweets_are_told_from_others_no_better_than_by_chance(published_student, monkeypatch, capsys):
    """Of a student that learnt a little; `benchmarks/membership.py` measures one that learnt more."""
    files = {part: INVENTED / f"task5_{part}.tsv" for part in ("training", "validation")}
    words = [published_student.folder, "--task", TASK5, "--seen", files["training"], "--unseen", files["validation"]]
    monkeypatch.setattr(sys, "argv", ["membership.py", *map(str, words)])
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "membership.py"), run_name="__main__")
    rows = re.findall(r"^(\w+) +(\d\.\d+) \(chance: 0\.5 \+- (\d\.\d+); ", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, *_ in rows] == ["confidence", "loss"]
    for _, area, chance in rows:
        assert abs(float(area) - 0.5) < 2.5 * float(chance)  # five standard deviations
    assert benchmark["membership_area"](np.arange(5, 9), np.arange(5)).startswith("1.000")


def test_a_damaged_student_is_named_and_not_used(student, new_tweets, tmp_path, call):
    shutil.copytree(student.folder, tmp_path / "student")
    path = tmp_path / "student" / "model" / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    commands = [
        (predict.main, folder, new_tweets, "--output", tmp_path / "x.tsv") for folder in (path.parents[1], path.parent)
    ]
    for main, *words in (*commands, (publish.main, path.parents[1], "--to_folder", tmp_path / "published")):
        result = call(main, *words)
        assert result.code == 2
        assert f"error: {path} has another content than was written; distil the student again" in result.err


def test_a_student_predicts_from_its_folder_its_model_and_as_published(student, new_tweets, tmp_path, call):
    result = call(publish.main, student.folder, "--to_folder", tmp_path / "published")
    assert result.code == 0, result.err
    expected = read_labels(student.folder / "test.tsv")
    for number, name in enumerate((student.folder, student.folder / "model", tmp_path / "published")):
        output = tmp_path / f"labels-{number}.tsv"
        result = call(predict.main, name, new_tweets, "--output", output, "--columns", "label", "--use_cpu")
        assert result.code == 0, result.err
        assert read_labels(output).ids.to_pylist() == expected.ids.to_pylist()
        assert read_labels(output).labels.to_pylist() == expected.labels.to_pylist()
    loaded = smm4h.load(student.folder, device="cpu")
    assert loaded.labels == ["1", "2", "3"]
    assert loaded.task.columns.text == read_task(TASK5).columns.text


def save_encoder(kind: str, encoder: Path, folder: Path, **settings) -> Path:
    """Save a small random model of a kind of transformers beside the tokenizer of an encoder."""
    shutil.copytree(encoder, folder, ignore=shutil.ignore_patterns("config.json", "*.safetensors"))
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    n_tokens = 1 + max(AutoTokenizer.from_pretrained(encoder).get_vocab().values())
    config = getattr(transformers, f"{kind}Config")(**{**sizes, "vocab_size": n_tokens, "pad_token_id": 0, **settings})
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    return folder


def test_a_student_may_be_an_xlm_roberta(words, tiny_encoder, tmp_path, call):
    """Its classifier stands before its encoder in the list of its modules."""
    encoder = save_encoder("XLMRoberta", tiny_encoder, tmp_path / "xlmr", max_position_embeddings=130)
    flags = ["--num_train_epochs", 0.1, "--checks", 0, "--output_dir", tmp_path / "student"]
    result = call(distill.main, *words, "--model_name_or_path", encoder, *flags)
    assert result.code == 0, result.err
    assert (tmp_path / "student" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("Llama", {}, "LlamaForSequenceClassification ends in no linear layer with a bias; choose another encoder"),
        ("Bert", {"max_position_embeddings": 40}, "it reads 40 tokens at most, and --max_seq_length is 110; lower it"),
        (
            "T5",
            {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
            "it is an encoder-decoder (t5)",
        ),
        ("Bert", {"vocab_size": 30}, "its weights embed 30: they are of different models"),
    ],
)
def test_an_encoder_that_can_be_no_student_is_refused_before_training(
    words, tiny_encoder, tmp_path, call, kind, settings, message
):
    encoder = save_encoder(kind, tiny_encoder, tmp_path / "encoder", **settings)
    result = call(distill.main, *words, "--model_name_or_path", encoder, "--output_dir", tmp_path / "student")
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "student").exists()
