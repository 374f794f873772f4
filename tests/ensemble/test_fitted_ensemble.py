"""The stored voting rule is what every command votes by."""

import json

import pytest
from conftest import INVENTED

from smm4h.cli.vote import main


def test_the_stored_rule_is_what_every_command_votes_by(tuned_job, tmp_path, call):
    folder, gold_file = tuned_job.folder, tmp_path / "gold.tsv"
    gold_file.write_text("\n".join((INVENTED / "task5_test_gold.tsv").read_text().splitlines()[:41]) + "\n")
    result = call(main, folder, "--output", tmp_path / "again.tsv", "--gold", gold_file)
    assert result.code == 0, result.err
    assert (tmp_path / "again.tsv").read_bytes() == (folder / "votes" / "final.tsv").read_bytes()
    stored = json.loads((folder / "ensemble.json").read_text())
    assert f"out of fold, f1 {stored['out_of_fold']['f1']:.3f}" in result.out
    assert sum(stored["weights"].values()) == pytest.approx(1.0)
    assert stored["tuned_for"] == "f1 of 1, 2"
    assert stored["as_fitted"]["f1"] >= stored["out_of_fold"]["f1"] - 0.05
    score = json.loads((folder / "scores.json").read_text())["final vote"]["out_of_fold"]
    assert score == stored["out_of_fold"]
