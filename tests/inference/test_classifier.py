"""Single classifiers in use: any sequence classifier of transformers, one run's model, or a student."""

import json
import random

import pandas as pd
import pytest
import torch
from conftest import TASK5, job_words, save_tiny_encoder
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

import smm4h
from smm4h.cli.predict import main
from smm4h.cli.train import main as train_main
from smm4h.config.task_file import read_task
from smm4h.data.dataset import read_tweets
from smm4h.data.streaming import Block
from smm4h.inference.partial_predictions import PartialPredictions
from smm4h.inference.predictor import load_predictor
from smm4h.utils.leases import LeaseHolder

COLUMNS = "label,probability,margin,votes"


@pytest.fixture
def classifier(tmp_path):
    """A random BERT with three labels of its own, saved as transformers saves it."""
    folder = save_tiny_encoder(tmp_path / "classifier")
    config = BertConfig.from_pretrained(folder)
    config.update({"id2label": {0: "no", 1: "yes", 2: "perhaps"}, "label2id": {"no": 0, "yes": 1, "perhaps": 2}})
    torch.manual_seed(1)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def predict(call, name, tweets, output, *more):
    result = call(main, name, tweets, "--output", output, "--columns", COLUMNS, "--use_cpu", *more)
    assert result.code == 0, result.err
    return pd.read_csv(output, sep="\t", dtype={"tweet_id": str}), result


def test_a_classifier_of_transformers_predicts_its_own_labels(classifier, new_tweets, tmp_path, call):
    table, _ = predict(call, classifier, new_tweets, tmp_path / "labels.tsv")
    texts = read_tweets([new_tweets], read_task(TASK5), labelled=False)[0]["text"][:]
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    model = BertForSequenceClassification.from_pretrained(classifier).eval()
    batch = tokenizer(texts, truncation=True, max_length=128, padding=True, return_tensors="pt")
    with torch.no_grad():
        probs = model(**batch).logits.double().softmax(dim=1)
    top = probs.sort(dim=1, descending=True)
    assert table["label"].tolist() == [model.config.id2label[index] for index in top.indices[:, 0].tolist()]
    torch.testing.assert_close(torch.tensor(table["probability"]), top.values[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(table["margin"]), top.values[:, 0] - top.values[:, 1], atol=1e-5, rtol=0)
    assert set(table["votes"]) == {1}
    loaded = smm4h.load(classifier, device="cpu")
    assert loaded.labels == ["no", "yes", "perhaps"]
    assert loaded.predict(texts)["label"].tolist() == table["label"].tolist()


def test_the_word_that_a_classifier_learnt_is_the_heaviest_of_an_explanation(classifier, tmp_path, call):
    """As a student's: a plain sequence classifier, trained here to say yes to one word of its vocabulary."""
    tokenizer, rng = AutoTokenizer.from_pretrained(classifier), random.Random(1)
    plain = ["my", "son", "was", "with", "the", "and", "is"]
    texts, labels = [], []
    for number in range(160):
        texts.append(" ".join(rng.sample([*plain, *(["baby"] if number % 2 else [])], 6 + number % 2)))
        labels.append(int("baby" in texts[-1].split()))
    torch.manual_seed(1)
    model = BertForSequenceClassification.from_pretrained(classifier).train()
    batch, optimizer = tokenizer(texts, padding=True, return_tensors="pt"), torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(50):
        model(**batch, labels=torch.tensor(labels)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(classifier)
    said = [[text for text, label in zip(texts, labels, strict=True) if label == kind] for kind in (0, 1)]
    new = pd.DataFrame({"tweet": [*said[0][:7], *said[1][:3]]})
    new.insert(0, "tweet_id", range(10))
    new.to_csv(tmp_path / "new.csv", index=False)
    words = ["--output", tmp_path / "o.csv", "--explain", 3, "--use_cpu"]
    result = call(main, classifier, tmp_path / "new.csv", *words)
    assert result.code == 0, result.err
    table = pd.read_csv(tmp_path / "o.explained.csv")
    heaviest = table.groupby("tweet_id", sort=False).first()
    assert heaviest[["label", "word"]].values.tolist() == [["yes", "baby"]] * 3


def test_the_model_of_one_run_predicts_what_the_run_predicted(tiny_encoder, new_tweets, tmp_path, call):
    words = job_words(tiny_encoder, tmp_path / "out", "--members", "last3-42", "--folds", 0)
    result = call(train_main, *words)
    assert result.code == 0, result.err
    table, _ = predict(call, tmp_path / "out" / "last3-42" / "fold-0" / "model", new_tweets, tmp_path / "labels.tsv")
    made = pd.read_parquet(tmp_path / "out" / "last3-42" / "fold-0" / "test.parquet")
    assert table.iloc[:, 0].tolist() == made["id"].tolist()
    top = made.filter(like="p_").max(axis=1)
    assert abs(table["probability"] - top).max() < 1e-4


def without_labels(folder):
    save_tiny_encoder(folder)
    config = BertConfig.from_pretrained(folder)
    BertModel(config).save_pretrained(folder)


def without_classifier(folder):
    save_tiny_encoder(folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "architectures": ["BertForSequenceClassification"]}))


def of_one_number(folder):
    save_tiny_encoder(folder)
    BertForSequenceClassification(BertConfig.from_pretrained(folder, num_labels=1)).save_pretrained(folder)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (without_labels, "holds a model without labels (BertModel); name a job's output folder"),
        (without_classifier, "lacks 2 weights (classifier.bias, ...); save the model there anew"),
        (of_one_number, "does not choose one of several labels"),
        (lambda folder: folder.mkdir(), "is no job's output folder, and no published ensemble either"),
    ],
)
def test_a_model_without_labels_of_its_own_is_refused(save, message, new_tweets, tmp_path, call):
    save(tmp_path / "model")
    result = call(main, tmp_path / "model", new_tweets, "--output", tmp_path / "labels.tsv", "--use_cpu")
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


def test_predicted_tweets_that_are_cut_are_counted_over_all_blocks(classifier, tmp_path):
    """Blocks of two tweets, one of which was predicted before a kill."""
    folder, text = tmp_path / ".labels.tsv.parts", "my son was born "
    task = read_task(TASK5)
    blocks = [Block(0, ["1", "2"], [text, text * 10]), Block(1, ["3", "4"], [text * 60, text * 50])]
    for some in (blocks[:1], blocks):
        predictor, _, files = load_predictor(str(classifier), "cpu")
        parts, _ = PartialPredictions.open(folder, [TASK5], files, {}, is_main_process=True)
        parts.predict_missing(some, predictor, LeaseHolder(), lambda block: None)
    id_name, label_name = task.submission.columns
    notices = parts.join(str(tmp_path / "labels.tsv"), 2, {"id": id_name, "label": label_name})
    assert notices == [
        "2 tweets are longer than the 128 tokens that classifier reads and were cut; the longest has 242"
    ]
    assert not folder.exists()
