"""The heads against the published formulas, over every kind of encoder, and loaded in a fresh process."""

import json
import sys

import numpy as np
import pytest
import torch
import transformers
from conftest import shell
from small_encoders import ENCODERS, small_classifier

from heads import HEADS, TweetClassifier, TweetClassifierConfig

IDS = torch.tensor([[1, 5, 6, 7, 2], [1, 8, 2, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru_step(weights, x, h):
    """Cho et al. 2014 with torch's order of gates: reset, update, new."""
    w_ih, w_hh, b_ih, b_hh = weights
    (xr, xz, xn), (hr, hz, hn) = np.split(w_ih @ x + b_ih, 3), np.split(w_hh @ h + b_hh, 3)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    return (1 - z) * np.tanh(xn + r * hn) + z * h


def features_by_hand(model, head, bigru_input):
    """The features (n_tweets, width) that Fig. 2 of the paper puts before the classifier, in numpy; or their mean."""
    with torch.no_grad():
        out = model.encoder(IDS, attention_mask=MASK, output_hidden_states=True)
    layers = [layer.numpy() for layer in out.hidden_states]
    dense = model.encoder.pooler.dense
    pooled = np.tanh(layers[-1][:, 0] @ dense.weight.detach().numpy().T + dense.bias.detach().numpy())
    if head == "last_token":
        return np.stack([layers[-1][tweet][int(n) - 1] for tweet, n in enumerate(MASK.sum(dim=1))])
    if head == "mean":
        return np.stack([layers[-1][tweet][: int(n)].mean(axis=0) for tweet, n in enumerate(MASK.sum(dim=1))])
    if head != "bigru":
        cls_states = [layers[-i][:, 0] for i in range(1, 1 + int(head[4]))]
        return np.concatenate([pooled, *cls_states] if head.endswith("pooler") else cls_states, axis=1)
    weights = {name: p.detach().numpy() for name, p in model.head.gru.named_parameters()}
    rows = []
    for tweet in range(len(IDS)):
        steps = [pooled[tweet]] if bigru_input == "pooler" else list(layers[-1][tweet][: int(MASK[tweet].sum())])
        final = []
        for suffix, sequence in (("", steps), ("_reverse", steps[::-1])):
            names = [f"{n}_l0{suffix}" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            h = np.zeros(8)
            for x in sequence:
                h = gru_step([weights[n] for n in names], x, h)
            final.append(h)
        rows.append(np.concatenate(final))
    return np.stack(rows)


@pytest.mark.parametrize(("head", "bigru_input"), [*((h, "pooler") for h in HEADS), ("bigru", "tokens")])
def test_a_head_computes_the_papers_formula(tmp_path, head, bigru_input):
    model = small_classifier(tmp_path, head, bigru_input=bigru_input)
    with torch.no_grad():
        logits = model(IDS, attention_mask=MASK).logits.numpy()
    weight, bias = (p.detach().numpy() for p in (model.classifier.weight, model.classifier.bias))
    expected = features_by_hand(model, head, bigru_input) @ weight.T + bias
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("head", HEADS)
def test_every_encoder_takes_every_head_and_padding_changes_no_logit(tmp_path, kind, head):
    model = small_classifier(tmp_path, head, kind, bigru_input="tokens")
    with torch.no_grad():
        padded = model(IDS, attention_mask=MASK, token_type_ids=torch.zeros_like(IDS)).logits[1]
        alone = model(IDS[1:, :3], attention_mask=MASK[1:, :3]).logits[0]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)
    model.train()
    model(IDS, attention_mask=MASK, labels=torch.tensor([0, 2])).loss.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all("pooler" in name for name in without), without


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_new_classifier_keeps_the_pretrained_weights(tmp_path, kind):
    model = small_classifier(tmp_path, "last2_pooler", kind)
    saved = transformers.AutoModel.from_pretrained(tmp_path / kind).state_dict()
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, saved[name]), name


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_an_encoder_within_a_masked_lm_checkpoint_is_loaded(tmp_path, kind):
    config_class, small = ENCODERS[kind]
    torch.manual_seed(1)
    lm = transformers.AutoModelForMaskedLM.from_config(config_class(**small))
    lm.save_pretrained(tmp_path / "lm")
    model = TweetClassifier.from_encoder(str(tmp_path / "lm"), TweetClassifierConfig(head="last3", num_labels=2))
    for name, tensor in lm.base_model.state_dict().items():
        assert torch.equal(tensor, model.encoder.state_dict()[name]), name


def test_a_checkpoint_that_lacks_encoder_weights_is_refused(tmp_path):
    small_classifier(tmp_path, "bigru")
    from safetensors.torch import load_file, save_file

    path = tmp_path / "bert" / "model.safetensors"
    weights = {name: tensor for name, tensor in load_file(path).items() if "layer.1." not in name}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 16 weights of its encoder"):
        TweetClassifier.from_encoder(str(tmp_path / "bert"), TweetClassifierConfig(num_labels=2))


@pytest.mark.parametrize(
    ("settings", "message"), [({"head": "cnn"}, "no head cnn"), ({"bigru_input": "cls"}, "no bigru_input")]
)
def test_an_unknown_head_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        small_classifier(tmp_path, **{"head": "bigru", **settings})


FRESH = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder, text = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
logits = model(**tokenizer(text, return_tensors="pt")).logits[0].tolist()
label = pipeline("text-classification", folder, trust_remote_code=True)(text)[0]["label"]
print(json.dumps({"logits": logits, "label": label, "cleaning": model.config.cleaning, "task": model.config.task_name}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_a_saved_folder_loads_in_a_fresh_process_with_equal_logits(tmp_path, tiny_encoder, head):
    torch.manual_seed(3)
    labels = {0: "defect", 1: "possible", 2: "none"}
    config = TweetClassifierConfig(
        head=head,
        bigru_hidden_size=8,
        cleaning=["urls"],
        task_name="task5",
        id2label=labels,
        label2id={v: k for k, v in labels.items()},
    )
    model = TweetClassifier.from_encoder(str(tiny_encoder), config).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_encoder)
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    text = "my son was born"
    with torch.no_grad():
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
    (tmp_path / "empty").mkdir()
    env = {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    result = shell(sys.executable, "-I", "-c", FRESH, tmp_path / "saved", text, cwd=tmp_path / "empty", env=env)
    assert result.code == 0, result.err
    loaded = json.loads(result.out)
    np.testing.assert_allclose(loaded["logits"], logits.numpy(), atol=1e-6)
    assert loaded["label"] == labels[int(logits.argmax())]
    assert loaded["cleaning"] == ["urls"]
    assert loaded["task"] == "task5"
    assert str(tiny_encoder) not in (tmp_path / "saved" / "config.json").read_text()


def test_the_model_type_is_none_of_transformers():
    """With the encoder's, a load without trust_remote_code would silently give a random classifier."""
    assert TweetClassifierConfig.model_type not in transformers.CONFIG_MAPPING


def test_windows_are_pooled_by_the_likeliest_rare_label_or_by_their_mean(tmp_path):
    model = small_classifier(tmp_path, "mean", rare=[1])
    logits = torch.tensor([[2.0, 0, 0], [0, 3.0, 0], [0, 1.0, 0], [0, 0, 5.0]], requires_grad=True)
    counts = torch.tensor([3, 1])
    assert torch.equal(model._pool_windows(logits, counts), logits[[1, 3]])
    model._pool_windows(logits, counts).sum().backward()
    assert logits.grad.sum(dim=1).tolist() == [0, 3, 0, 3]  # only the windows that decide learn
    model.config.window_pooling = "mean"
    expected = torch.stack([logits[:3].softmax(-1).mean(0), logits[3].softmax(-1)])
    torch.testing.assert_close(model._pool_windows(logits, counts).softmax(-1), expected)


def test_windows_of_label_sets_are_pooled_for_each_label_and_learn_by_binary_cross_entropy(tmp_path):
    model = small_classifier(tmp_path, "mean", problem_type="multi_label_classification")
    logits = torch.tensor([[2.0, 0, 0], [0, 3.0, 0], [0, 1.0, 0], [0, 0, 5.0]])
    counts = torch.tensor([3, 1])
    assert model._pool_windows(logits, counts).tolist() == [[2.0, 3.0, 0.0], [0.0, 0.0, 5.0]]
    model.config.window_pooling = "mean"
    expected = torch.stack([logits[:3].sigmoid().mean(0), logits[3].sigmoid()])
    torch.testing.assert_close(model._pool_windows(logits, counts).sigmoid(), expected)
    sets = torch.tensor([[1.0, 0, 1.0], [0, 0, 0]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:2], sets)
    torch.testing.assert_close(model._loss(logits[:2], torch.tensor([5, 0])), expected)
    torch.testing.assert_close(model._loss(logits[:2], sets), expected)


def test_a_text_of_one_window_is_predicted_as_without_windows(tmp_path):
    model = small_classifier(tmp_path, "last2_pooler", rare=[1])
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
    assert torch.equal(model(ids, window_counts=torch.tensor([1, 1])).logits, model(ids).logits)
