"""The command `publish`: bad input."""

import pytest
from conftest import ROOT

from smm4h.cli.publish import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say where to: --hub_model_id me/name, or --to_folder FOLDER"),
        (["--to_folder", "{tmp}"], "is there already, and no earlier publication; name a new one"),
        (["--hub_model_id", "a b"], "--hub_model_id a b: "),
    ],
)
def test_bad_input_is_one_sentence(tuned_job, tmp_path, call, words, message):
    result = call(main, tuned_job.folder, *[word.format(tmp=tmp_path) for word in words])
    assert result.code == 2
    assert message in result.err


def test_a_word_model_of_an_older_version_is_not_uploaded_unless_it_may_be_read(call, tmp_path):
    """Its hashes give training tweets back."""
    witness = ROOT / "tests" / "witness" / "job"
    refused = call(main, witness, "--hub_model_id", "me/old")
    assert refused.code == 2
    assert "trained by an older version, whose lists of hashed words spell training tweets out" in refused.err
    assert "give the job's command again" in refused.err
    assert "--readable_words" in refused.err
    warned = call(main, witness, "--to_folder", tmp_path / "published")
    assert warned.code == 0, warned.err
    assert "warning: counts, svm: trained by an older version" in warned.err
    assert "a reader can spell out training tweets" in (tmp_path / "published" / "README.md").read_text()
