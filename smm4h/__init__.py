"""Nine-member ensembles of BERT-like encoders for rare health events in tweets (SMM4H 2020)."""
