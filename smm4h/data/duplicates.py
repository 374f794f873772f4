"""Tweets that are the same but for case, URLs, @names and spacing: across files, folds and users."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from smm4h.config.task import Task
from smm4h.data.dataset import column
from smm4h.data.folds import folds_of
from smm4h.data.readers import Finding
from smm4h.models.cleaning import URL, USERNAME, unescape_entities


def normalized_text(text: str) -> str:
    """What near twins share: the text but for case, URLs, @names, entities and spacing."""
    if "&" in text:
        text = unescape_entities(text)
    return " ".join(USERNAME.sub(" ", URL.sub(" ", text)).casefold().split())


def connected_groups(*keys: np.ndarray) -> np.ndarray:
    """The group (n_tweets,) of each tweet: those that share any key, directly or through others, share a group.

    Each of `keys` is (n_tweets,), of strings; an empty one is shared with nobody.
    """
    n_tweets = len(keys[0])
    rows, nodes, n_nodes = [], [], n_tweets
    for key in keys:
        known = np.flatnonzero(key != "")
        values, index = np.unique(key[known].astype(str), return_inverse=True)
        rows.append(known)
        nodes.append(index + n_nodes)
        n_nodes += len(values)
    edges = np.concatenate(rows), np.concatenate(nodes)
    graph = coo_array((np.ones(len(edges[0])), edges), shape=(n_nodes, n_nodes))
    return connected_components(graph, directed=False)[1][:n_tweets]


def normalized_texts(dataset: Dataset) -> np.ndarray:
    """`normalized_text` of each tweet (n_tweets,); of two tweets with the same key, each is the other's near twin."""
    return np.array([normalized_text(text) for text in column(dataset, "text").to_pylist()], dtype=object)


def leak_groups(labelled: Dataset, task: Task, *, by_user: bool) -> np.ndarray:
    """The group (n_tweets,) of each tweet: near twins and tweets of one id together; `by_user` a user's, too."""
    columns = (["id"] if task.columns.id else []) + (["user"] if by_user else [])  # numbers are nobody's ids
    return connected_groups(normalized_texts(labelled), *(_strings(labelled, name) for name in columns))


def _strings(dataset: Dataset, name: str) -> np.ndarray:
    return np.array(column(dataset, name).to_pylist(), dtype=object)


def cross_findings(labelled: Dataset, test: Dataset | None, seeds: Sequence[int], task: Task) -> list[Finding]:
    """What only shows between files and folds: repeated ids, near twins, contradicting labels, shared users.

    Tweets without any text left (nothing but a URL, say) are nobody's twins.
    """
    findings = []
    frame = pd.DataFrame({name: column(labelled, name).to_pylist() for name in ("id", "user", "label")})
    frame["key"] = normalized_texts(labelled)
    if test is not None and task.columns.id:
        shared = int(column(test, "id").to_pandas().isin(set(frame["id"])).sum())
        if shared:
            findings.append(Finding("test", shared, "test tweets have the id of a labelled tweet"))
    worded = frame[frame["key"] != ""]
    groups = worded.groupby("key", sort=False)
    twins = int((groups["id"].transform("size") > 1).sum())
    if twins:
        findings.append(
            Finding("labelled", twins, "labelled tweets have a near twin (the text but for case, URLs, @names)")
        )
    contradicted = int((groups["label"].transform("nunique") > 1).sum())
    if contradicted:
        findings.append(Finding("labelled", contradicted, "labelled tweets have a near twin with another label"))
    if test is not None:
        keys = pd.Series(normalized_texts(test))
        shared = int((keys.isin(set(worded["key"])) & (keys != "")).sum())
        if shared:
            findings.append(Finding("test", shared, "test tweets have a near twin among the labelled ones"))
    for seed in seeds:
        for what, across in across_folds(labelled, [seed]).items():
            if across.any():
                flatters = f"labelled tweets have {what} in another fold: the out-of-fold score flatters"
                findings.append(Finding(f"folds of seed {seed}", int(across.sum()), flatters))
    return findings


def across_folds(labelled: Dataset, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Which tweets (n_tweets,) have a near twin, or a tweet of the same user, in another fold of any of the seeds."""
    found = {}
    for what, keys in (
        ("a near twin", normalized_texts(labelled)),
        ("a tweet of the same user", _strings(labelled, "user")),
    ):
        keys = pd.Series(keys)
        known = keys[keys != ""]
        found[what] = np.zeros(len(keys), dtype=bool)
        for seed in seeds:
            fold = pd.Series(folds_of(labelled, seed))[known.index]
            found[what][known.index] |= (fold.groupby(known, sort=False).transform("nunique") > 1).to_numpy()
    return found
