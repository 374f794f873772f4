"""Networks over word embeddings, trained from nothing, as before there were encoders: a TextCNN and a BiGRU."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from smm4h.counting import hash_of, words_of

PAD, UNKNOWN = 0, 1
LONGEST = 110  # words; tweets are cut there
WIDTH, N_FILTERS, WINDOWS = 100, 100, (3, 4, 5)  # Kim 2014, section 3.1, but for vectors of 100


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


NETS = {"textcnn": TextCNN, "word-bigru": WordBiGRU}


class WordNet(nn.Module):
    """One of `NETS` and the words that it knows, as hashes."""

    def __init__(self, name: str, n_words: int, n_classes: int) -> None:
        super().__init__()
        self.net = NETS[name](n_words + 2, n_classes)
        self.register_buffer("words", torch.zeros(n_words, dtype=torch.int64))
        self.index: dict[int, int] = {}

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Logits (n_tweets, n_classes) of word ids (n_tweets, n_words)."""
        return self.net(words)

    def ids_of(self, text: str) -> torch.Tensor:
        """The numbers (n_words,) of a text's words."""
        if not self.index:
            self.index = {word: place for place, word in enumerate(self.words.tolist(), start=UNKNOWN + 1)}
        found = [self.index.get(hash_of(word), UNKNOWN) for word in words_of(text)[:LONGEST]]
        return torch.tensor(found or [UNKNOWN])

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(n_tweets, n_classes)."""
        starts = range(0, len(texts), 256)
        device = self.words.device
        batches = (padded([self.ids_of(text) for text in texts[start : start + 256]]).to(device) for start in starts)
        return torch.cat([self.net(batch).softmax(dim=1) for batch in batches]).cpu().numpy()


def padded(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Word ids (n_tweets, n_words) of rows of them."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=PAD)
