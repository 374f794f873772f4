"""Decoders as members: the head that reads the last token, and adapters beside frozen weights."""

import json
import random
import shutil
import signal
import sys
from importlib.util import find_spec

import pandas as pd
import pytest
import torch
import transformers
from conftest import ROOT, history, job_words, recipe_of, save_tiny_encoder, start, train_words, wait_for
from fresh_process import labels_in_a_fresh_process
from safetensors.torch import load_file
from small_encoders import DECODER, DECODERS, small_classifier

from heads import AdapterError, TweetClassifier
from smm4h.cli import predict, publish
from smm4h.cli.train import main
from smm4h.config.job import Member, parse_adapter
from smm4h.config.plans.run import Run
from smm4h.reporting.export import _member_tensors
from smm4h.training.adapters import (
    add_adapter,
    add_member_adapter,
    has_adapter,
    merge_adapter,
    quantised,
    trained_weights,
)
from smm4h.utils.errors import InputError

LENGTHS = (9, 5, 2)


def batch(*, padded: str):
    """Return ids and mask (3, 9) of three tweets of unequal length, padded on one side."""
    ids, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        place = slice(0, length) if padded == "right" else slice(9 - length, 9)
        ids[row, place], mask[row, place] = torch.arange(5, 5 + length) * (row + 1), 1
    return ids, mask


@pytest.mark.parametrize("kind", [*DECODERS, "bert", "roberta"])
@torch.no_grad()
def test_logits_of_the_last_token_know_nothing_of_padding_on_either_side(tmp_path, kind):
    model = small_classifier(tmp_path, "last_token", kind)
    ids, mask = batch(padded="right")
    logits = model(ids, mask).logits
    alone = [model(ids[row : row + 1, :length]).logits for row, length in enumerate(LENGTHS)]
    torch.testing.assert_close(logits, torch.cat(alone), atol=1e-6, rtol=0)
    torch.testing.assert_close(model(*batch(padded="left")).logits, logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_a_merged_adapter_gives_the_logits_of_the_unmerged_one_in_an_ordinary_model(tmp_path, kind):
    model = small_classifier(tmp_path, "last_token", kind)
    inputs, names = batch(padded="right"), set(model.state_dict())
    before = model(*inputs).logits
    add_adapter(model.encoder, parse_adapter("{kind: lora, r: 4}"))
    model.eval()
    torch.testing.assert_close(model(*inputs).logits, before)  # an untrained adapter changes nothing
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            weights.normal_(std=0.3)
    unmerged = model(*inputs).logits
    assert (unmerged - before).abs().max() > 0.01
    merge_adapter(model)
    assert not has_adapter(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(*inputs).logits, unmerged, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path / "merged")
    loaded = TweetClassifier.from_pretrained(tmp_path / "merged").eval()
    assert torch.equal(loaded(*inputs).logits, model(*inputs).logits)


def test_an_adapter_trains_beside_frozen_weights(tmp_path):
    model = small_classifier(tmp_path, "last_token", "llama")
    add_adapter(model.encoder, parse_adapter("{kind: lora, r: 2, target_modules: [q_proj, v_proj]}"))
    trained = {name for name, weights in model.named_parameters() if weights.requires_grad}
    assert {name for name in trained if "lora" not in name} == {"classifier.weight", "classifier.bias"}
    assert {name.split(".")[-4] for name in trained if "lora" in name} == {"q_proj", "v_proj"}
    assert set(trained_weights(model)) == trained


def test_a_row_does_without_the_adapter_of_all_and_all_linear_layers_have_a_name():
    shared = {"adapter": "{r: 4, target_modules: all-linear}"}
    assert Member("one", shared).adapter == parse_adapter("{r: 4}")
    assert Member("one", {**shared, "adapter": "none"}).adapter is None


@torch.no_grad()
def test_a_second_text_gives_gpt2_no_types_that_it_was_not_pretrained_with(tmp_path):
    model = small_classifier(tmp_path, "last_token", "gpt2")
    ids, mask = batch(padded="right")
    assert torch.equal(model(ids, mask, token_type_ids=mask).logits, model(ids, mask).logits)


def alone(folder, kind, head="last_token", quantise=None):
    """Return a classifier with random adapter weights beside an encoder in `folder`, to be saved as its adapter."""
    settings = {"adapter": "{r: 2, save: adapter}", "model_name_or_path": str(folder / kind), "quantise": quantise}
    member = Member("one", settings)
    model = small_classifier(folder, head, kind, quantised(member, torch.device("cpu")))
    add_member_adapter(model, member)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.3)
    return model.eval()


@pytest.mark.parametrize(("kind", "head"), [("llama", "last_token"), ("gpt2", "last_token"), ("bert", "last3_pooler")])
@torch.no_grad()
def test_an_adapter_saved_alone_gives_the_same_logits_and_no_base_weight_is_saved(tmp_path, kind, head):
    model, inputs = alone(tmp_path, kind, head), batch(padded="right")
    logits = model(*inputs).logits
    model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert {name for name in saved if name.startswith("encoder.") and ".lora_" not in name} == set()
    assert {"classifier.weight", "classifier.bias"} < set(saved)
    assert set(saved) == set(trained_weights(model))
    loaded = TweetClassifier.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded(*inputs).logits, logits)
    other = TweetClassifier.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    pairs = zip(loaded.encoder.named_parameters(), other.encoder.parameters(), strict=True)
    are_shared = {name: mine.data_ptr() == its.data_ptr() for (name, mine), its in pairs}
    assert {name for name, shared in are_shared.items() if not shared} == {n for n in are_shared if ".lora_" in n}
    merge_adapter(model)
    torch.testing.assert_close(model(*inputs).logits, logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_pooler_that_the_base_lacks_is_saved_beside_the_adapter(tmp_path):
    small_classifier(tmp_path, "mean", "bert")  # which saves the encoder; here without its pooler
    bare = transformers.BertModel.from_pretrained(tmp_path / "bert", add_pooling_layer=False)
    bare.save_pretrained(tmp_path / "bert")
    member = Member("one", {"adapter": "{r: 2, save: adapter}", "model_name_or_path": str(tmp_path / "bert")})
    config = small_classifier(tmp_path / "other", "last3_pooler", "bert").config
    model = TweetClassifier.from_encoder(str(tmp_path / "bert"), config)
    add_member_adapter(model, member)
    (pooler,) = {weights.requires_grad for name, weights in model.encoder.named_parameters() if "pooler" in name}
    assert pooler  # frozen, it would stay as it was drawn
    model.eval().save_pretrained(tmp_path / "saved")
    torch.manual_seed(1)
    loaded = TweetClassifier.from_pretrained(tmp_path / "saved")
    inputs = batch(padded="right")
    assert torch.equal(loaded(*inputs).logits, model(*inputs).logits)


@torch.no_grad()
def test_an_adapter_is_never_put_beside_the_base_of_another_that_lay_at_the_same_place(tmp_path):
    folder = tmp_path / "published"
    model = alone(tmp_path, "llama")
    model.save_pretrained(folder)
    shutil.copytree(tmp_path / "llama", folder / "bases" / "llama")
    first = TweetClassifier.from_pretrained(folder)  # keeps its base in memory
    inputs = batch(padded="right")
    torch.testing.assert_close(first(*inputs).logits, model(*inputs).logits)
    base = transformers.AutoModel.from_pretrained(tmp_path / "llama")
    base.norm.weight.data[3] += 0.5
    base.save_pretrained(folder / "bases" / "llama")
    with pytest.raises(AdapterError, match="has other weights than those that it was trained on"):
        TweetClassifier.from_pretrained(with_another_checksum(folder))


def test_folds_whose_adapters_have_different_bases_are_not_published_beside_one(tmp_path):
    model, runs = alone(tmp_path, "llama"), []
    for name in ("fold-0", "fold-1"):
        run = Run(Member("one", {"model_name_or_path": "llama"}), int(name[-1]), tmp_path / name, "")
        model.save_pretrained(run.model)
        runs.append(run)
    assert len(_member_tensors("one", runs, torch.float32)[1]["folds"]) == 2
    with_another_checksum(runs[1].model)
    with pytest.raises(InputError, match=r"fold-1/model is an adapter of other base weights than .*fold-0/model"):
        _member_tensors("one", runs, torch.float32)


def with_another_checksum(folder):
    """Return the folder, whose adapter now says that it was trained on other weights."""
    config = json.loads((folder / "config.json").read_text())
    config["adapter"]["base"]["sha256"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_without_its_base_or_beside_another_is_refused(tmp_path, monkeypatch):
    model = alone(tmp_path, "llama")
    model.save_pretrained(tmp_path / "saved")
    torch.manual_seed(1)
    base = transformers.AutoModel.from_pretrained(tmp_path / "llama")
    base.norm.weight.data[3] += 0.5
    base.save_pretrained(tmp_path / "llama")
    del model
    with pytest.raises(AdapterError, match="has other weights than those that it was trained on"):
        TweetClassifier.from_pretrained(tmp_path / "saved")
    shutil.move(tmp_path / "llama", tmp_path / "away")
    with pytest.raises(AdapterError, match=r"a folder that is not here; put that model's folder at .*bases/llama"):
        TweetClassifier.from_pretrained(tmp_path / "saved")
    base.norm.weight.data[3] -= 0.5
    base.save_pretrained(tmp_path / "saved" / "bases" / "llama")
    TweetClassifier.from_pretrained(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(AdapterError, match="an adapter needs the package peft: pip install peft"):
        TweetClassifier.from_pretrained(tmp_path / "saved")


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize(("kind", "head"), [("llama", "last_token"), ("bert", "last3_pooler")])
def test_beside_4_bits_an_adapter_learns_after_an_evaluation_as_before_and_loads_again(tmp_path, kind, head):
    """bitsandbytes packs weights anew for evaluation on some CPUs; nothing below them would learn from then on."""
    model, inputs = alone(tmp_path, kind, head, quantise="4bit"), batch(padded="right")

    def gradients():
        model.zero_grad()
        model(*inputs).logits.square().sum().backward()
        return {name: weights.grad for name, weights in model.named_parameters() if weights.requires_grad}

    before = gradients()
    logits = model(*inputs).logits.detach()
    after = gradients()
    assert all(gradient.abs().sum() > 0 for name, gradient in after.items() if "pooler" not in name)
    assert all(torch.equal(before[name], gradient) for name, gradient in after.items())
    model.save_pretrained(tmp_path / "saved")
    assert {weights.dtype for weights in load_file(tmp_path / "saved" / "model.safetensors").values()} == {
        torch.float32
    }
    loaded = TweetClassifier.from_pretrained(tmp_path / "saved")
    assert any(weights.dtype == torch.uint8 for weights in loaded.parameters())
    assert torch.equal(loaded(*inputs).logits, logits)
    assert "quantization_config" not in loaded.config.encoder


def test_quantised_weights_without_their_package_are_refused_with_file_and_line(tmp_path, call, monkeypatch, decoder):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    recipe = recipe_of(tmp_path, one="{head: last_token, quantise: 4bit, adapter: lora}")
    result = call(main, *job_words(decoder, tmp_path / "out", recipe=recipe))
    assert result.code == 2
    line = recipe.read_text().splitlines().index("  one: {head: last_token, quantise: 4bit, adapter: lora}") + 1
    assert f"{recipe}, line {line}, member one: quantise 4bit needs the package bitsandbytes; pip" in result.err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def decoder(tmp_path):
    """A random Llama with the tiny encoder's tokenizer, which has no padding token, as decoders' have none."""
    tiny = transformers.AutoTokenizer.from_pretrained(save_tiny_encoder(tmp_path / "tiny"))
    folder, special = tmp_path / "decoder", {"unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tiny.backend_tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    settings = {**DECODER, "vocab_size": len(tiny) + 8}  # tokens that transformers adds to a Llama's
    transformers.LlamaModel(transformers.LlamaConfig(**settings)).save_pretrained(folder)
    assert transformers.AutoTokenizer.from_pretrained(folder).pad_token is None
    return folder


@pytest.fixture
def planted(tmp_path):
    """200 tweets of three letters, with a side effect where the letter z is among them, and 60 to be predicted."""
    rng = random.Random(0)
    words = [[rng.choice("abcdefghz" if number % 2 else "abcdefgh") for _ in range(3)] for number in range(260)]
    rows = [(n, " ".join(tweet), "side_effect" if "z" in tweet else "none") for n, tweet in enumerate(words)]
    table = pd.DataFrame(rows, columns=["id", "text", "label"])
    files = {"train_file": tmp_path / "train.tsv", "test_file": tmp_path / "test.tsv"}
    table[:200].to_csv(files["train_file"], sep="\t", index=False)
    table[200:].to_csv(files["test_file"], sep="\t", index=False)
    return {"task": ROOT / "tasks" / "own_data.yaml", **files}


@pytest.mark.slow
def test_a_decoder_with_an_adapter_learns_a_planted_rule_and_its_job_is_used_like_any_other(
    decoder, planted, tmp_path, call
):
    """Its run is killed and resumes; the job votes, predicts new tweets, and is published and loaded elsewhere.

    The decoder is saved as its adapter, an encoder beside it with its adapter merged.
    """
    flags = {"learning_rate": 0.01, "num_train_epochs": 6, "save_strategy": "steps", "save_steps": 20}
    rows = {
        "decoder": "{head: last_token, adapter: {r: 8, target_modules: [q_proj, v_proj, down_proj], save: adapter}}",
        "encoder": f"{{model_name_or_path: {decoder.parent / 'tiny'}, head: mean, adapter: lora, max_steps: 2}}",
        "counts": "{classifier: tfidf-logistic}",
    }
    output = tmp_path / "out"
    options = {"max_train_samples": 200, "max_predict_samples": 60, "max_seq_length": 16, **flags, **planted}
    options |= {"recipe": recipe_of(tmp_path, **rows), "n_folds": 2}

    def words_for(output):
        words = job_words(decoder, output, **options)
        place = words.index("--data_dir")
        return [*words[:place], *words[place + 2 :]]

    words = words_for(output)
    run = output / "decoder" / "fold-0"
    job = start(train_words(words), tmp_path / "log")
    assert wait_for(lambda: any(run.glob("checkpoint-*/SEALED")), 120), (tmp_path / "log").read_text()
    job.send_signal(signal.SIGKILL)
    job.wait()
    result = call(main, *words)
    assert result.code == 0, result.err
    assert [event["event"] for event in history(run)][-2:] == ["trained", "done"]
    undisturbed = call(main, *words_for(tmp_path / "again"))
    assert undisturbed.code == 0, undisturbed.err
    for name in ("held_out.parquet", "test.parquet", "model/model.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "again" / "decoder" / "fold-0" / name).read_bytes()
    assert json.loads((run / "metrics.json").read_text())["held_out"]["f1"] > 0.9
    assert call(predict.main, output, planted["test_file"], "--output", tmp_path / "new.tsv").code == 0
    labels = pd.read_csv(tmp_path / "new.tsv", sep="\t", dtype=str)
    voted = pd.read_csv(output / "votes" / "final.tsv", sep="\t", dtype=str)
    assert labels.iloc[:, 1].tolist() == voted.iloc[:, 1].tolist()
    published = call(publish.main, output, "--to_folder", tmp_path / "published")
    assert published.code == 0
    assert (
        "adapters are published without the weights of decoder, which lie in a folder of this machine" in published.err
    )
    weights = tmp_path / "published" / "members" / "decoder" / "model.safetensors"
    assert weights.stat().st_size < (decoder / "model.safetensors").stat().st_size
    assert str(tmp_path) not in (tmp_path / "published" / "config.json").read_text()
    assert "put that model's folder at `bases/decoder`" in (tmp_path / "published" / "README.md").read_text()
    result = call(predict.main, tmp_path / "published", planted["test_file"], "--output", tmp_path / "not.tsv")
    assert result.code == 2
    assert "it is an adapter of decoder, a folder that is not here; put that model's folder at" in result.err
    shutil.copytree(decoder, tmp_path / "published" / "bases" / "decoder")
    tweets = pd.read_csv(planted["test_file"], sep="\t").assign(user_id="u").rename(columns={"id": "tweet_id"})
    tweets[["tweet_id", "user_id", "text"]].to_csv(tmp_path / "texts.tsv", sep="\t", index=False)
    (loaded,) = labels_in_a_fresh_process([tmp_path / "published"], tmp_path / "texts.tsv", tmp_path / "empty")
    assert loaded == voted.iloc[:, 1].tolist()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{head: last_token, adapter: prefix}", "adapter prefix: write lora, or a mapping such as {kind: lora, r: 16}"),
        ("{head: last_token, adapter: {rank: 8}}", "there is no rank; it may have kind, r, alpha"),
        ("{head: last_token, adapter: {r: 0}}", "r must be a whole number from 1 to 4096"),
        ("{head: last_token, adapter: {alpha: 0}}", "alpha must be a number from 0.001 to 1e+06"),
        ("{head: last_token, adapter: {dropout: 2}}", "dropout must be a number from 0 to 0.99"),
        ("{classifier: tfidf-svm, adapter: lora}", "adapter lora is one of an encoder; write adapter: none"),
        ("{head: last_token, adapter: {target_modules: [quary]}}", "it has no linear layer quary; the adapter's "),
        ("{head: last_token, quantise: 4bit}", "only an adapter could learn; write adapter: lora beside it"),
        ("{head: last_token, quantise: 4bit, adapter: {save: merged}}", "merging would round it to the 4bit weights"),
        ("{head: last_token, adapter: {save: alone}}", "save alone: choose merged or adapter"),
        ("{head: last_token, adapter: {save: adapter}, adapt: {epochs: 1}}", "adapt makes one that only this job has"),
        ("{head: last3}", "choose --head last_token for a decoder, or a BERT-like encoder"),
        (
            "{head: last_token}\n  two: {head: mean}",
            "has no padding token, and this head reads no decoder; choose --head",
        ),
    ],
)
def test_what_no_decoder_can_be_trained_with_is_refused_before_training(decoder, tmp_path, call, row, message):
    recipe = recipe_of(tmp_path, one=row)
    result = call(main, *job_words(decoder, tmp_path / "out", recipe=recipe))
    assert result.code == 2, result.out
    assert message in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "out").exists()
