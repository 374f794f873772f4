"""RAdam at the speed of a fused kernel, and word embeddings that update only the rows in use."""

import math

import torch
from torch import nn


class RAdam(torch.optim.AdamW):
    """RAdam (Liu et al. 2019, "On the Variance of the Adaptive Learning Rate and Beyond"), decoupled weight decay.

    RAdam's step is Adam's with another step size, so that torch's fused kernel can make it; which also lets gradients
    be clipped without one more walk through memory: `clip`, set before a step, is the factor of its gradients. With m
    and v the moments of the clipped gradients c g, the kernel keeps M = m / a and V = v / q, where a and q follow the
    same averages over c and c^2:

        a' = b1 a + (1 - b1) c    =>    M' = m' / a' = (b1 a / a') M + (1 - b1 a / a') g

    and likewise q for v. So the kernel gets the true gradients, other decay rates, and a learning rate and epsilon that
    turn M / (sqrt(V) + eps) into `torch.optim.RAdam`'s step, which adds eps before its bias correction. While rho_t
    (section 4.1) is <= 5, the variance is not tractable and the step is lr * corrected momentum.

    Steps are counted by parameter group: a parameter gets its gradient at every step or, like a pooler that no head
    reads, at none.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        self._step_supports_amp_scaling = False  # so that a step that overflows in fp16 is not made, nor counted
        self.clip = 1.0

    @torch.no_grad()
    def step(self, closure=None):
        given = []
        for group in self.param_groups:
            given.append({name: group[name] for name in ("lr", "betas", "eps", "weight_decay")})
            self._prepare(group)
        loss = super().step(closure)
        for group, own in zip(self.param_groups, given, strict=True):
            is_rectified = group["lr"] != 0.0
            group.update(own)
            if not is_rectified:
                self._momentum_step(group)
        self.clip = 1.0
        return loss

    def _prepare(self, group):
        """Puts in place of the group's settings those by which the kernel makes RAdam's step."""
        for p in group["params"]:
            if p.grad is not None and not self.state[p]:
                moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                # The kernel's own bias corrections, by 1 - decay^step, are to be none.
                self.state[p] = {"step": torch.tensor(math.inf, device=p.device), **moments}
        lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
        n = group["n_steps"] = group.get("n_steps", 0) + 1
        before = group.get("scale", 0.0), group.get("square_scale", 0.0)
        a = group["scale"] = beta1 * before[0] + (1 - beta1) * self.clip
        q = group["square_scale"] = beta2 * before[1] + (1 - beta2) * self.clip**2
        group["betas"] = (beta1 * before[0] / a, beta2 * before[1] / q)
        group["eps"] = eps / math.sqrt(q)
        corrected = a / (1 - beta1**n) * math.sqrt((1 - beta2**n) / q)
        group["lr"] = lr * rectification(n, beta2) * corrected  # 0.0: the kernel then only updates the moments
        if group["lr"]:
            group["weight_decay"] *= lr / group["lr"]  # AdamW decays by lr * weight_decay

    def _momentum_step(self, group):
        lr, weight_decay = group["lr"], group["weight_decay"]
        parameters = [p for p in group["params"] if p.grad is not None]
        if parameters:
            momentum = [self.state[p]["exp_avg"] for p in parameters]
            if weight_decay:
                torch._foreach_mul_(parameters, 1 - lr * weight_decay)
            corrected = group["scale"] / (1 - group["betas"][0] ** group["n_steps"])
            torch._foreach_add_(parameters, momentum, alpha=-lr * corrected)


def rectification(n_steps: int, beta2: float) -> float:
    """r_t of Liu et al. 2019, equation 7, or 0.0 where the variance is not tractable (rho_t <= 5, as torch has it)."""
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * n_steps * beta2**n_steps / (1 - beta2**n_steps)
    if rho <= 5:
        return 0.0
    return math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))


class SparseRowEmbedding(nn.Module):
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
