"""--fetch brings what a job needs to this machine; afterwards the job runs without a network."""

import sys

import pytest
from conftest import job_words, shell
from stand_in import StandIn

pytestmark = pytest.mark.slow


@pytest.fixture
def hub(tiny_encoder):
    server = StandIn()
    server.add("team/tiny", tiny_encoder)
    yield server
    server.close()


def test_what_was_fetched_trains_without_a_network(hub, tmp_path):
    words = job_words("team/tiny", tmp_path / "out", "--members", "last3-42", "--folds", 0)
    command = [sys.executable, "run_classification.py", *words]
    here = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    fetched = shell(*command, "--fetch", env={**here, "HF_HUB_OFFLINE": "0"})
    assert fetched.code == 0, fetched.err
    assert "team/tiny is here" in fetched.out
    assert "60 labelled tweets and 40 test tweets can be read" in fetched.out
    assert not (tmp_path / "out").exists()
    hub.shutdown()
    outcome = shell(*command, env={**here, "HF_HUB_OFFLINE": "1"})
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "out" / "last3-42" / "fold-0" / "DONE").exists()


def test_without_a_fetch_the_missing_encoder_is_named(hub, tmp_path):
    words = job_words("team/tiny", tmp_path / "out", "--members", "last3-42", "--folds", 0)
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    outcome = shell(sys.executable, "run_classification.py", *words, env=environment)
    assert outcome.code == 2
    assert "error: --model_name_or_path team/tiny can't be loaded" in outcome.err
    assert "Traceback" not in outcome.err
