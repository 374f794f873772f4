"""Settings, held against the libraries and modules whose names and defaults they repeat without importing them."""

import dataclasses

import pytest
import transformers
from packaging.version import Version
from transformers import TrainingArguments

import heads
from smm4h.config.arguments import BIGRU_INPUTS, DECIDED, FIELDS, HEAD_NAMES, RENAMED, TrainerSettings, default_of
from smm4h.ensemble.fitting import FITTERS
from smm4h.models.voting import METHODS

OURS = {field.name: field for field in dataclasses.fields(TrainerSettings)}
THEIRS = {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init}
OTHER_DEFAULTS = {
    "logging_nan_inf_filter",
    "logging_steps",
    "per_device_eval_batch_size",
    "optim",
    "bf16",
    "adam_epsilon",
    "report_to",
    "save_strategy",
    "debug",
    "disable_tqdm",
    "eval_strategy",
}
newest_transformers = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="earlier versions have other settings"
)


def test_defaults_are_those_of_training_arguments_but_for_some():
    differing = {name for name in OURS.keys() & THEIRS.keys() if default_of(OURS[name]) != default_of(THEIRS[name])}
    assert differing == OTHER_DEFAULTS


@newest_transformers
def test_every_setting_of_the_trainer_is_one_of_training_arguments():
    assert OURS.keys() <= THEIRS.keys()


@newest_transformers
def test_every_other_one_of_training_arguments_is_decided_by_the_job():
    assert THEIRS.keys() - OURS.keys() - {"output_dir"} == DECIDED.keys()


def test_no_name_is_a_setting_and_gone_or_decided():
    assert not FIELDS.keys() & (RENAMED.keys() | DECIDED.keys())


def test_heads_are_those_of_heads_py():
    assert tuple(heads.HEADS) == HEAD_NAMES


def test_inputs_of_the_bigru_are_those_of_heads_py():
    assert heads.BIGRU_INPUTS == BIGRU_INPUTS


def test_every_fitted_vote_has_its_fitter():
    assert {name for name, method in METHODS.items() if method.is_fitted} == FITTERS.keys()
