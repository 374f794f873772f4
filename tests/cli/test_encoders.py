"""Encoders that nothing can be learnt with are refused in one sentence, before the output folder is claimed."""

import json
import sys
from pathlib import Path

import pytest
import transformers
from conftest import job_words, recipe_of, save_tiny_encoder, shell
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from smm4h.cli.train import main

SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
T5 = {"vocab_size": 300, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2}
BART = {"vocab_size": 300, "d_model": 16, "encoder_layers": 3, "decoder_layers": 3, "max_position_embeddings": 64}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def save_model(folder: Path, kind: str, **settings) -> Path:
    """Save a small random model of a kind of transformers, without a tokenizer."""
    config = getattr(transformers, f"{kind}Config")(**settings)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, *, template: bool = True, characters: str | None = None) -> Path:
    """Save a tokenizer of single characters, with [CLS] and [SEP] around a text, if it has a template."""
    known = characters or "".join(map(chr, range(33, 255)))
    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL, *known])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    return folder


def encoder_without_tokenizer(folder: Path) -> Path:
    return save_model(folder, "Bert", **SIZES)


def encoder_with_an_empty_vocabulary(folder: Path) -> Path:
    (folder / "tokenizer_config.json").write_text("{}") if save_model(folder, "Bert", **SIZES) else None
    return folder


def decoder(kind: str):
    settings = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64} if kind == "GPT2" else {}

    def save(folder: Path) -> Path:
        sizes = {"vocab_size": 300, "pad_token_id": 0, **settings} if settings else {**SIZES, "pad_token_id": 0}
        return save_tokenizer(save_model(folder, kind, **sizes))

    return save


def encoder_without_a_first_token(folder: Path) -> Path:
    return save_tokenizer(save_model(folder, "Bert", **SIZES), template=False)


def encoder_of_few_positions(folder: Path) -> Path:
    return save_tokenizer(save_model(folder, "Bert", **{**SIZES, "max_position_embeddings": 20}))


def roberta_of_few_positions(folder: Path) -> Path:
    sizes = {**SIZES, "max_position_embeddings": 25, "pad_token_id": 0}
    return save_tokenizer(save_model(folder, "Roberta", **sizes))


def encoder_of_few_embeddings(folder: Path) -> Path:
    return save_tokenizer(save_model(folder, "Bert", **{**SIZES, "vocab_size": 50}))


def encoder_of_few_characters(folder: Path) -> Path:
    return save_tokenizer(save_model(folder, "Bert", **SIZES), characters="abcdefghi")


def encoder_with_a_pointer(folder: Path) -> Path:
    save_tiny_encoder(folder)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 433297515\n"
    (folder / "model.safetensors").write_text(pointer)
    return folder


def encoder_with_broken_weights(folder: Path) -> Path:
    save_tiny_encoder(folder)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:3000])
    return folder


REFUSED = {
    "no tokenizer": (encoder_without_tokenizer, "there is no tokenizer in that folder; save it there too"),
    "no vocabulary": (encoder_with_an_empty_vocabulary, "its tokenizer knows no word piece of the tweets"),
    "GPT-2": (decoder("GPT2"), "it gives all tweets the same states: the first token decides, and in a decoder"),
    "Llama": (decoder("Llama"), "it gives all tweets the same states"),
    "ModernBERT decoder": (decoder("ModernBertDecoder"), "it gives all tweets the same states"),
    "no first token": (encoder_without_a_first_token, "its tokenizer puts no token of its own, such as [CLS]"),
    "few positions": (encoder_of_few_positions, "it reads 20 tokens at most, and --max_seq_length is 24; lower it"),
    "few positions, RoBERTa": (roberta_of_few_positions, "it reads 24 tokens at most, and --max_seq_length is 25"),
    "few embeddings": (encoder_of_few_embeddings, "its weights embed 50: they are of different models"),
    "few characters": (encoder_of_few_characters, "of the tweets' word pieces; choose an encoder for their language"),
    "T5": (lambda f: save_tokenizer(save_model(f, "T5", **T5)), "it is an encoder-decoder (t5)"),
    "BART": (lambda f: save_tokenizer(save_model(f, "Bart", **BART)), "it is an encoder-decoder (bart)"),
    "pointer": (encoder_with_a_pointer, "model.safetensors is only a pointer of Git LFS; run git lfs pull"),
    "broken weights": (encoder_with_broken_weights, "can't be loaded: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_encoder_that_nothing_can_be_learnt_with_is_refused(name, tmp_path, call):
    save, message = REFUSED[name]
    encoder, output = save(tmp_path / "encoder"), tmp_path / "out"
    longest = 25 if "RoBERTa" in name else 24
    result = call(main, *job_words(encoder, output, "--members", "last3-42", "--folds", 0, max_seq_length=longest))
    assert result.code == 2, result.err
    assert f"--model_name_or_path {encoder} can't be " in result.err
    assert message in result.err
    assert "Traceback" not in result.err
    assert not output.exists()


@pytest.mark.parametrize("flags", [["--fetch"], []])
def test_fetching_checks_too(tmp_path, call, flags):
    encoder = decoder("GPT2")(tmp_path / "encoder")
    result = call(main, *job_words(encoder, tmp_path / "out", *flags))
    assert result.code == 2
    assert "it gives all tweets the same states" in result.err


def test_a_head_that_reads_all_tokens_may_sit_on_a_decoder(tmp_path, call):
    encoder = decoder("GPT2")(tmp_path / "encoder")
    recipe = recipe_of(tmp_path, one="{head: mean, checkpoint: last}")
    result = call(main, *job_words(encoder, tmp_path / "out", "--fetch", recipe=recipe))
    assert result.code == 0, result.err


def test_an_optimizer_without_its_package_is_refused(tiny_encoder, tmp_path, call):
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", optim="grokadamw"))
    assert result.code == 2
    assert "--optim grokadamw can't be used: " in result.err
    assert "choose --optim radam" in result.err
    assert not (tmp_path / "out").exists()


def test_all_processes_of_a_launch_leave_the_folder_alone(tmp_path):
    encoder = encoder_without_tokenizer(tmp_path / "encoder")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_config.yaml"]
    words = job_words(encoder, tmp_path / "out", "--members", "last3-42", "--folds", 0)
    result = shell(*launcher, "--num_processes", 2, "run_classification.py", *words)
    assert result.code
    assert result.err.count("there is no tokenizer in that folder") == 1
    assert not (tmp_path / "out").exists()


def test_an_encoder_out_of_reach_is_named_at_once_with_the_ways_out(tmp_path):
    """The Hub does not respond: its address is a port where nothing listens."""
    output = tmp_path / "out"
    environment = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
    words = job_words("team/unknown", output, "--members", "last3-42", "--folds", 0)
    result = shell(sys.executable, "run_classification.py", *words, env=environment)
    assert result.code == 2
    (line,) = result.err.strip().splitlines()  # no retries
    assert line.startswith("error: --model_name_or_path team/unknown can't be loaded: it is not on this machine")
    assert "name a folder" in line
    assert "--fetch" in line
    assert "quickstart/encoder.txt" in line
    assert not output.exists()


def test_a_local_encoder_needs_no_folder_that_can_be_written_but_the_output(tiny_encoder, tmp_path):
    (tmp_path / "file").touch()
    environment = {"HF_HOME": str(tmp_path / "file" / "home"), "HF_HUB_OFFLINE": "0"}
    rows = {"one": "{head: mean}", "counts": "{classifier: tfidf-svm}", "learner": "{head: last3, pseudo_labels: true}"}
    words = job_words(
        tiny_encoder, tmp_path / "out", recipe=recipe_of(tmp_path, **rows), n_folds=2, baselines="textcnn"
    )
    result = shell(sys.executable, "run_classification.py", *words, env=environment)
    assert result.code == 0, result.err
    assert (tmp_path / "out" / "votes" / "final.tsv").exists()


def test_tweets_that_are_cut_are_counted_in_the_report_whatever_process_made_it(tiny_encoder, tmp_path, call):
    recipe = recipe_of(tmp_path, long="{head: mean, max_seq_length: 80}", short="{head: last3}")
    reports = []
    for folder, order in (("a", ("long", "short")), ("b", ("short", "long"))):
        for member in order:
            words = job_words(tiny_encoder, tmp_path / folder, "--members", member, "--folds", 0, recipe=recipe)
            result = call(main, *words)
            assert result.code == 0, result.err
        reports.append((tmp_path / folder / "data_report.json").read_bytes())
    assert reports[0] == reports[1]
    found = [finding for finding in json.loads(reports[0]) if "are cut" in finding["what"]]
    assert [finding["where"] for finding in found] == ["labelled", "labelled", "test", "test"]
    assert f"--max_seq_length 80 in tokens of {tiny_encoder} and are cut; the longest has" in found[0]["what"]
    assert found[0]["count"] < found[1]["count"]
    assert f"labelled: {found[0]['count']} {found[0]['what']}" in result.out
