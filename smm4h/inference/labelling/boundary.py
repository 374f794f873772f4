"""The decision that the expected gain of a label is measured to, which need not be the one in use."""

from smm4h.config.decision import Argmax, Pulled, Tuned, parse_decision
from smm4h.config.task import Task
from smm4h.ensemble.fitted_ensemble import voting_config
from smm4h.inference.new_tweets.chosen_members import choose_members
from smm4h.inference.predictor import EnsemblePredictor
from smm4h.models.voting import VotingRule


def rule_for_gain(predictor: EnsemblePredictor, task: Task) -> tuple[VotingRule, str | None]:
    """Return the rule whose decision a tweet of high expected gain is close to, and a notice where it is not the job's.

    A target, costs, another metric and weights by hand put the cut where their user wants it. At that of a recall of
    0.9 next to no tweet is rare, and its label is no surprise: of 90 real tweets (1:10) chosen by it none was rare,
    fewer than by chance, and 28 by the cut that is tuned for the metric.
    """
    config = voting_config(predictor.plan, task)
    if parse_decision(str(config.decision)) in (Argmax(), Tuned(), Pulled()):
        return predictor.rule, None
    _, ensemble = choose_members(predictor.plan, task, predictor.rule.members, decision=str(Tuned()))
    return ensemble.rule, (
        f"chosen by closeness to the decision tuned for {task.measure}, not to {config.decision}, the job's own"
    )
