"""The model card of an ensemble."""

import json

from huggingface_hub import ModelCard


def test_the_card_has_scores_sections_and_figures(published_job):
    card = ModelCard.load(published_job.folder / "README.md")
    scores = json.loads((published_job.job / "scores.json").read_text())
    final = next(parts for name, parts in scores.items() if name.startswith("final vote"))
    in_metadata = {(entry.dataset_name, entry.metric_type): entry.metric_value for entry in card.data.eval_results}
    assert in_metadata["task5, out of fold", "f1"] == round(final["out_of_fold"]["f1"], 4)
    assert in_metadata["task5, test", "f1"] == round(final["test"]["f1"], 4)
    for heading in ("Data", "Scores", "How it decides", "How it was trained", "Limits", "Citation"):
        assert f"\n## {heading}\n" in card.text
    assert "More information needed" not in card.text
    assert all(name.removesuffix(" *") in card.text for name in scores)
    assert "accelerate launch run_classification.py" in card.text
    for picture in ("scores", "confusion_out_of_fold", "precision_recall", "calibration"):
        assert f"(figures/{picture}.png)" in card.text
        assert (published_job.folder / "figures" / f"{picture}.png").stat().st_size > 5000
