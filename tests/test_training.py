"""RAdam, the loss over a step, the order of predictions, and which epoch is kept."""

import numpy as np
import pytest
import torch
from conftest import job_words
from torch import nn

import run_classification
from smm4h.config.plan import make_plan
from smm4h.config.recipe import read_command_line
from smm4h.data.folds import write_folds
from smm4h.data.prediction_files import read_predictions
from smm4h.data.tokenization import token_table
from smm4h.training.optim import RAdam
from smm4h.training.run import _trainer, predict_proba, train_run
from smm4h.training.run_data import PseudoLabels, training_part
from smm4h.training.trainer import BestEpoch
from smm4h.utils.errors import InputError


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.9)])
def test_radam_has_the_numbers_of_torchs(weight_decay, betas):
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(20, 30)) for _ in range(3)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    idle = nn.Parameter(torch.ones(2))  # like a pooler that no head reads
    options = {"lr": 1e-2, "betas": betas, "eps": 1e-6, "weight_decay": weight_decay}
    one = RAdam([*ours, idle], **options)
    other = torch.optim.RAdam(theirs, decoupled_weight_decay=True, **options)
    schedules = [torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, 300) for o in (one, other)]
    for _ in range(300):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p) + p.detach()
            q.grad = p.grad.clone()
        for step in (one, other, *schedules):
            step.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, atol=2e-6, rtol=0)
    assert torch.equal(idle, torch.ones(2))


def test_a_step_that_overflows_in_fp16_is_none_to_radam():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.ones(5)) for _ in range(2)]
    ours, theirs = RAdam([weights[0]], lr=0.1), torch.optim.RAdam([weights[1]], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(20):
        scale, gradient = scaler.scale(torch.ones(())), torch.randn(5)
        if step in (0, 3, 12):  # before there are moments, while only they are used, and later
            weights[0].grad = torch.full((5,), torch.inf)
        else:
            weights[0].grad, weights[1].grad = gradient * scale, gradient
            theirs.step()
        scaler.step(ours)
        scaler.update()
    torch.testing.assert_close(*weights)


def test_radam_goes_on_where_its_saved_state_ends():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(5)) for _ in range(2)]
    with torch.no_grad():
        weights[1].copy_(weights[0])
    gradients = torch.randn(20, 5)
    through, before = RAdam([weights[0]], lr=0.1), RAdam([weights[1]], lr=0.1)
    for step, gradient in enumerate(gradients):
        if step == 10:
            after = RAdam([weights[1]], lr=0.1)
            after.load_state_dict(before.state_dict())
            before = after
        for weight, optimizer in zip(weights, (through, before), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(*weights)


@pytest.fixture
def job(tiny_encoder, tmp_path):
    """Builds runs of the thinned quickstart with these flags: (runs, data)."""

    def build(*flags):
        read = read_command_line(job_words(tiny_encoder, tmp_path / "out", *flags))
        tweets = run_classification.load_splits(read)
        plan = make_plan(read, tweets.content_hashes())
        write_folds(tweets.labelled, plan.folds_file)
        return plan.runs, run_classification.run_data(plan, read, tweets)

    return build


def trainer_of(run, data, tmp_path, n_tweets):
    dataset = training_part(run, data, None).select(range(n_tweets))
    return _trainer(run, data, dataset, lambda step, steps: None, lambda: False)


@pytest.mark.parametrize("balance", [(), ("--class_weights", "{1: 3, 2: 0.5}", "--label_smoothing_factor", 0.1)])
@pytest.mark.parametrize("n_tweets", [16, 10, 13])
def test_four_times_four_gives_the_gradients_of_sixteen(job, tmp_path, n_tweets, balance):
    """RAdam's first step is lr x gradient, so equal weights are equal gradients; 10 and 13 end in a short batch."""
    weights = []
    for batch, accumulation in ((4, 4), (16, 1)):
        flags = ("--per_device_train_batch_size", batch, "--gradient_accumulation_steps", accumulation)
        off = ("--max_steps", 1, "--learning_rate", 1.0, "--classifier_dropout", 0, "--eval_strategy", "no")
        order = ("--checkpoint", "last", "--train_sampling_strategy", "sequential")
        runs, data = job(*flags, *off, *balance, *order)
        trainer = trainer_of(runs[0], data, tmp_path, n_tweets)
        for module in trainer.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.train()
        assert trainer.state.global_step == 1
        weights.append({name: p.detach() - before[name] for name, p in trainer.model.named_parameters()})
    assert max(float(change.abs().max()) for change in weights[0].values()) > 1e-3
    for name, change in weights[0].items():
        torch.testing.assert_close(change, weights[1][name], atol=2e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_predictions_stand_in_input_order_whatever_the_training_order(job, tmp_path, strategy):
    runs, data = job("--train_sampling_strategy", strategy)
    trainer = trainer_of(runs[0], data, tmp_path, 20)
    dataset = training_part(runs[0], data, None)
    found = predict_proba(trainer, dataset)
    trainer.model.eval()
    for row in range(0, len(dataset), 5):
        with torch.no_grad():
            logits = trainer.model(torch.tensor([dataset[row]["input_ids"]])).logits[0]
        np.testing.assert_allclose(found[row], logits.softmax(0), atol=1e-5)


def test_evaluations_pair_labels_with_their_own_tweets(job, tmp_path):
    """A model that is scored on its own predictions as gold must score 1.0 (0.0 where it predicts nothing rare)."""
    runs, data = job("--train_sampling_strategy", "group_by_length")
    trainer = trainer_of(runs[0], data, tmp_path, 20)
    dataset = training_part(runs[0], data, None)
    with torch.no_grad():  # centred and stretched, so that it names all classes
        logits = np.log(predict_proba(trainer, dataset))
        trainer.model.classifier.bias -= torch.from_numpy(logits.mean(axis=0))
    choices = predict_proba(trainer, dataset).argmax(axis=1)
    assert len(set(choices.tolist())) > 1
    relabelled = dataset.remove_columns("labels").add_column("labels", choices)
    confusion = trainer.evaluate(relabelled)
    assert confusion["eval_f1"] == (1.0 if set(choices.tolist()) & {0, 1} else 0.0)


def evaluated(callback, score, weight):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    state = type("State", (), {"epoch": weight, "global_step": int(weight)})()
    metrics = {"eval_f1": score, "eval_precision": 0.0, "eval_recall": 0.0, "eval_cross_entropy": 1.0}
    callback.on_evaluate(None, state, None, metrics=metrics, model=model)
    return model


@pytest.mark.parametrize(("scores", "kept"), [([0.2, 0.5, 0.3], 2), ([0.0, 0.0, 0.0], 3), ([0.5, 0.5, 0.4], 2)])
def test_the_best_epoch_is_kept_and_of_equals_the_later_one(scores, kept):
    callback = BestEpoch("f1")
    for epoch, score in enumerate(scores, start=1):
        model = evaluated(callback, score, float(epoch))
    callback.restore(model)
    assert model.weight.item() == kept


def test_a_run_is_the_same_bits_alone_and_after_another_one(job):
    runs, data = job()
    train_run(runs[3], data)
    alone = runs[3].test_file.read_bytes(), (runs[3].directory / "model" / "model.safetensors").read_bytes()
    for run in (runs[10], runs[3]):
        train_run(run, data)
    again = runs[3].test_file.read_bytes(), (runs[3].directory / "model" / "model.safetensors").read_bytes()
    assert alone == again


def test_what_an_interrupted_run_left_is_thrown_away(job):
    runs, data = job()
    (runs[0].directory / "checkpoint-3").mkdir(parents=True)
    (runs[0].directory / "checkpoint-3" / "model.safetensors").write_text("torn")
    (runs[0].directory / ".trained.partial").mkdir()
    (runs[0].directory / "held_out.parquet").write_text("torn")
    assert not runs[0].is_done()
    train_run(runs[0], data)
    assert runs[0].is_done()
    assert read_predictions(runs[0].held_out_file).maker["fingerprint"] == runs[0].fingerprint


def test_no_held_out_tweet_is_in_its_training_part(job):
    runs, data = job()
    for run in runs[:5]:
        labelled = token_table(data.token_folder, "labelled", run.member)
        held_out = np.flatnonzero(data.held_out(run))
        part = training_part(run, data, None)
        assert not set(part["row"]) & set(held_out.tolist())
        assert len(part) + len(held_out) == len(labelled) == 60
        assert part["labels"][:] == [labelled["labels"][row] for row in part["row"]]


def test_pseudo_labelled_tweets_join_the_training_part_with_their_voted_labels(job):
    runs, data = job()
    pseudo = PseudoLabels(rows=np.array([3, 17]), labels=np.array([2, 0]))
    plain, joined = training_part(runs[30], data, None), training_part(runs[30], data, pseudo)
    assert joined["input_ids"][: len(plain)] == plain["input_ids"][:]
    assert joined["labels"][len(plain) :] == [2, 0]
    test_tokens = token_table(data.token_folder, "test", runs[30].member)
    assert joined["input_ids"][len(plain) :] == [test_tokens[3]["input_ids"], test_tokens[17]["input_ids"]]


def test_last_needs_no_evaluation_and_best_does(job):
    runs, data = job("--checkpoint", "last", "--eval_strategy", "no")
    train_run(runs[0], data)
    assert runs[0].measures()["checkpoint"] == "last"
    with pytest.raises(ValueError, match="checkpoint best needs"):
        job("--checkpoint", "best", "--eval_strategy", "no")


def test_a_run_that_was_never_scored_has_no_best_epoch(job):
    runs, data = job("--eval_delay", 1000)
    with pytest.raises(InputError, match=r"not scored in its \d+ steps; lower --eval_delay"):
        train_run(runs[0], data)
    assert not runs[0].is_done()


def test_max_eval_samples_thins_the_checks_and_not_the_predictions(job):
    runs, data = job("--max_eval_samples", 6)
    train_run(runs[0], data)
    assert len(read_predictions(runs[0].held_out_file).rows) == 12


def test_each_tweet_is_tokenised_once_for_each_text_variant(job):
    runs, data = job()
    assert len(runs) == 45
    tables = sorted(path.name.split("-")[0] for path in data.token_folder.glob("*.arrow"))
    assert tables == ["labelled", "labelled", "test", "test"]  # raw and cleaned
