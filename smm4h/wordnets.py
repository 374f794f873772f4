"""Networks over word embeddings, trained from nothing, as before there were encoders: a TextCNN and a BiGRU."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from smm4h.files import read_json, write_json
from smm4h.losses import Loss, balanced_weights, targets_of
from smm4h.words import ABOUT, WEIGHTS, words_of

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


NETS = {"textcnn": TextCNN, "word-bigru": WordBiGRU}


class WordNetModel:
    """One of `NETS` and the words that it knows."""

    def __init__(self, name: str, words: Sequence[str], n_classes: int) -> None:
        self.name, self.words, self.n_classes = name, list(words), n_classes
        self.index = {word: place for place, word in enumerate(self.words, start=UNKNOWN + 1)}
        self.net = NETS[name](len(self.words) + 2, n_classes)

    @classmethod
    def fit(
        cls,
        name: str,
        texts: Sequence[str],
        labels: np.ndarray,
        n_classes: int,
        seed: int,
        tell: Callable[[int, int], None] = lambda step, steps: None,
    ) -> "WordNetModel":
        """Of texts and class indices (n_tweets,), all classes weighing the same; `tell` is told step and steps."""
        counts = Counter(word for text in texts for word in set(words_of(text)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cls(name, sorted(word for word, count in counts.items() if count >= MIN_COUNT), n_classes)
            model._train([model.ids_of(text) for text in texts], targets_of(torch.from_numpy(labels), n_classes), tell)
        return model

    def ids_of(self, text: str) -> torch.Tensor:
        """The numbers (n_words,) of a text's words."""
        found = [self.index.get(word, UNKNOWN) for word in words_of(text)[:LONGEST]]
        return torch.tensor(found or [UNKNOWN])

    def _train(self, rows: list[torch.Tensor], targets: torch.Tensor, tell: Callable[[int, int], None]) -> None:
        loss = Loss(weights=balanced_weights(targets.sum(dim=0)))
        optimizer = torch.optim.Adam(self.net.parameters(), lr=LEARNING_RATE)
        n_steps = EPOCHS * -(-len(rows) // BATCH)
        batches = (places for _ in range(EPOCHS) for places in torch.randperm(len(rows)).split(BATCH))
        self.net.train()
        for step, places in enumerate(batches, start=1):
            logits = self.net(_padded([rows[place] for place in places.tolist()]))
            optimizer.zero_grad()
            (loss.of(logits, targets[places]).sum() / loss.size(targets[places])).backward()
            optimizer.step()
            tell(step, n_steps)

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(n_tweets, n_classes)."""
        self.net.eval()
        starts = range(0, len(texts), 256)
        batches = (_padded([self.ids_of(text) for text in texts[start : start + 256]]) for start in starts)
        return torch.cat([self.net(batch).softmax(dim=1) for batch in batches]).numpy()

    def save(self, folder: Path) -> None:
        """Writes words as JSON, weights as safetensors."""
        save_file(self.net.state_dict(), folder / WEIGHTS)
        write_json(folder / ABOUT, {"classifier": self.name, "n_classes": self.n_classes, "words": self.words})

    @classmethod
    def load(cls, folder: Path) -> "WordNetModel":
        """What `save` wrote: the same probabilities."""
        about = read_json(folder / ABOUT)
        model = cls(about["classifier"], about["words"], about["n_classes"])
        model.net.load_state_dict(load_file(folder / WEIGHTS))
        return model


def _padded(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=PAD)
