"""RAdam on torch's fused AdamW kernel, and a word embedding that trains only the rows in use."""

import math

import torch
from torch import nn


class RAdam(torch.optim.AdamW):
    """RAdam (Liu et al. 2019, "On the Variance of the Adaptive Learning Rate and Beyond") with decoupled weight decay.

    RAdam's step is Adam's with another step size, so torch's fused kernel can compute it, and gradients can be clipped
    without another pass through memory: set `clip`, the factor of the gradients, before a step. With m and v the
    moments of the clipped gradients c g, the kernel keeps M = m / a and V = v / q, where a and q follow the same
    averages over c and c^2:

        a' = b1 a + (1 - b1) c    =>    M' = m' / a' = (b1 a / a') M + (1 - b1 a / a') g

    and likewise q for v. The kernel therefore gets the unclipped gradients, adjusted decay rates, and a learning rate
    and epsilon that turn M / (sqrt(V) + eps) into the step of `torch.optim.RAdam`, which adds eps before its bias
    correction. While rho_t (section 4.1) is <= 5, the variance is not tractable and the step is lr * corrected
    momentum.

    Steps are counted per parameter group: a parameter must get a gradient at every step or, like a pooler that no head
    reads, at none.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        self._step_supports_amp_scaling = False  # else a step that overflows in fp16 would be counted
        self.clip = 1.0

    @torch.no_grad()
    def step(self, closure=None):
        """Make one optimizer step with the gradients scaled by `clip`, then reset `clip` to 1."""
        saved = []
        for group in self.param_groups:
            saved.append({name: group[name] for name in ("lr", "betas", "eps", "weight_decay")})
            self._prepare(group)
        loss = super().step(closure)
        for group, settings in zip(self.param_groups, saved, strict=True):
            is_rectified = group["lr"] != 0.0
            group.update(settings)
            if not is_rectified:
                self._momentum_step(group)
        self.clip = 1.0
        return loss

    def _prepare(self, group):
        """Replace the group's settings by values with which the AdamW kernel computes RAdam's step."""
        for p in group["params"]:
            if p.grad is not None and not self.state[p]:
                moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                # An infinite step switches off the kernel's own bias corrections by 1 - decay^step.
                self.state[p] = {"step": torch.tensor(math.inf, device=p.device), **moments}
        lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
        n = group["n_steps"] = group.get("n_steps", 0) + 1
        previous = group.get("scale", 0.0), group.get("square_scale", 0.0)
        a = group["scale"] = beta1 * previous[0] + (1 - beta1) * self.clip
        q = group["square_scale"] = beta2 * previous[1] + (1 - beta2) * self.clip**2
        group["betas"] = (beta1 * previous[0] / a, beta2 * previous[1] / q)
        group["eps"] = eps / math.sqrt(q)
        corrected = a / (1 - beta1**n) * math.sqrt((1 - beta2**n) / q)
        group["lr"] = lr * rectification(n, beta2) * corrected  # at 0.0 the kernel only updates the moments
        if group["lr"]:
            group["weight_decay"] *= lr / group["lr"]  # AdamW decays by lr * weight_decay

    def _momentum_step(self, group):
        """Update the group's parameters by lr * corrected momentum, for steps without rectification."""
        lr, weight_decay = group["lr"], group["weight_decay"]
        parameters = [p for p in group["params"] if p.grad is not None]
        if parameters:
            momentum = [self.state[p]["exp_avg"] for p in parameters]
            if weight_decay:
                torch._foreach_mul_(parameters, 1 - lr * weight_decay)
            corrected = group["scale"] / (1 - group["betas"][0] ** group["n_steps"])
            torch._foreach_add_(parameters, momentum, alpha=-lr * corrected)


def rectification(n_steps: int, beta2: float) -> float:
    """Return r_t of Liu et al. 2019, equation 7, or 0.0 for rho_t <= 5 (intractable variance, as in torch)."""
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * n_steps * beta2**n_steps / (1 - beta2**n_steps)
    if rho <= 5:
        return 0.0
    return math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))


class SparseRowEmbedding(nn.Module):
    """Word embedding that trains only the rows occurring in the data; its state dict is that of the full embedding.

    Without weight decay, Adam and RAdam leave a row that never gets a gradient unchanged, so the trained weights equal
    those of a full embedding, and the optimizer skips the unused rows. In training mode only ids in use are valid, in
    evaluation mode all ids.

    Args:
        embedding: the full embedding.
        used: (n_used,) ids in use, ascending.
    """

    def __init__(self, embedding: nn.Embedding, used: torch.Tensor) -> None:
        super().__init__()
        used = used.to(embedding.weight.device)
        if embedding.padding_idx is not None:  # padding is looked up too, but gets no gradient
            used = torch.cat([used, used.new_tensor([embedding.padding_idx])]).unique()
        weight = embedding.weight.detach()
        self.weight = nn.Parameter(weight[used].clone())
        self.table = nn.Buffer(weight, persistent=False)
        self.used = nn.Buffer(used, persistent=False)
        numbers = torch.arange(len(used), device=used.device)
        row_of_id = used.new_full((len(weight),), -1).index_copy(0, used, numbers)
        self.row_of_id = nn.Buffer(row_of_id, persistent=False)
        self.padding_row = None
        if embedding.padding_idx is not None:
            self.padding_row = int(self.row_of_id[embedding.padding_idx])
        self.synced_version: int | None = self.weight._version  # of the rows that `table` holds

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.forget_table()  # an optimizer step will follow, and fused kernels do not raise `_version`
            return nn.functional.embedding(self.row_of_id[ids], self.weight, self.padding_row)
        return nn.functional.embedding(ids, self.full_weight())

    def forget_table(self) -> None:
        """Note that the trained rows have changed in a way that their version does not tell."""
        self.synced_version = None

    @torch.no_grad()
    def full_weight(self) -> torch.Tensor:
        """Return all rows (n_rows, width), the trained rows with their current values."""
        if self.synced_version != self.weight._version:
            self.table[self.used] = self.weight
            self.synced_version = self.weight._version
        return self.table

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[prefix + "weight"] = self.full_weight().clone()

    def _load_from_state_dict(self, state_dict, prefix, *_):
        with torch.no_grad():
            self.table.copy_(state_dict[prefix + "weight"])
            self.weight.copy_(self.table[self.used])
        self.synced_version = self.weight._version
