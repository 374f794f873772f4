"""Adaptation of encoders by masked words: in a job, for the encoder alone, killed, damaged and refused."""

import json
import signal

import pytest
import torch
import transformers
from conftest import (
    INVENTED,
    all_files,
    history,
    job_words,
    recipe_of,
    run_here,
    session_of,
    start,
    train_words,
    wait_for,
)
from small_encoders import ENCODERS, gradients

from smm4h.cli import adapt, publish
from smm4h.cli.train import main
from smm4h.inference.commanded_job import command_of_job, load_job_splits
from smm4h.inference.finished_job import FinishedJob
from smm4h.parallel.run_state import TRIES, log_event, unfinished, waited_for
from smm4h.training.adaptation.adapt import adapt_encoder
from smm4h.training.adaptation.masked_models import load_masked_model, make_padding_free, save_adapted
from smm4h.training.adaptation.masking import MaskedOnly, RepeatableMasking
from smm4h.training.adaptation.texts import texts_of
from smm4h.utils.durable import write_checked_json
from smm4h.utils.errors import Stopped

FIRST_STEPS = 5


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """200 unlabelled texts that are not among the job's."""
    path = tmp_path_factory.mktemp("pool") / "hospital.tsv"
    path.write_text("text\n" + "".join(f"my baby number {n} has surgery and is born with a son\n" for n in range(200)))
    return path


def adapted(pool, **settings) -> str:
    """Return a recipe's `adapt` in one line."""
    given = {"unlabelled": str(pool), "batch_size": 16, "learning_rate": 1e-3, **settings}
    return json.dumps({name: value for name, value in given.items() if value is not None})


def adaptation_of(prepared):
    return prepared.runs[0].adaptation


def test_an_adaptation_that_is_stopped_and_resumed_ends_with_the_same_bytes(prepare_job, pool):
    whole, halved = (prepare_job(name, adapt=adapted(pool, epochs=2)) for name in ("whole", "halved"))
    adapt_encoder(adaptation_of(whole), whole.data)
    seen = []

    def stop_after_some_steps() -> bool:
        return len(seen) > FIRST_STEPS

    with pytest.raises(Stopped):
        adapt_encoder(adaptation_of(halved), halved.data, lambda step, steps: seen.append(step), stop_after_some_steps)
    resumed = []
    adapt_encoder(adaptation_of(halved), halved.data, lambda step, steps: resumed.append(step))
    assert resumed[0] == seen[-1] > 0
    first, second = (adaptation_of(prepared).directory for prepared in (whole, halved))
    for name in ("model/model.safetensors", "model/config.json", "metrics.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    loss = json.loads((first / "metrics.json").read_text())["masked_loss"]
    assert loss["after"] < loss["before"] - 0.2


def test_an_adaptation_of_one_step_changes_the_encoder(prepare_job, pool):
    prepared = prepare_job(adapt=adapted(pool, batch_size=1000))
    run = adaptation_of(prepared)
    adapt_encoder(run, prepared.data)
    facts = json.loads((run.directory / "metrics.json").read_text())
    assert facts["steps"] == 1
    assert facts["masked_loss"]["after"] < facts["masked_loss"]["before"]


def test_members_of_the_same_encoder_and_reading_share_one_adaptation_and_others_have_their_own(
    prepare_job, tmp_path, pool
):
    rows = {
        "one": "{head: mean}",
        "two": "{head: last3, seed: 7, learning_rate: 1e-3}",
        "clean": "{head: mean, cleaning: [case]}",
        "plain": "{head: mean, adapt: none}",
        "counts": "{classifier: tfidf-svm}",
    }
    runs = prepare_job(recipe=recipe_of(tmp_path, **rows), n_folds=2, adapt=adapted(pool)).runs
    of_member = {run.member.name: run.adaptation for run in runs}
    assert of_member["one"] == of_member["two"]
    assert of_member["clean"].directory != of_member["one"].directory
    assert of_member["plain"] is of_member["counts"] is None


def test_the_runs_depend_on_the_texts_of_the_file_and_not_on_its_name(prepare_job, pool, tmp_path):
    moved, other = tmp_path / "moved.tsv", tmp_path / "other.tsv"
    moved.write_bytes(pool.read_bytes())
    other.write_bytes(pool.read_bytes() + b"one more text\n")
    first, second, third = (prepare_job(adapt=adapted(path)).runs[0] for path in (pool, moved, other))
    assert first.fingerprint == second.fingerprint != third.fingerprint
    assert adaptation_of_fingerprint(first) == adaptation_of_fingerprint(second) != adaptation_of_fingerprint(third)


def adaptation_of_fingerprint(run) -> str:
    return run.adaptation.fingerprint


@pytest.mark.parametrize(("switch", "n_texts"), [({}, 300), ({"labelled": False}, 240), ({"test": False}, 260)])
def test_switches_leave_the_jobs_own_texts_out(prepare_job, pool, switch, n_texts):
    prepared = prepare_job(adapt=adapted(pool, **switch))
    texts = texts_of(adaptation_of(prepared).member, prepared.data.token_folder)
    assert len(texts) == n_texts
    assert texts.column_names == ["input_ids", "length"]  # no label


LABELS = ["none", "side_effect", "?", ""]  # of tasks/own_data.yaml, but for the last two


@pytest.fixture
def labelled_pool(tmp_path):
    """40 texts with a label of the task or another mark, or none, in turn."""
    path = tmp_path / "labelled.csv"
    path.write_text("text,label\n" + "".join(f"my son number {n},{LABELS[n % 4]}\n" for n in range(40)))
    return path


def test_labels_of_a_jobs_texts_to_adapt_to_are_counted_as_unused(tiny_encoder, tmp_path, call, labelled_pool):
    train = tmp_path / "train.csv"
    train.write_text("id,text,label\n" + "".join(f"{n},tweet {n},{LABELS[n % 2]}\n" for n in range(20)))
    recipe = recipe_of(tmp_path, a="{head: mean}")
    words = [recipe, "--task", "own_data", "--train_file", train, "--model_name_or_path", tiny_encoder]
    words += ["--adapt", adapted(labelled_pool), "--output_dir", tmp_path / "out", "--use_cpu", "--check"]
    result = call(main, *words)
    assert result.code == 0, result.err
    assert f"{labelled_pool}: 20 tweets have a label, which is not used" in result.out


@pytest.mark.parametrize(("task", "n_labels"), [(["--task", "own_data"], 20), ([], 30)])
def test_labels_of_texts_are_counted_as_unused_by_the_command_that_adapts(
    tiny_encoder, tmp_path, call, labelled_pool, task, n_labels
):
    """Without a task nothing says which labels there are, and any mark counts."""
    result = call(adapt.main, tiny_encoder, labelled_pool, "--output", tmp_path / "own", "--use_cpu", *task)
    assert result.code == 0, result.err
    assert f"{labelled_pool}: {n_labels} tweets have a label, which is not used" in result.out


@pytest.mark.parametrize("kind", ENCODERS)
def test_only_masked_positions_reach_the_output_layer_and_the_loss_is_transformers_own(kind):
    config_class, small = ENCODERS[kind]
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(config_class(**small)).eval()
    ids, labels = torch.randint(5, 50, (3, 9)), torch.full((3, 9), -100)
    labels[:, 2:4] = ids[:, 2:4]
    with torch.no_grad():
        expected = model(input_ids=ids, labels=labels).loss
        masked_only = MaskedOnly(model)
        masked_only.is_masked = labels != -100
        logits = masked_only.logits(model(input_ids=ids).logits)
    assert logits.shape == (6, 60)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, ids[:, 2:4].flatten()), expected)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_masked_model_that_is_computed_padding_free_has_the_loss_and_the_gradients_of_its_own_modules(kind):
    config_class, small = ENCODERS[kind]
    torch.manual_seed(0)
    config = config_class(**small, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = transformers.AutoModelForMaskedLM.from_config(config).train()
    lengths, pad = torch.tensor([12, 3, 7, 9]), config.pad_token_id or 0
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids = torch.randint(5, 50, mask.shape).where(mask.bool(), pad)
    labels = ids.where((torch.arange(12) % 3 == 1) & mask.bool(), -100)

    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    loss, expected = gradients(model, inputs)
    assert make_padding_free(model, torch.float32)
    padding_free_loss, found = gradients(model, inputs)
    assert padding_free_loss == pytest.approx(loss, abs=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize("kind", sorted(ENCODERS.keys() - {"bert", "roberta"}))
def test_other_masked_models_are_computed_by_their_own_modules(kind):
    config_class, small = ENCODERS[kind]
    model = transformers.AutoModelForMaskedLM.from_config(config_class(**small))
    forward = model.base_model.forward
    assert not make_padding_free(model, torch.float32)
    assert model.base_model.forward == forward


def test_masks_depend_on_the_seed_and_the_batch_alone(tiny_encoder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_encoder)
    rows = [{"input_ids": tokenizer("my son was born with a baby and surgery")["input_ids"]} for _ in range(8)]
    masking = RepeatableMasking(tokenizer, seed=1)
    first, second = masking(rows), masking(rows)
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert torch.equal(first["labels"], second["labels"])
    assert not torch.equal(first["labels"], RepeatableMasking(tokenizer, seed=2)(rows)["labels"])
    assert not torch.equal(first["labels"][:4], masking(rows[:4])["labels"])
    assert (first["labels"][:, [0, -1]] == -100).all()  # [CLS] and [SEP]


def test_an_adapted_encoder_keeps_its_pretrained_pooler_and_its_own_tokenizer(
    prepare_job, pool, tiny_encoder, tmp_path
):
    member = adaptation_of(prepare_job(adapt=adapted(pool))).member
    model = load_masked_model(member)
    with torch.no_grad():
        for weights in model.base_model.parameters():
            weights += 1
    model.save_pretrained(tmp_path / "masked")
    save_adapted(member, tmp_path / "masked", tmp_path / "model")
    before, after = (transformers.AutoModel.from_pretrained(folder) for folder in (tiny_encoder, tmp_path / "model"))
    changed = dict(after.named_parameters())
    for name, weights in before.named_parameters():
        expected = weights if name.startswith("pooler") else weights + 1
        torch.testing.assert_close(changed[name], expected)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "model").model_max_length == 128


@pytest.fixture(scope="module")
def begun(tiny_encoder, tmp_path_factory, pool):
    """The words of a job, but for its adapt, that has a result: its word member is trained, its encoder not adapted."""
    folder = tmp_path_factory.mktemp("begun")
    recipe = recipe_of(folder, a="{head: mean}", counts="{classifier: tfidf-logistic, adapt: none}")
    words = job_words(tiny_encoder, folder / "out", recipe=recipe, n_folds=2)
    result = run_here(main, *words, "--adapt", adapted(pool), "--members", "counts")
    assert result.code == 0, result.err
    return words


@pytest.mark.parametrize(
    ("name", "further", "settings", "message"),
    [
        ("hospital.tsv", "", {}, None),
        ("moved.tsv", "", {}, None),
        (
            *("hospital.tsv", "more\n", {}),
            "was made with other texts: the content of {file}, which encoders are adapted to, has changed since; bring "
            "the old file back, or choose another --output_dir",
        ),
        (
            *("hospital.tsv", "more\n", {"epochs": 2}),
            "was made with another recipe: recipe members a adapt epochs was 1.0 and is 2.0 now, and the content of "
            "{file} has changed; choose another --output_dir, or the recipe, flags and file that it was made with",
        ),
        (
            *("other.tsv", "more\n", {}),
            "was made with another recipe: recipe members a adapt unlabelled was hospital.tsv and is other.tsv now; "
            "choose another --output_dir, or the recipe or flags that it was made with",
        ),
        (
            *("hospital.tsv", "", {"batch_size": 8}),
            "was made with another recipe: recipe members a adapt batch_size was 16 and is 8 now; choose another "
            "--output_dir, or the recipe or flags that it was made with",
        ),
    ],
)
def test_what_has_changed_of_an_adaptation_since_a_job_was_begun_is_named(
    begun, tmp_path, call, pool, name, further, settings, message
):
    file = tmp_path / name
    file.write_text(pool.read_text() + further)
    words = *begun, "--adapt", adapted(file, **settings)
    for more in ("--check",), ("--members", "counts"):
        result = call(main, *words, *more)
        assert result.code == (2 if message else 0), result.err
        errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
        folder = begun[begun.index("--output_dir") + 1]
        assert errors == ([f"error: {folder} {message.format(file=file)}"] if message else [])


def test_an_adaptation_is_needed_until_its_runs_are_done_and_may_then_be_removed(prepare_job, tmp_path, pool):
    runs = prepare_job(recipe=recipe_of(tmp_path, one="{head: mean}"), n_folds=2, adapt=adapted(pool)).runs
    adaptation = runs[0].adaptation
    for run in runs[1:]:
        run.directory.mkdir(parents=True)
        write_checked_json(run.done_file, {"fingerprint": run.fingerprint})
    assert unfinished([adaptation, *runs]) == [adaptation, runs[0]]
    runs[0].directory.mkdir(parents=True)
    write_checked_json(runs[0].done_file, {"fingerprint": runs[0].fingerprint})
    assert unfinished([adaptation, *runs]) == []
    adaptation.directory.mkdir(parents=True)  # of one that was begun, or whose DONE was removed as damaged
    assert unfinished([adaptation, *runs]) == [adaptation]


def test_runs_whose_encoder_cannot_be_adapted_are_not_waited_for(prepare_job, tmp_path, pool):
    runs = prepare_job(recipe=recipe_of(tmp_path, one="{head: mean}"), n_folds=2, adapt=adapted(pool)).runs
    for _ in range(TRIES):
        log_event(runs[0].adaptation, "failed", error="no memory")
    assert not any(run.adaptation.is_done() for run in runs)
    assert unfinished([runs[0].adaptation, *runs]) == []
    assert "encoders/" in waited_for(runs)


@pytest.mark.slow
def test_a_job_killed_while_it_adapts_goes_on_and_whatever_is_damaged_is_made_again(
    tiny_encoder, tmp_path, pool, call, prepare_job
):
    """Its plan names the texts; its card names neither file nor text; a word member needs no encoder."""
    rows = {"encoder": "{head: last2_pooler}", "counts": "{classifier: tfidf-logistic}"}
    options = {"recipe": recipe_of(tmp_path, **rows), "n_folds": 2, "adapt": adapted(pool, epochs=3)}
    undisturbed = adaptation_of(prepare_job("alone", **options))
    output = tmp_path / "out"
    words = job_words(tiny_encoder, output, **options, save_minutes=0.0001)
    job = start(train_words(words), tmp_path / "log")
    assert wait_for(lambda: any(output.glob("encoders/*/checkpoint-*/SEALED")), 120), (tmp_path / "log").read_text()
    for process in session_of(job):
        process.send_signal(signal.SIGKILL)
    job.wait()
    assert not any(output.glob("encoder/*/*"))  # its runs wait for the adapted encoder
    result = call(main, *words)
    assert result.code == 0, result.err
    (folder,) = output.glob("encoders/*")
    assert [event["event"] for event in history(folder)] == ["begun", "begun", "trained", "done"]
    prepared = prepare_job("alone", **options)
    adapt_encoder(undisturbed, prepared.data)
    assert (folder / "model/model.safetensors").read_bytes() == (undisturbed.model / "model.safetensors").read_bytes()

    plan = json.loads((output / "plan.json").read_text())
    (adaptation,) = plan["adaptations"].values()
    assert adaptation["members"] == ["encoder"]
    assert (adaptation["unlabelled"]["file"], adaptation["unlabelled"]["tweets"]) == (pool.name, 200)
    assert (adaptation["unlabelled"]["among_labelled"], adaptation["unlabelled"]["among_test"]) == (0, 0)
    assert call(publish.main, output, "--to_folder", tmp_path / "published").code == 0
    card = (tmp_path / "published" / "README.md").read_text()
    assert "adapted before by masked words of unlabelled, labelled and test texts" in card
    assert str(pool.parent) not in card

    pool.rename(tmp_path / "gone.tsv")  # a student, or what to label next, needs the labelled and test tweets only
    finished = FinishedJob.read(output)
    assert len(load_job_splits(finished, command_of_job(finished, [])).labelled) == 60
    (tmp_path / "gone.tsv").rename(pool)
    results = all_files(output)
    weights = folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    checked = call(main, "--verify", "--output_dir", output)
    assert checked.code != 0
    assert "model.safetensors" in checked.out
    again = call(main, *words)
    assert "it is made again" in again.out
    assert all_files(output) == results
    assert call(main, "--list", "--output_dir", output).out.count("adaptation") == 1
    (folder / "DONE").unlink()
    assert "DONE is gone" in call(main, "--verify", "--output_dir", output).out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{epoch: 2}", "there is no epoch (did you mean epochs?); it may have unlabelled, labelled, test, epochs"),
        ("{epochs: 0}", "epochs must be a number from 0.01 to 10000"),
        ("{labelled: false, test: false}", "it has no texts; name a file (unlabelled)"),
        ("lots", "write a mapping such as {unlabelled: more.tsv, epochs: 1}"),
        ("{unlabelled: nowhere.tsv}", "nowhere.tsv is not there"),
        ("{unlabelled: [a.tsv, b.tsv]}", "unlabelled must name one file, or one folder of files"),
    ],
)
def test_an_adaptation_that_cannot_be_is_refused_in_a_sentence(tiny_encoder, tmp_path, call, given, message):
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", adapt=given))
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert message in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("embedded", "added", "message"),
    [
        (150, 0, "its tokenizer has 207 tokens, and its weights embed 150: they are of different models"),
        (207, 9, "adapt: the tokenizer of {folder} has 216 tokens, and its weights embed 207; leave adapt out"),
    ],
)
def test_an_encoder_without_embeddings_of_all_tokens_is_not_adapted(
    tiny_encoder, tmp_path, call, pool, embedded, added, message
):
    tokenizer, folder = transformers.AutoTokenizer.from_pretrained(tiny_encoder), tmp_path / "small"
    assert max(tokenizer.get_vocab().values()) == 206
    tokenizer.add_tokens([f"<added{number}>" for number in range(added + 1)])
    tokenizer.save_pretrained(folder)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**{**ENCODERS["bert"][1], "vocab_size": embedded}))
    model.save_pretrained(folder)
    result = call(adapt.main, folder, pool, "--output", tmp_path / "out", "--use_cpu", "--max_seq_length", 32)
    assert result.code == 2
    assert message.format(folder=folder) in result.err
    assert not (tmp_path / "out").exists()


def test_a_decoder_cannot_be_adapted(tiny_encoder, tmp_path, call, pool):
    folder = tmp_path / "decoder"
    transformers.GPT2Model(transformers.GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1)).save_pretrained(
        folder
    )
    transformers.AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(folder)
    result = call(adapt.main, folder, pool, "--output", tmp_path / "out", "--use_cpu")
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]  # beside libraries' warnings
    assert (result.code, len(errors)) == (2, 1)
    assert "(gpt2) has no masked-language model in transformers" in errors[0]


def test_an_encoder_is_adapted_by_a_command_of_its_own(tiny_encoder, tmp_path, call, pool):
    words = (tiny_encoder, pool, "--output", tmp_path / "own", "--use_cpu", "--batch_size", 32)
    result = call(adapt.main, *words)
    assert result.code == 0, result.err
    assert "no trained head for masked words; a new one is drawn" in result.out
    assert "adapted to 200 texts" in result.out
    assert sorted(path.name for path in (tmp_path / "own").glob("[!.]*")) == ["DONE", "metrics.json", "model"]
    done = (tmp_path / "own" / "DONE").read_bytes()
    assert call(adapt.main, *words).code == 0
    assert (tmp_path / "own" / "DONE").read_bytes() == done  # nothing was made again
    other = call(adapt.main, *words, "--epochs", 2)
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "adapted otherwise" in other.err
    refused = call(adapt.main, *words[:3], tmp_path, "--use_cpu")
    assert refused.code == 2
    too_short = call(adapt.main, *words[:3], tmp_path / "short", "--max_seq_length", 3)
    assert (too_short.code, too_short.err) == (2, "error: --max_seq_length 3 leaves no room for a tweet\n")
    checked = call(main, *job_words(tmp_path / "own" / "model", tmp_path / "out", data_dir=INVENTED), "--check")
    assert checked.code == 0, checked.err
