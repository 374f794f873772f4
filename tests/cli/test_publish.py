"""The command `publish`: bad input."""

import pytest

from smm4h.cli.publish import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say where to: --hub_model_id me/name, or --to_folder FOLDER"),
        (["--to_folder", "{tmp}"], "is there already; name a new one"),
        (["--hub_model_id", "a b"], "--hub_model_id a b: "),
    ],
)
def test_bad_input_is_one_sentence(tuned_job, tmp_path, call, words, message):
    result = call(main, tuned_job.folder, *[word.format(tmp=tmp_path) for word in words])
    assert result.code == 2
    assert message in result.err
