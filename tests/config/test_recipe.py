"""Recipe and command line: which value wins, and how a slip is answered."""

import re

import pytest
from conftest import ROOT, job_words
from tweet_files import write_labels

from smm4h.cli import vote
from smm4h.cli.train import main
from smm4h.config.plans.plan import make_plan
from smm4h.config.recipe import read_command_line, read_recipe
from smm4h.config.task_file import read_task
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_yaml

PAPER = ["recipes/smm4h2020.yaml", "--task", "tasks/task5.yaml", "--output_dir", "out"]


def members(*flags):
    """Return the members of the paper's recipe by name."""
    return {member.name: member for member in read_command_line([*PAPER, *map(str, flags)]).members}


def own_recipe(tmp_path, content):
    """Write a recipe; return a command line with it."""
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    return [str(path), *PAPER[1:], "--model_name_or_path", "x"]


def test_the_paper_recipe_is_table_2():
    """Its columns: head, fold seed, cleaned, pseudo labels, learning rate."""
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
        (m.args.head, m.args.fold_seed, bool(m.args.cleaning), m.args.pseudo_labels, m.args.learning_rate) for m in rows
    ] == table
    job = read_command_line(PAPER)
    assert job.settings.pseudo_teachers == [m.name for m in rows[:6]]
    assert (job.settings.n_folds, job.settings.vote, job.settings.pseudo_fraction) == (5, "hard", 0.1)


def test_the_quickstart_trains_the_same_nine_members():
    paper, quick = (read_yaml(f"recipes/{name}.yaml")[0]["members"] for name in ("smm4h2020", "quickstart"))
    for row in (*paper.values(), *quick.values()):
        row.pop("learning_rate", None)
    assert paper == quick


def test_a_flag_wins_over_the_shared_settings_and_a_row_over_the_flag():
    by_name = members("--learning_rate", "5e-5", "--num_train_epochs=1")
    assert by_name["bigru-42"].args.learning_rate == 5e-5
    assert by_name["last3-pooler-42"].args.learning_rate == 2e-5
    assert by_name["last3-pooler-42"].args.num_train_epochs == 1
    job = read_command_line([*PAPER, "--learning_rate", "5e-5"])
    assert job.notices == ["member last3-pooler-42 keeps its own learning_rate 2e-05"]


def test_yaml_numbers_are_numbers(tmp_path):
    words = own_recipe(tmp_path, "shared: {learning_rate: 2e-5, adam_beta2: 0.98}\nmembers: {a: {head: last3}}\n")
    member = read_command_line(words).members[0]
    assert member.args.learning_rate == 2e-5
    assert member.args.adam_beta2 == 0.98


def test_settings_that_members_share_are_merged_from_an_anchor(tmp_path):
    merged = """
        shared: {model_name_or_path: a}
        members:
          a: &base {head: last3, seed: 1}
          b: &high {head: bigru, learning_rate: 3e-5}
          c: {<<: *base, seed: 2}
          d: {<<: [*base, *high], weight_decay: 0.1}
    """
    rows = read_recipe(own_recipe(tmp_path, merged)[0]).rows
    assert rows["c"] == {"head": "last3", "seed": 2}
    assert rows["d"] == {"head": "last3", "seed": 1, "learning_rate": 3e-5, "weight_decay": 0.1}


def test_a_name_is_what_is_written_though_yaml_has_another_use_for_it(tmp_path):
    words = own_recipe(tmp_path, "members: {no: {head: last3}, 01: {head: last3}, 2026-11-27: {head: last3}}\n")
    assert [member.name for member in read_command_line(words).members] == ["no", "01", "2026-11-27"]


def test_numbers_and_dates_that_are_names_stay_as_they_are_written(tmp_path):
    content = "shared: {pseudo_teachers: [01], time_limit: 1:30:00, output_dir: 2026_11_27}\nmembers: {01: {}, b: {}}\n"
    shared = read_recipe(own_recipe(tmp_path, content)[0]).shared
    assert shared == {"pseudo_teachers": ["01"], "time_limit": "1h30m", "output_dir": "2026_11_27"}
    task = tmp_path / "task.yaml"
    task.write_text("name: a\nlabels: [01, 2]\npositive: [01]\nmeanings: {01: rare}\ncolumns: {text: t, label: l}\n")
    assert (read_task(task).labels, read_task(task).positive) == (["01", "2"], ["01"])


@pytest.mark.parametrize("weights", ["{yes: 5, 01: 2}", "{'yes': 5, '01': 2}"])
def test_labels_that_weights_are_for_are_what_is_written(tmp_path, weights):
    (tmp_path / "task.yaml").write_text("name: a\nlabels: ['yes', '01']\ncolumns: {text: text, label: label}\n")
    flags = ["--task", str(tmp_path / "task.yaml"), "--output_dir", "out", "--model_name_or_path", "x"]
    in_row = [own_recipe(tmp_path, f"members: {{a: {{class_weights: {weights}}}}}\n")[0], *flags]
    assert read_command_line(in_row).members[0].class_weights() == {"yes": 5.0, "01": 2.0}
    by_flag = [own_recipe(tmp_path, "members: {a: {}}\n")[0], *flags, "--class_weights", weights]
    assert read_command_line(by_flag).members[0].class_weights() == {"yes": 5.0, "01": 2.0}


@pytest.mark.parametrize("flags", [("--bf16",), ("--bf16", "true"), ("--bf16=True",)])
def test_bf16_is_a_truth_value_or_the_machines(flags):
    assert members(*flags)["bigru-42"].args.bf16 is True
    assert members("--bf16", "false")["bigru-42"].args.bf16 is False
    assert members()["bigru-42"].args.bf16 is None


def test_members_may_name_baselines_too():
    words = [*PAPER, "--baselines", "tfidf-svm", "textcnn", "--folds", "1", "--members", "last3-42", "textcnn"]
    assert [run.name for run in make_plan(read_command_line(words), {}).wanted] == ["last3-42/fold-1", "textcnn/fold-1"]


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
        (
            ["--cleaning", "bertweet", "twitter_roberta"],
            "cleaning bertweet and twitter_roberta are of different encoders",
        ),
        (["--save_strategy", "best"], "choose no, epoch or steps"),
        (["--runs_per_device", "-1"], "--runs_per_device -1 is out of its range"),
        (["--streams_per_device", "0"], "--streams_per_device 0 is out of its range"),
        (["--streams_per_device", "2", "--parallel", "data"], "several runs at a time, and --parallel data one"),
        (
            ["--streams_per_device", "2", "--report_to", "wandb"],
            "member bigru-42 has report_to, which works for one run",
        ),
        (["--streams_per_device", "2", "--tf32", "false"], "member bigru-42 has tf32, which works for one run"),
        (["--train_sampling_strategy", "batch_rebalance"], "choose random, group_by_length or sequential"),
        (["--learning_rate", "nan"], "--learning_rate nan is no number that a training could use"),
        (["--logit_adjustment", "inf"], "--logit_adjustment inf is no number"),
        (["--adam_beta2", "1"], "--adam_beta2 1.0 is out of its range: 0 or more, and below 1"),
        (["--save_minutes", "-1"], "--save_minutes -1.0 is out of its range: 0 or more"),
        (
            ["--head", "last_token", "--adapter", "{r: 2, target_modules: {q_proj: 7}}"],
            "target_modules must be a name of linear layers, or a list of such names",
        ),
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
        ("members:\n  Votes: {}\n", "line 2: member Votes: a job has a folder of its own of that name"),
        (f"members:\n  {'a' * 250}: {{}}\n", "or it is longer than 200 bytes; choose another"),
        ("shard: {}\nmembers: {a: {}}\n", r"line 1: a recipe has .* \(did you mean shared\?\)"),
        ("shared: {}\n", "are expected"),
        ("members:\n  a: &a\n    hed: last3\n  b: {<<: *a}\n", "line 3: there is no setting hed"),
        ("members:\n  a: &a {}\n  b: {<<: 3}\n", "line 3: this is not YAML .<< takes mappings that end above it"),
        ("members:\n  a: &a\n    b: {<<: *a}\n", "line 3: this is not YAML .<< takes mappings that end above it"),
        ("members:\n  a: &a {}\n  b: {<<: *a, <<: *a}\n", "line 3: this is not YAML .<< stands twice"),
        ("shared:\n  on: 2\nmembers: {a: {}}\n", "line 2: there is no setting on"),
        ("members:\n  a: {~: 2}\n", "line 2: there is no setting ~"),
        ("shared:\n  pseudo_teachers: [no]\nmembers: {no: {}}\n", "line 2: --pseudo_teachers: put yes, no and"),
        ("members: [a\n", "this is not YAML"),
    ],
)
def test_a_slip_in_a_recipe_names_the_line(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_command_line(own_recipe(tmp_path, content))


def test_a_home_is_known_in_recipe_and_flags(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "task.yaml").write_bytes((ROOT / "tasks" / "task5.yaml").read_bytes())
    shared = "shared: {task: ~/task.yaml, train_file: ~/a.tsv, cache_dir: ~/cache, model_name_or_path: ~/bert}\n"
    (tmp_path / "recipe.yaml").write_text(
        f"{shared}members:\n  a: {{head: last3}}\n  b: {{model_name_or_path: me/x}}\n"
    )
    job = read_command_line(["~/recipe.yaml", "--output_dir=~/out", "--test_file", "~/b.tsv"])
    assert job.output_dir == tmp_path / "out"
    assert [file.path for file in job.input_files().labelled] == [tmp_path / "a.tsv"]
    assert [file.path for file in job.input_files().test] == [tmp_path / "b.tsv"]
    assert [member.args.model_name_or_path for member in job.members] == [str(tmp_path / "bert"), "me/x"]
    assert {member.args.cache_dir for member in job.members} == {str(tmp_path / "cache")}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sub/prediction.tsv", "must be a name without a folder"),
        ("../../evil.tsv", "must be a name without a folder"),
        ("..", "must be a name without a folder"),
        ("/evil.tsv", "must be a name without a folder"),
        ("''", "must be a name without a folder"),
        (f"{'p' * 250}.tsv", "200 bytes at most"),
        (r'"a\tb.tsv"', "holds a tab"),
        ("prediction.parquet", "end its name in .tsv or .csv"),
    ],
)
def test_a_submission_that_no_zip_can_hold_is_refused_before_training(tmp_path, call, name, message):
    task = tmp_path / "task.yaml"
    submission = f"submission: {{file: {name}, columns: [id, label]}}\n"
    task.write_text("name: t\nlabels: [a, b]\ncolumns: {text: t, label: l}\n" + submission)
    with pytest.raises(InputError, match=rf"task\.yaml, line 4: .*{message}"):
        read_command_line([PAPER[0], "--task", str(task), "--output_dir", "out"])
    ballot = write_labels(tmp_path / "a.tsv", "ab")
    assert call(vote.main, ballot, "--task", task, "--output", tmp_path / "v.zip").code == 2
    assert not (tmp_path / "v.zip").exists()


@pytest.mark.parametrize(
    "content",
    [
        'labels: [a, "b\\tc"]\ncolumns: {text: t, label: l}',
        'labels: [a, b]\ncolumns: {text: "t\\nx", label: l}',
    ],
)
def test_a_label_or_column_with_a_tab_or_an_end_of_line_is_refused(tmp_path, content):
    task = tmp_path / "task.yaml"
    task.write_text(f"name: t\n{content}\n")
    with pytest.raises(InputError, match=r"line [23]: the name '.*' holds a tab, an end of line"):
        read_command_line([PAPER[0], "--task", str(task), "--output_dir", "out"])
    with pytest.raises(InputError, match="--text_column_name: the name holds a tab"):
        read_command_line([*PAPER[:3], "--text_column_name", "a\tb", "--output_dir", "out"])


def test_the_task_and_the_folder_must_be_named():
    with pytest.raises(InputError, match="name the task"):
        read_command_line([PAPER[0], "--output_dir", "out"])
    with pytest.raises(InputError, match="name the folder"):
        read_command_line(PAPER[:3])
    with pytest.raises(InputError, match="name a recipe first"):
        read_command_line(PAPER[1:])
    with pytest.raises(InputError, match=r"nothing\.yaml can't be read"):
        read_command_line(["nothing.yaml", *PAPER[1:]])


@pytest.mark.parametrize("task", sorted(path.name for path in (ROOT / "tasks").glob("*.yaml")))
def test_the_rare_recipe_is_read_for_every_task_as_it_is(task, tmp_path):
    words = ["recipes/rare.yaml", "--task", str(ROOT / "tasks" / task), "--output_dir", str(tmp_path)]
    job = read_command_line(words)
    assert (job.settings.vote, job.settings.decision) == ("soft", "tuned")
    assert {member.args.checkpoint for member in job.members if member.has_encoder} == {"last"}


@pytest.mark.parametrize(("name", "n_runs"), [("large", 30), ("multilingual", 24)])
def test_the_recipes_of_large_and_multilingual_encoders_list_their_runs(name, n_runs, tmp_path, call):
    """For every task, without a package or an encoder of theirs."""
    for task in sorted((ROOT / "tasks").glob("*.yaml")):
        words = [f"recipes/{name}.yaml", "--task", str(task), "--output_dir", str(tmp_path)]
        job = read_command_line(words)
        assert all(member.args.warmup_steps == 0.06 for member in job.members)
        assert not any(member.args.fp16 for member in job.members)
        assert len(make_plan(job, {}).runs) == n_runs
    result = call(main, *words, "--list")
    assert result.code == 0, result.err
    assert f"{n_runs} runs in" in result.out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["large", "multilingual"])
def test_the_recipes_of_large_and_multilingual_encoders_train_on_a_small_one(name, tiny_encoder, tmp_path, call):
    pytest.importorskip("emoji")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        re.sub(
            r"model_name_or_path: [^,]+",
            f"model_name_or_path: {tiny_encoder}",
            (ROOT / "recipes" / f"{name}.yaml").read_text(),
        )
    )
    job = read_command_line([str(recipe), *PAPER[1:]])
    assert {member.args.model_name_or_path for member in job.members} == {str(tiny_encoder)}
    words = job_words(tiny_encoder, tmp_path / "out", recipe=recipe, folds=0, refit=False, decision="argmax")
    result = call(main, *words)
    assert result.code == 0, result.err
    done = sorted(path.parent.parent.name for path in (tmp_path / "out").glob("*/fold-0/DONE"))
    assert done == sorted(member.name for member in job.members)


@pytest.mark.parametrize("words", [["--preset", "paper"], ["smm4h2020"], ["recipes/smm4h2020.yaml"]])
def test_a_recipe_of_the_project_is_found_from_any_folder(words, tmp_path, monkeypatch):
    expected = [member.name for member in read_command_line(PAPER).members]
    monkeypatch.chdir(tmp_path)
    job = read_command_line([*words, "--task", "task5", "--output_dir", "out"])
    assert [member.name for member in job.members] == expected


def test_a_preset_beside_a_recipe_and_an_unknown_preset_are_refused():
    with pytest.raises(InputError, match=r"--preset rare is a recipe, and recipes/smm4h2020\.yaml is another"):
        read_command_line([*PAPER, "--preset", "rare"])
    with pytest.raises(InputError, match=r"did you mean rare\?.*choose quick, paper, rare, large, multilingual"):
        read_command_line(["--preset", "rar", *PAPER[1:]])
