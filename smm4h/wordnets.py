"""Networks over word embeddings, trained from nothing, as before there were encoders: a TextCNN and a BiGRU."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from smm4h.losses import Loss, balanced_weights, targets_of
from smm4h.words import words_of

PAD, UNKNOWN = 0, 1
MIN_COUNT, LONGEST = 2, 110  # words rarer than that are unknown; tweets are cut at so many
WIDTH, N_FILTERS, WINDOWS = 100, 100, (3, 4, 5)  # Kim 2014, section 3.1, but for vectors of 100
EPOCHS, BATCH, LEARNING_RATE = 8, 32, 1e-3


class TextCNN(nn.Module):
    """Convolutions over word embeddings, the maximum of each filter over the tweet (Kim 2014)."""

    def __init__(self, n_words: int, n_classes: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(n_words, WIDTH, padding_idx=PAD)
        self.filters = nn.ModuleList(nn.Conv1d(WIDTH, N_FILTERS, window, padding=window - 1) for window in WINDOWS)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(N_FILTERS * len(WINDOWS), n_classes))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Logits (n_tweets, n_classes) of word ids (n_tweets, n_words)."""
        vectors = self.embeddings(words).transpose(1, 2)
        return self.classifier(torch.cat([f(vectors).relu().amax(dim=2) for f in self.filters], dim=1))


class WordBiGRU(nn.Module):
    """A bidirectional GRU over word embeddings, the maximum of its states over the tweet."""

    def __init__(self, n_words: int, n_classes: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(n_words, WIDTH, padding_idx=PAD)
        self.gru = nn.GRU(WIDTH, N_FILTERS, batch_first=True, bidirectional=True)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(2 * N_FILTERS, n_classes))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Logits (n_tweets, n_classes) of word ids (n_tweets, n_words)."""
        lengths = (words != PAD).sum(dim=1).clamp_min(1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embeddings(words), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, padding_value=-1.0)
        return self.classifier(states.amax(dim=1))


def fit_wordnet(
    build: Callable[[int, int], nn.Module],
    texts: Sequence[str],
    labels: np.ndarray,
    n_classes: int,
    seed: int,
    tell: Callable[[int, int], None],
) -> Callable[[Sequence[str]], np.ndarray]:
    """Trains a network on texts and class indices (n_tweets,), all classes weighing the same.

    Returns what gives the probabilities (n_tweets, n_classes) of other texts. `tell` is told steps made and steps.
    """
    counts = Counter(word for text in texts for word in set(words_of(text)))
    known = sorted(word for word, count in counts.items() if count >= MIN_COUNT)
    index = {word: place for place, word in enumerate(known, start=UNKNOWN + 1)}

    def ids_of(text: str) -> torch.Tensor:
        found = [index.get(word, UNKNOWN) for word in words_of(text)[:LONGEST]]
        return torch.tensor(found or [UNKNOWN])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(len(index) + 2, n_classes)
        targets = targets_of(torch.from_numpy(labels), n_classes)
        loss = Loss(weights=balanced_weights(targets.sum(dim=0)))
        rows = [ids_of(text) for text in texts]
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        n_steps = EPOCHS * -(-len(rows) // BATCH)
        for step, places in enumerate(
            places for _ in range(EPOCHS) for places in torch.randperm(len(rows)).split(BATCH)
        ):
            logits = model(_padded([rows[place] for place in places.tolist()]))
            optimizer.zero_grad()
            (loss.of(logits, targets[places]).sum() / loss.size(targets[places])).backward()
            optimizer.step()
            tell(step + 1, n_steps)
    model.eval()

    @torch.no_grad()
    def probabilities(others: Sequence[str]) -> np.ndarray:
        parts = [
            _padded([ids_of(text) for text in others[start : start + 256]]) for start in range(0, len(others), 256)
        ]
        return torch.cat([model(part).softmax(dim=1) for part in parts]).numpy()

    return probabilities


def _padded(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=PAD)
