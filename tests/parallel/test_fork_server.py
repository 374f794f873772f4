"""The fork server: when it is started, with which environment, and when it ends."""

import os
import signal
import sys
from dataclasses import dataclass

import pytest
from conftest import INVENTED, LAUNCHER_VARIABLES, ROOT, session_of, shell, start, train_words, wait_for

from smm4h.cli.train import main
from smm4h.config.recipe import read_command_line
from smm4h.parallel import environment, fork_server

WORDS = ["recipes/quickstart.yaml", "--task", "tasks/task5.yaml", "--output_dir", "out", "--model_name_or_path", "x"]


@dataclass
class ServerStart:
    """What a fork server finds when it is started."""

    environment: dict[str, str]
    sigint: object  # the handler


@pytest.fixture
def starts(monkeypatch) -> list[ServerStart]:
    """All starts of a fork server, none of which happens."""
    found: list[ServerStart] = []

    def ensure_running():
        found.append(ServerStart(dict(os.environ), signal.getsignal(signal.SIGINT)))

    monkeypatch.setattr(fork_server.forkserver, "ensure_running", ensure_running)
    monkeypatch.setattr(fork_server.atexit, "register", lambda *_: None)
    return found


def become_coordinator_or_peer(*flags):
    job = read_command_line([*WORDS, *flags])
    environment.become_coordinator_or_peer(environment.LaunchEnvironment.detect(), job)


@pytest.mark.parametrize("flags", [["--fetch"], ["--parallel", "data"], ["--parallel=data"]])
def test_a_command_that_needs_no_workers_starts_no_fork_server(starts, flags):
    become_coordinator_or_peer(*flags)
    assert starts == []


@pytest.mark.parametrize("flag", ["--help", "--list"])
def test_a_command_that_shows_something_starts_no_fork_server(starts, call, flag):
    assert call(main, *WORDS, flag).code == 0
    assert starts == []


def test_the_fork_server_has_no_launcher_variables_and_ignores_ctrl_c(monkeypatch, starts):
    for name, value in LAUNCHER_VARIABLES.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGINT)
    become_coordinator_or_peer()
    (server,) = starts
    assert not set(LAUNCHER_VARIABLES) & set(server.environment)
    assert str(ROOT) in server.environment["PYTHONPATH"].split(os.pathsep)
    assert server.sigint is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before


def test_a_config_that_spreads_the_model_starts_no_fork_server(monkeypatch, starts):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    become_coordinator_or_peer()
    assert starts == []


STOPPED_AT_THE_START = """
import sys
from smm4h.parallel import fork_server
def start():
    print(sorted({"torch", "transformers", "datasets", "pandas", "sklearn"} & set(sys.modules)))
    sys.exit()
fork_server.start = start
import run_classification
run_classification.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_the_fork_server_starts_before_anything_heavy_is_imported():
    """Its imports would otherwise begin when the job's have ended, and the first step would come seconds later."""
    result = shell(sys.executable, "-c", STOPPED_AT_THE_START, *WORDS, "--data_dir", INVENTED)
    assert (result.out, result.err) == ("[]\n", "")


def test_the_fork_server_silences_libraries_before_it_imports_any():
    """What they log while they are imported would be the first line of a job."""
    script = (
        "import importlib, logging, sys; from smm4h.parallel.fork_server import PRELOADED; "
        "importlib.import_module(PRELOADED[0]); "
        "print('torch' in sys.modules, logging.getLogger('bitsandbytes.backends').isEnabledFor(logging.WARNING))"
    )
    assert shell(sys.executable, "-c", script).out == "False False\n"


@pytest.mark.slow
def test_a_command_that_ends_at_once_leaves_no_fork_server_behind():
    job = start(train_words(["recipes/smm4h2020.yaml", "--tsk", "x"]))
    assert job.wait(60) == 2
    assert wait_for(lambda: not session_of(job), 1)  # the server's imports would take it several seconds more


def test_sockets_of_a_long_temporary_directory_lie_elsewhere(tmp_path):
    """The path of a socket may have 108 bytes."""
    long = tmp_path / ("x" * 120)
    long.mkdir()
    script = (
        "from smm4h.parallel import fork_server; fork_server.start(); import tempfile; print(tempfile.gettempdir())"
    )
    result = shell(sys.executable, "-c", script, env={"TMPDIR": str(long)})
    assert (result.code, result.out.strip()) == (0, str(long)), result.err
    assert not list(long.iterdir())
