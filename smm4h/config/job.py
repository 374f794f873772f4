"""A job and its members: what the command line and the recipe ask for."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from smm4h.config.arguments import (
    BASELINE_CLEANING,
    DEFAULTS,
    JOB_FIELDS,
    WITHOUT_EFFECT,
    JobSettings,
    MemberArguments,
)
from smm4h.config.task import Task
from smm4h.utils.errors import CONTROL, HAS_CONTROL, InputError, nearest
from smm4h.utils.files import expand_home, parse_yaml


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: what a recipe's `adapter` says.

    Args:
        r: rank of the matrices, 1 or more.
        alpha: their product is scaled by `alpha / r`.
        dropout: of what the adapter reads.
        target_modules: last parts of the names of the layers that get one; none: all linear layers.
        save: how a run's model is saved: with the adapter merged into all weights, or the adapter alone, beside the
            name of the model that it stands beside.
    """

    kind: Literal["lora"] = "lora"
    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ()
    save: Literal["merged", "adapter"] = "merged"


@dataclass(frozen=True)
class Adaptation:
    """Adaptive pretraining of an encoder, by masked words: what a recipe's `adapt` says.

    Args:
        unlabelled: file of texts; in a plan, the hash of their content. None: the job's own tweets only.
        labelled, test: whether the job's labelled and test tweets are read, too, of which no label is used.
        mlm_probability: share of the word pieces that are masked.
    """

    unlabelled: str | None = None
    labelled: bool = True
    test: bool = True
    epochs: float = 1.0
    learning_rate: float = 5e-5
    batch_size: int = 32
    mlm_probability: float = 0.15
    seed: int = 42

    def __str__(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Member:
    """One row of the recipe: its name and all its settings that differ from the defaults."""

    name: str
    settings: dict[str, Any]

    @cached_property
    def args(self) -> MemberArguments:
        """All settings, the defaults included."""
        return MemberArguments(**self.settings)

    def with_settings(self, **settings: Any) -> "Member":
        """Return the member with other values of some settings."""
        return replace(self, settings={**self.settings, **settings})

    @property
    def has_encoder(self) -> bool:
        return self.args.classifier == "encoder" and not self.is_outside

    @property
    def is_outside(self) -> bool:
        """Whether the member is predictions of a model from elsewhere, which nothing is trained for."""
        return self.args.predictions is not None

    @cached_property
    def outside_files(self) -> dict[str, str]:
        """Files of the member's predictions by part; in a plan, hashes of their content."""
        files = json.loads(self.args.predictions) if self.args.predictions else {}
        return {part: expand_home(str(file)) for part, file in dict(files).items()}

    @property
    def precision(self) -> str | None:
        """Number format of the matrix products; None: bf16 where the machine has it."""
        if self.args.fp16:
            return "float16"
        return {None: None, True: "bfloat16", False: "float32"}[self.args.bf16]

    @property
    def stage(self) -> int:
        """Stage in which the member's runs are trained: 1, or after the vote that makes its pseudo labels."""
        return 1 + self.args.pseudo_round if self.args.pseudo_labels else 1

    @cached_property
    def adapter(self) -> Adapter | None:
        """The adapter that is trained instead of the encoder; raises ValueError for settings of none.

        A mistake is named in the error's text.
        """
        return parse_adapter(self.args.adapter, self.args.quantise) if self.asks_for_adapter else None

    @property
    def asks_for_adapter(self) -> bool:
        """Whether the member names an adapter, right or wrong."""
        return self.args.adapter is not None and self.args.adapter.lower() not in WITHOUT

    @property
    def saves_adapter_alone(self) -> bool:
        """Whether a run's model is its adapter, without the weights that it stands beside."""
        return self.adapter is not None and self.adapter.save == "adapter"

    @cached_property
    def adaptation(self) -> Adaptation | None:
        """The adaptation of the encoder before all runs; None without one, and without an encoder.

        Raises ValueError, as `adapter` does.
        """
        asked = self.args.adapt
        without = asked is None or asked.lower() in WITHOUT or not self.has_encoder
        return None if without else parse_adaptation(asked)

    def class_weights(self) -> str | dict[str, float] | None:
        """Return `balanced`, or a loss weight for some labels by name; raise ValueError for anything else."""
        value = self.args.class_weights
        if value is None or value == "balanced":
            return value
        weights = parse_yaml(value)
        if not isinstance(weights, dict) or not all(isinstance(w, int | float) and w >= 0 for w in weights.values()):
            raise ValueError(value)
        return {label: float(weight) for label, weight in weights.items()}


WITHOUT = ("none", "false")  # in the row of a member that does without what `shared:` says
ALL_LINEAR = "all-linear"  # peft's name for all linear layers, which no target_modules means here
ADAPTER_SAVES = ("merged", "adapter")
ADAPTER_BOUNDS = {"r": (int, 1, 4096), "alpha": (float, 1e-3, 1e6), "dropout": (float, 0, 0.99)}
ADAPTATION_BOUNDS = {
    "epochs": (float, 0.01, 1e4),
    "learning_rate": (float, 1e-9, 1),
    "batch_size": (int, 1, 1e6),
    "mlm_probability": (float, 0.01, 0.9),
    "seed": (int, 0, 2**31),
}


def parse_adapter(text: str, quantise: str | None = None) -> Adapter:
    """Return an adapter by its settings, `lora` or a YAML mapping; raise ValueError with the reason for others.

    Args:
        quantise: of the weights that it stands beside; an adapter of quantised ones is always saved alone.
    """
    given = parse_yaml(text)
    given = {"kind": given} if isinstance(given, str) else given
    if not isinstance(given, dict) or given.get("kind", "lora") != "lora":
        raise ValueError("write lora, or a mapping such as {kind: lora, r: 16}")
    _check_names(given, Adapter)
    modules = given.get("target_modules") or []
    modules = [modules] if isinstance(modules, str) else modules
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        raise ValueError("target_modules must be a name of linear layers, or a list of such names")
    modules = () if modules == [ALL_LINEAR] else tuple(modules)
    save = given.get("save", "adapter" if quantise else "merged")
    if save not in ADAPTER_SAVES:
        raise ValueError(f"save {save}: choose {' or '.join(ADAPTER_SAVES)}")
    if quantise and save == "merged":
        raise ValueError(f"merging would round it to the {quantise} weights; write save: adapter, or leave save out")
    return Adapter(**{**given, **_numbers(given, ADAPTER_BOUNDS), "target_modules": modules, "save": save})


def parse_adaptation(text: str) -> Adaptation:
    """Return an adaptation by its settings, a YAML mapping; raise ValueError with the reason for others."""
    given = parse_yaml(text)
    if not isinstance(given, dict):
        raise ValueError("write a mapping such as {unlabelled: more.tsv, epochs: 1}")
    _check_names(given, Adaptation)
    for name in ("labelled", "test"):
        if not isinstance(given.get(name, True), bool):
            raise ValueError(f"{name} must be true or false")
    file = given.get("unlabelled")
    if not isinstance(file, str | None):
        raise ValueError("unlabelled must name one file, or one folder of files")
    own = {**given, **_numbers(given, ADAPTATION_BOUNDS), "unlabelled": expand_home(str(file)) if file else None}
    adaptation = Adaptation(**own)
    if not (adaptation.unlabelled or adaptation.labelled or adaptation.test):
        raise ValueError("it has no texts; name a file (unlabelled), or leave labelled or test true")
    return adaptation


def _check_names(given: dict[str, Any], settings: type) -> None:
    """Raise ValueError for a key that names no field of a dataclass."""
    names = [field.name for field in fields(settings)]
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"there is no {unknown[0]}{nearest(unknown[0], names)}; it may have {', '.join(names)}")


def _numbers(given: dict[str, Any], bounds: dict[str, tuple[type, float, float]]) -> dict[str, int | float]:
    """Return the given numbers in their types; raise ValueError for any other value, and for one out of its bounds."""
    numbers = {}
    for name, (kind, low, high) in bounds.items():
        if name not in given:
            continue
        value = given[name]
        with suppress(ValueError):
            value = kind(value) if isinstance(value, str) else value  # YAML reads 5e-5 as a text
        is_number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            words = "a whole number" if kind is int else "a number"
            raise ValueError(f"{name} must be {words} from {low:g} to {high:g}")
        numbers[name] = kind(value)
    return numbers


class TweetFile(NamedTuple):
    """A file of tweets, or a folder of such files, and what its rows do not say themselves."""

    path: Path
    source: str = ""  # corpus or platform of all its tweets, as the task names it
    labels: Path | None = None  # file with the labels, joined by id
    part: str = ""  # training, validation or test


class InputFiles(NamedTuple):
    """Files of a job's tweets, in the order in which they are joined."""

    labelled: list[TweetFile]
    test: list[TweetFile]
    gold: list[Path]  # for each test file one, or none at all


@dataclass(frozen=True)
class Budget:
    """What a time limit has left of a job; it is written into the plan, so that a resumed job does not choose anew.

    Args:
        time_limit: as the command gives it, in its one spelling.
        asked: identity hash of the whole job.
        members: names of those that are trained.
        seconds_asked: forecast of the whole job.
        seconds: forecast of what is left.
    """

    time_limit: str
    asked: str
    n_folds: int
    members: list[str]
    seconds_asked: float
    seconds: float


@dataclass
class Job:
    """The command: what to do, with which members, on which task."""

    recipe: str
    settings: JobSettings
    task: Task | None  # None: `--list` without a task
    output_dir: Path
    members: list[Member]
    notices: list[str]  # on effects of the flags that a user may not expect
    words: list[str]  # of the command line, without secrets
    budget: Budget | None = None  # None: no time limit
    lines: Mapping[str, int] = field(default_factory=dict)  # of the members' rows in the recipe, by name

    def where(self, member: Member) -> str:
        """Return file and line of a member's row, for the begin of a message."""
        line = f", line {self.lines[member.name]}" if member.name in self.lines else ""
        return f"{self.recipe}{line}, member {member.name}: "

    @property
    def baselines(self) -> list[Member]:
        """Baselines to be beaten, on the first member's folds."""
        first = self.members[0].args
        shared = {"cleaning": BASELINE_CLEANING, "fold_seed": first.fold_seed, "seed": first.seed}
        return [Member(name, {"classifier": name, **shared}) for name in self.settings.baselines if name != "none"]

    @property
    def stages(self) -> list[int]:
        return sorted({1, *(member.stage for member in self.members)})

    @property
    def shared_settings(self) -> dict[str, Any]:
        """The job's settings that change a result and differ from the defaults."""
        values = {flag: getattr(self.settings, f.name) for flag, f in JOB_FIELDS.items() if flag not in WITHOUT_EFFECT}
        return {flag: value for flag, value in values.items() if value != DEFAULTS[flag]}

    def input_files(self) -> InputFiles:
        """Return the files as flags name them, or as the task does within `--data_dir`.

        Beside a data set of the Hub, whose tweets lie in no file here, only test tweets and their labels may.
        """
        settings = self.settings
        files = official_files(self.task, settings.task, settings.data_dir) if settings.data_dir else {}
        if settings.train_file:  # the official validation file belongs to the official training file
            files = {part: paths for part, paths in files.items() if part not in TRAINING_PARTS}
        if settings.test_file or not all(file.path.is_file() for file in files.get("gold", [])):
            files.pop("gold", None)  # it belongs to the official test file, and few have it
        for part, flag in (
            *(("training", settings.train_file), ("training_labels", settings.train_labels_file)),
            *(("validation", settings.validation_file), ("validation_labels", settings.validation_labels_file)),
            *(("test", settings.test_file), ("gold", settings.gold_file)),
        ):
            if flag:
                names = flag if isinstance(flag, list) else [flag]
                files[part] = [TweetFile(Path(name), part=part) for name in names]
        if "training" not in files and not settings.dataset_name:
            raise InputError("name the tweets: --data_dir with the official files, or --train_file and --test_file")
        labelled = [*with_label_files(files, "training"), *with_label_files(files, "validation")]
        return InputFiles(labelled, files.get("test", []), [file.path for file in files.get("gold", [])])

    @property
    def adaptation_files(self) -> list[str]:
        """Files of unlabelled texts that encoders are adapted to, as the recipe names them, each once."""
        adaptations = [member.adaptation for member in self.members]
        return list(dict.fromkeys(one.unlabelled for one in adaptations if one is not None and one.unlabelled))

    def teachers_of(self, stage: int) -> list[Member]:
        """Return the members whose vote labels the pseudo tweets of a stage."""
        return teachers_of(self.settings, self.members, stage)


# Settings that name files of a job's labelled tweets; beside them, `dataset_name` would name other ones.
LABELLED_FILES = ("data_dir", "train_file", "train_labels_file", "validation_file", "validation_labels_file")
TRAINING_PARTS = ("training", "training_labels", "validation", "validation_labels")


def official_files(task: Task, name: str, folder: str | Path) -> dict[str, list[TweetFile]]:
    """Return a task's files within --data_dir, by part; raise `InputError` for a task without any.

    Args:
        name: of the task file, for the message.
    """
    if "training" not in task.files:
        raise InputError(f"{name} names no files for --data_dir; name them with --train_file and --test_file")
    return {
        part: [TweetFile(Path(folder) / file.name, file.source, part=part) for file in files]
        for part, files in task.files.items()
    }


def with_label_files(files: dict[str, list[TweetFile]], part: str) -> list[TweetFile]:
    """Return the files of training or validation tweets, each with its file of labels; one may serve them all."""
    tweets, labels = files.get(part, []), files.get(f"{part}_labels", [])
    if labels and not tweets:
        raise InputError(f"{labels[0].path} has labels of {part} tweets, but no file of these tweets is named")
    of_file = [file.path for file in labels] or [None]
    of_file = of_file * len(tweets) if len(of_file) == 1 else of_file
    if len(of_file) != len(tweets):
        raise InputError(
            f"{len(labels)} files of labels are named for {len(tweets)} files of {part} tweets; name one for all of "
            "them, or one for each, in the same order"
        )
    return [file._replace(labels=path) for file, path in zip(tweets, of_file, strict=True)]


def teachers_of(settings: JobSettings, members: Sequence[Member], stage: int) -> list[Member]:
    """Return the teachers of a stage: all members of the stage before, or for stage 2 `--pseudo_teachers`."""
    chosen = settings.pseudo_teachers if stage == 2 else []
    return [m for m in members if (m.name in chosen if chosen else m.stage == stage - 1)]


def with_columns(task: Task, settings: Any) -> Task:
    """Return the task with the columns that `settings` name by id_column_name, text_column_name, label_column_name."""
    given = {
        name: [value]
        for name in ("id", "text", "label", "group", "context")
        if (value := getattr(settings, f"{name}_column_name", None)) is not None
    }
    for name, (value,) in given.items():
        if CONTROL.search(value):
            raise InputError(f"--{name}_column_name: {HAS_CONTROL.format('name')}")
    return replace(task, columns=replace(task.columns, **given))
