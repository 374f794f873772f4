"""Duplicates after normalisation (case, URLs, @names and spacing ignored): across files, folds and users."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from smm4h.config.task import Task
from smm4h.data.dataset import CONTEXT, column, contexts_of
from smm4h.data.folds import folds_of
from smm4h.data.readers.tables import Finding
from smm4h.models.cleaning import URL, USERNAME, unescape_entities


def normalized_text(text: str) -> str:
    """Return the text without case, URLs, @names, entities and repeated spaces; duplicates have equal ones."""
    if "&" in text:
        text = unescape_entities(text)
    return " ".join(USERNAME.sub(" ", URL.sub(" ", text)).casefold().split())


def connected_groups(*keys: np.ndarray) -> np.ndarray:
    """Return the group (n_tweets,) of each tweet: tweets that share a key, also through other tweets, form a group.

    Args:
        keys: arrays (n_tweets,) of strings; an empty string is not shared.
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
    """Return the `normalized_text` (n_tweets,) of each tweet; the same tweet with another second text is another one.

    A tweet whose own text is empty after normalisation has an empty one.
    """
    texts, contexts = _normalized(dataset, "text"), contexts_of(dataset)
    if contexts is None:
        return texts
    seconds = (normalized_text(context) for context in contexts)
    pairs = [text and f"{text}\n{second}" for text, second in zip(texts, seconds, strict=True)]
    return np.array(pairs, dtype=object)


def _normalized(dataset: Dataset, name: str) -> np.ndarray:
    return np.array([normalized_text(text) for text in column(dataset, name).to_pylist()], dtype=object)


def leak_groups(labelled: Dataset, task: Task, *, by_user: bool) -> np.ndarray:
    """Return the group (n_tweets,) of each tweet: duplicates after normalisation and tweets with equal ids are grouped.

    So are tweets with the same text and another second text: one could be known from the other.

    Args:
        by_user: group tweets of the same user, too.
    """
    # without an id column, ids are row numbers
    columns = (["id"] if task.columns.id else []) + (["user"] if by_user else [])
    return connected_groups(_normalized(labelled, "text"), *(_strings(labelled, name) for name in columns))


def _strings(dataset: Dataset, name: str) -> np.ndarray:
    return np.array(column(dataset, name).to_pylist(), dtype=object)


def cross_findings(labelled: Dataset, test: Dataset | None, seeds: Sequence[int], task: Task) -> list[Finding]:
    """Return findings between files and folds: repeated ids, duplicates, contradicting labels, shared users.

    Tweets without any text left after normalisation (nothing but a URL, say) count as no duplicates.
    """
    findings = []
    frame = pd.DataFrame({name: column(labelled, name).to_pylist() for name in ("id", "user", "label")})
    frame["key"] = normalized_texts(labelled)
    if test is not None and task.columns.id:
        shared = int(column(test, "id").to_pandas().isin(set(frame["id"])).sum())
        if shared:
            findings.append(Finding("test", shared, "test tweets have the id of a labelled tweet"))
    with_text = frame[frame["key"] != ""]
    groups = with_text.groupby("key", sort=False)
    n_duplicates = int((groups["id"].transform("size") > 1).sum())
    if n_duplicates:
        what = "labelled tweets have a duplicate (the text but for case, URLs, @names)"
        findings.append(Finding("labelled", n_duplicates, what))
    contradicted = int((groups["label"].transform("nunique") > 1).sum())
    if contradicted:
        findings.append(Finding("labelled", contradicted, "labelled tweets have a duplicate with another label"))
    if test is not None:
        keys = pd.Series(normalized_texts(test))
        shared = int((keys.isin(set(with_text["key"])) & (keys != "")).sum())
        if shared:
            findings.append(Finding("test", shared, "test tweets have a duplicate among the labelled ones"))
    for seed in seeds:
        for relation, is_across in across_folds(labelled, [seed]).items():
            if is_across.any():
                message = f"labelled tweets have {relation} in another fold: the out-of-fold score flatters"
                findings.append(Finding(f"folds of seed {seed}", int(is_across.sum()), message))
    return findings


def shared_texts(texts: Dataset, labelled: Dataset, test: Dataset | None) -> dict[str, int]:
    """Return how many texts are those of labelled and of test tweets, and how many repeat another, as duplicates do."""
    keys = pd.Series(normalized_texts(texts))
    known = keys[keys != ""]
    tables = {"labelled": labelled, "test": test}
    shared = {name: known.isin(normalized_texts(of)).sum() for name, of in tables.items() if of is not None}
    return {name: int(count) for name, count in {**shared, "repeated": known.duplicated().sum()}.items()}


def across_folds(labelled: Dataset, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Return which tweets have a duplicate after normalisation, or a tweet of the same user, in another fold.

    Args:
        seeds: of the folds; a tweet counts if the folds of any seed separate it.

    Returns:
        An array (n_tweets,) of bool for each relation, by its name in findings.
    """
    is_across = {}
    relations = {"a duplicate": normalized_texts(labelled), "a tweet of the same user": _strings(labelled, "user")}
    if CONTEXT in labelled.column_names:
        relations["the same text with another second text"] = _normalized(labelled, "text")
    for relation, keys in relations.items():
        keys = pd.Series(keys)
        known = keys[keys != ""]
        is_across[relation] = np.zeros(len(keys), dtype=bool)
        for seed in seeds:
            fold = pd.Series(folds_of(labelled, seed))[known.index]
            is_across[relation][known.index] |= (fold.groupby(known, sort=False).transform("nunique") > 1).to_numpy()
    return is_across
