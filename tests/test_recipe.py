"""Recipe and flags: who wins, and what a slip is answered with."""

import pytest
import torch

from smm4h.config.job import run_arguments
from smm4h.config.plan import make_plan
from smm4h.config.recipe import read_command_line
from smm4h.models.predictors import has_bf16
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_yaml

PAPER = ["recipes/smm4h2020.yaml", "--task", "tasks/task5.yaml", "--output_dir", "out"]


def members(*flags):
    return {member.name: member for member in read_command_line([*PAPER, *map(str, flags)]).members}


def own_recipe(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    return [str(path), *PAPER[1:], "--model_name_or_path", "x"]


def test_the_paper_recipe_is_table_2():
    """#: head, fold seed, cleaned, pseudo, learning rate."""
    table = [
        ("bigru", 42, False, False, 3e-5),
        ("last2_pooler", 42, False, False, 3e-5),
        ("last3", 42, False, False, 3e-5),
        ("bigru", 24, False, False, 3e-5),
        ("last2_pooler", 24, False, False, 3e-5),
        ("last2_pooler", 42, True, False, 3e-5),
        ("bigru", 42, True, True, 3e-5),
        ("last2_pooler", 42, True, True, 3e-5),
        ("last3_pooler", 42, False, False, 2e-5),
    ]
    rows = list(members().values())
    assert [
        (m.get("head"), m.get("fold_seed"), bool(m.get("cleaning")), m.get("pseudo_labels"), m.get("learning_rate"))
        for m in rows
    ] == table
    job = read_command_line(PAPER)
    assert job.settings.pseudo_teachers == [m.name for m in rows[:6]]
    assert (job.settings.n_folds, job.settings.vote, job.settings.pseudo_fraction) == (5, "hard", 0.1)


def test_the_paper_recipes_training_arguments(tmp_path):
    arguments = run_arguments(members()["bigru-42"], tmp_path)
    tweets_a_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    assert (tweets_a_step, arguments.num_train_epochs, arguments.optim, arguments.adam_epsilon) == (
        16,
        3,
        "radam",
        1e-6,
    )
    assert (arguments.weight_decay, arguments.warmup_steps, arguments.max_grad_norm) == (0, 0, 1.0)
    assert arguments.lr_scheduler_type == "linear"
    assert members()["bigru-42"].get("model_name_or_path") == "dmis-lab/biobert-base-cased-v1.1"
    assert members()["bigru-42"].get("max_seq_length") == 110


def test_the_quickstart_trains_the_same_nine_members():
    paper, quick = (read_yaml(f"recipes/{name}.yaml")[0]["members"] for name in ("smm4h2020", "quickstart"))
    for row in (*paper.values(), *quick.values()):
        row.pop("learning_rate", None)
    assert paper == quick


def test_a_flag_wins_over_the_shared_settings_and_a_row_over_the_flag():
    found = members("--learning_rate", "5e-5", "--num_train_epochs=1")
    assert found["bigru-42"].get("learning_rate") == 5e-5
    assert found["last3-pooler-42"].get("learning_rate") == 2e-5
    assert found["last3-pooler-42"].get("num_train_epochs") == 1
    job = read_command_line([*PAPER, "--learning_rate", "5e-5"])
    assert job.notices == ["member last3-pooler-42 keeps its own learning_rate 2e-05"]


def test_yaml_numbers_are_numbers(tmp_path):
    words = own_recipe(tmp_path, "shared: {learning_rate: 2e-5, adam_beta2: 0.98}\nmembers: {a: {head: last3}}\n")
    member = read_command_line(words).members[0]
    assert member.get("learning_rate") == 2e-5
    assert member.get("adam_beta2") == 0.98


@pytest.mark.parametrize("flags", [("--bf16",), ("--bf16", "true"), ("--bf16=True",)])
def test_bf16_is_a_truth_value_or_the_machines(flags):
    assert members(*flags)["bigru-42"].get("bf16") is True
    assert members("--bf16", "false")["bigru-42"].get("bf16") is False
    assert members()["bigru-42"].get("bf16") is None


def test_members_may_name_baselines_too():
    words = [*PAPER, "--baselines", "tfidf-svm", "textcnn", "--folds", "1", "--members", "last3-42", "textcnn"]
    assert [run.name for run in make_plan(read_command_line(words), {}).wanted] == ["last3-42/fold-1", "textcnn/fold-1"]


@pytest.mark.parametrize("cpu_has_it", [True, False])
def test_bf16_on_a_cpu_is_the_cpus_whatever_the_gpu_has(monkeypatch, tmp_path, cpu_has_it):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu_has_it)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not cpu_has_it)
    assert run_arguments(members("--use_cpu")["bigru-42"], tmp_path).bf16 is cpu_has_it
    assert has_bf16("cuda") is not cpu_has_it
    assert has_bf16("mps") is False


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lerning_rate", "1"], r"no setting --lerning_rate \(did you mean --learning_rate\?\)"),
        (["--evaluation_strategy", "epoch"], "--evaluation_strategy is gone; use --eval_strategy"),
        (["--warmup_ratio", "0.1"], "--warmup_ratio is gone; use --warmup_steps .* 0.1"),
        (["--no_cuda"], "--no_cuda is gone; use --use_cpu"),
        (["--group_by_length"], "use --train_sampling_strategy group_by_length"),
        (["--overwrite_output_dir"], "is gone; use another --output_dir"),
        (["--load_best_model_at_end"], "decided by the job: use --checkpoint"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--learn", "1e-5"], "no setting --learn"),
        (["--head", "cnn"], "invalid choice: 'cnn'"),
        (["--cleaning", "emoji"], "invalid choice: 'emoji'"),
        (["--baselines", "none", "--members", "none"], "has no member none; it has bigru-42, "),
        (
            ["--push_to_hub", "--hub_model_id", "me/x", "--members", "tfidf-svm", "--folds", "0"],
            "--push_to_hub pushes one run of a member",
        ),
        (["--members", "bigru42"], r"no member bigru42 \(did you mean bigru-42\?\)"),
        (["--folds", "5"], "numbered from 0 to 4"),
        (["--pseudo_fraction", "0.3"], "each can get 0.2 of them at most"),
        (["--pseudo_teachers", "bigru-clean-pseudo"], "is itself trained on pseudo labels"),
        (["--n_folds", "1"], "at least two folds"),
        (["--max_train_samples", "0"], "at least one tweet"),
        (["--refit"], "member bigru-42: refit holds no tweets out .* choose --checkpoint last"),
        (["--refit", "--checkpoint", "last"], "bigru-clean-pseudo: pseudo labels are made for folds; write refit: fal"),
        (["--save_strategy", "best"], "choose no, epoch or steps"),
        (["--runs_per_device", "0"], "at least one run"),
        (["--train_sampling_strategy", "batch_rebalance"], "choose random, group_by_length or sequential"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_a_slip_on_the_command_line_is_answered(flags, message):
    with pytest.raises(InputError, match=message):
        read_command_line([*PAPER, *flags])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("shared: {lr: 1}\nmembers: {a: {}}\n", "line 1: there is no setting lr"),
        ("members:\n  a: {hed: last3}\n", r"line 2: there is no setting hed \(did you mean head\?\)"),
        ("members:\n  a: {}\n  a: {}\n", "line 3: a stands here a second time"),
        ("members:\n  a: {n_folds: 3}\n", "line 2: n_folds is one for the whole job"),
        ("members:\n  a: {learning_rate: fast}\n", "line 2, member a: .*invalid float value"),
        ("members:\n  a/b: {}\n", "line 2: member a/b names a folder"),
        ("shard: {}\nmembers: {a: {}}\n", r"line 1: a recipe has .* \(did you mean shared\?\)"),
        ("shared: {}\n", "are expected"),
        ("members: [a\n", "this is not YAML"),
    ],
)
def test_a_slip_in_a_recipe_names_the_line(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_command_line(own_recipe(tmp_path, content))


def test_the_task_and_the_folder_must_be_named():
    with pytest.raises(InputError, match="name the task"):
        read_command_line([PAPER[0], "--output_dir", "out"])
    with pytest.raises(InputError, match="name the folder"):
        read_command_line(PAPER[:3])
    with pytest.raises(InputError, match="name a recipe first"):
        read_command_line(PAPER[1:])
    with pytest.raises(InputError, match=r"nothing\.yaml can't be read"):
        read_command_line(["nothing.yaml", *PAPER[1:]])
