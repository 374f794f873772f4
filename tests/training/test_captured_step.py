"""One captured step: the losses and gradients of the encoder's own modules, and nothing that waits for a GPU."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from datasets import Dataset
from small_encoders import CountingMode, small_classifier, without_dropout
from transformers import BertConfig, RobertaConfig

from heads import HEADS, TweetClassifier, TweetClassifierConfig
from smm4h.config.job import Member
from smm4h.models.batching import PaddingCollator
from smm4h.models.padding_free.attention import RaggedAttention
from smm4h.models.padding_free.encoder import PaddingFreeEncoder
from smm4h.training.captured import step as captured_step
from smm4h.training.captured.rows import TrainingTweets
from smm4h.training.captured.step import CapturedStep
from smm4h.training.captured.trainer import can_capture
from smm4h.training.losses import LabelSetLoss, Loss
from smm4h.training.optim import RAdam

N_TWEETS = 4  # of a full batch
FORWARD_HEADS = [head for head in HEADS if head != "last_token"]


def tweets_of(n_tweets, *, seed=0, longest=20, soft=False, second=False) -> Dataset:
    rng = np.random.default_rng(seed)
    ids = [rng.integers(3, 60, rng.integers(3, longest)).tolist() for _ in range(n_tweets)]
    labels = rng.dirichlet(np.ones(3), n_tweets).tolist() if soft else rng.integers(0, 3, n_tweets).tolist()
    starts = {"second": [[len(tweet) // 2] for tweet in ids]} if second else {}
    return Dataset.from_dict({"input_ids": ids, "labels": labels, **starts})


def captured(model, tweets, loss=None, dtype=torch.float32, max_norm=0.0) -> CapturedStep:
    """Return a captured step of a model whose mean loss is `mean_of`."""
    loss = loss or Loss()
    encoder = model.encoder_override = PaddingFreeEncoder(model.encoder, dtype)
    rows = TrainingTweets(tweets, loss, N_TWEETS, 3, model.config.pad_token_id or 0)
    return CapturedStep(model, encoder, rows, lambda outputs, targets: mean_of(loss, outputs, targets), max_norm)


def mean_of(loss, outputs, targets):
    return loss(outputs.logits.float(), targets).sum() / loss.normalizer(targets)


def plain(model, tweets, indices, loss):
    """Return the loss and the gradients of the encoder's own modules, on a padded batch."""
    model.encoder_override = None
    batch = PaddingCollator(model.config.pad_token_id or 0)([tweets[index] for index in indices])
    targets = loss.targets(batch.pop("labels"), 3)
    mean = mean_of(loss, model(**batch), targets)
    mean.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return mean.item(), found


def check_batches(model, tweets, batches, loss):
    """Compare losses and gradients of a captured step with those of the encoder's own modules."""
    expected = [plain(model, tweets, indices, loss) for indices in batches]
    step = captured(model, tweets, loss)
    step.flatten(RAdam(model.parameters()))
    for indices, (mean, gradients) in zip(batches, expected, strict=True):
        step(indices)
        assert step.loss.item() == pytest.approx(mean, abs=1e-6)
        for name, parameter in model.named_parameters():
            if name in gradients:
                torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize("head", FORWARD_HEADS)
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_loss_and_gradients_are_those_of_the_padded_encoder_in_full_and_incomplete_batches(tmp_path, kind, head):
    model = without_dropout(small_classifier(tmp_path, head, kind))
    tweets = tweets_of(9)
    batches = [[0, 1, 2, 3], [4, 5], [6, 7, 8, 3], [8]]
    check_batches(model, tweets, batches, Loss())


@pytest.mark.parametrize(
    ("loss", "kinds"),
    [
        (Loss(weights=torch.tensor([5.0, 2.0, 0.5]), focal_gamma=1.0, smoothing=0.1), {}),
        (Loss(adjustment=torch.tensor([-2.0, -1.0, 0.0])), {"soft": True}),
        (Loss(), {"second": True}),
        (LabelSetLoss(weights=torch.tensor([3.0, 1.0, 1.0])), {}),
    ],
)
def test_every_loss_soft_labels_and_second_texts_are_captured(tmp_path, loss, kinds):
    model = without_dropout(small_classifier(tmp_path, "last2_pooler"))
    tweets = tweets_of(7, **kinds)
    batches = [[0, 1, 2, 3], [4, 5, 6]]
    check_batches(model, tweets, batches, loss)


def test_a_poolers_weights_that_no_head_reads_are_left_alone_by_weight_decay(tmp_path):
    model = without_dropout(small_classifier(tmp_path, "last3"))
    before = model.encoder.pooler.dense.weight.clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    step = captured(model, tweets_of(8), max_norm=0.01)
    step.flatten(optimizer)
    step([0, 1, 2, 3])
    optimizer.step()
    torch.testing.assert_close(model.encoder.pooler.dense.weight, before, atol=0, rtol=0)
    assert step.norm > 0.01
    clipped = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert clipped.item() == pytest.approx(0.01, rel=1e-3)


def test_predictions_between_steps_see_the_weights_of_the_last_step(tmp_path):
    model = small_classifier(tmp_path, "last2_pooler")
    tweets = tweets_of(8)
    optimizer = RAdam(model.parameters(), lr=0.05, betas=(0.9, 0.8))
    step = captured(model.train(), tweets)
    step.flatten(optimizer)
    batch = PaddingCollator(0)([{"input_ids": ids} for ids in tweets["input_ids"]])
    for _ in range(4):
        step([0, 1, 2, 3])
        optimizer.step()
        model.eval()
        with torch.no_grad():
            override, found = model.encoder_override, model(**batch).logits
            model.encoder_override = None
            torch.testing.assert_close(found, model(**batch).logits, atol=1e-5, rtol=1e-4)
        model.encoder_override = override
        model.train()
    step.end()
    assert len({p.untyped_storage().data_ptr() for p in model.parameters()}) == len(list(model.parameters()))


def test_a_batch_may_hold_copies_of_the_longest_tweet_alone(tmp_path):
    model = without_dropout(small_classifier(tmp_path, "last3"))
    lengths = [60, *[4] * 8]
    tweets = Dataset.from_dict({"input_ids": [[5] * n for n in lengths], "labels": [1, *[0] * 8]})
    batches = [[1, 2, 3, 4], [0, 0, 0, 0]]
    check_batches(model, tweets, batches, Loss())


@pytest.mark.parametrize("config_class", [BertConfig, RobertaConfig])
def test_a_step_of_bert_base_asks_the_device_for_no_value_and_its_shapes_depend_on_the_width_alone(
    monkeypatch, config_class
):
    settings = TweetClassifierConfig(
        encoder=config_class(vocab_size=60), head="last3_pooler", num_labels=3, pad_token_id=0
    )
    with torch.device("meta"):
        model = TweetClassifier(settings).train()
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no `meta`
    step = captured(model, tweets_of(N_TWEETS), dtype=torch.bfloat16, max_norm=1.0)
    step.encoder.attention, step.encoder.residual_dtype, step.in_groups = RaggedAttention(), torch.float32, False
    step.flatten(torch.optim.AdamW(model.parameters(), fused=False))
    step.divides_gradients = False
    with CountingMode() as counted:
        step([0, 1, 2, 3])
    assert 500 < counted.n_launches < 700, counted.n_launches


@pytest.mark.parametrize(
    ("settings", "longest", "is_captured"),
    [
        ({"head": "last3"}, 128, True),
        ({"head": "bigru"}, 40, True),
        ({"head": "mean", "optim": "adamw_torch"}, 40, True),
        ({"head": "last3", "captured": False}, 40, False),
        ({"head": "last3"}, 129, False),
        ({"head": "bigru", "bigru_input": "tokens"}, 40, False),
        ({"head": "last3", "truncation": "windows"}, 40, False),
        ({"head": "last3", "optim": "adafactor"}, 40, False),
    ],
)
def test_a_step_is_captured_unless_it_needs_a_value_on_the_host_or_more_than_each_value_alone(
    tmp_path, settings, longest, is_captured
):
    own = {name: settings[name] for name in ("bigru_input",) if name in settings}
    model = small_classifier(tmp_path, settings["head"], **own)
    assert can_capture(Member("m", settings), model.head, longest) is is_captured


def test_graphs_of_runs_on_streams_of_their_own_are_recorded_there_and_share_no_workspace(monkeypatch):
    monkeypatch.setattr(torch.cuda, "default_stream", lambda: "default")
    monkeypatch.setattr(captured_step, "_side_stream", lambda: "side")
    recorded = []
    for current in ("default", "first", "second"):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda current=current: current)
        recorded.append(captured_step._recording_stream())
    assert recorded == ["side", "first", "second"]
