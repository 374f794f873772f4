"""Nine-member ensembles of BERT-like encoders for rare health events in tweets (SMM4H 2020)."""

__version__ = "0.2.0"
