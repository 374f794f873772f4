"""Of a word embedding, only the rows that a run's tweets use: the others get no gradient, so why step over them."""

import torch
from torch import nn


class UsedRows(nn.Module):
    """An embedding whose parameter is the rows in use; by its state, it is the whole embedding.

    Without weight decay, Adam and RAdam leave a row that never gets a gradient exactly as it is, so that the weights
    after training are the same. While training, only ids in use may be asked for; else any.

    Args:
        embedding: the whole one.
        used: ids (n_used,), ascending.
    """

    def __init__(self, embedding: nn.Embedding, used: torch.Tensor) -> None:
        super().__init__()
        if embedding.padding_idx is not None:  # which gets no gradient either
            used = torch.cat([used, torch.tensor([embedding.padding_idx])]).unique()
        whole = embedding.weight.detach()
        self.weight = nn.Parameter(whole[used].clone())
        self.table = nn.Buffer(whole, persistent=False)
        self.used = nn.Buffer(used, persistent=False)
        places = torch.full((len(whole),), -1).index_copy(0, used, torch.arange(len(used)))
        self.places = nn.Buffer(places, persistent=False)
        self.padding_place = None
        if embedding.padding_idx is not None:
            self.padding_place = int(self.places[embedding.padding_idx])
        self.written_for: int | None = self.weight._version

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.written_for = None  # a step will follow, and torch's fused optimizers count no versions
            return nn.functional.embedding(self.places[ids], self.weight, self.padding_place)
        return nn.functional.embedding(ids, self.whole())

    @torch.no_grad()
    def whole(self) -> torch.Tensor:
        """All rows, with the trained ones as they are now."""
        if self.written_for != self.weight._version:
            self.table[self.used] = self.weight
            self.written_for = self.weight._version
        return self.table

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[prefix + "weight"] = self.whole().clone()

    def _load_from_state_dict(self, state_dict, prefix, *_):
        with torch.no_grad():
            self.table.copy_(state_dict[prefix + "weight"])
            self.weight.copy_(self.table[self.used])
        self.written_for = self.weight._version
