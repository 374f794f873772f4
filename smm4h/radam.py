"""Rectified Adam in the numbers of `torch.optim.RAdam`, at the speed of torch's fused AdamW."""

import math

import torch


class RAdam(torch.optim.AdamW):
    """RAdam (Liu et al. 2019, "On the Variance of the Adaptive Learning Rate and Beyond"), decoupled weight decay.

    RAdam's step is Adam's with another step size. With rho_t the length of the approximated average (section 4.1), Adam
    with learning rate lr * r_t and eps / sqrt(1 - beta2^t) gives `torch.optim.RAdam(decoupled_weight_decay=True)`,
    which adds eps before its bias correction. While rho_t <= 5 the variance is not tractable and the step is
    lr * corrected momentum.

    Steps are counted by parameter group: a parameter gets its gradient at every step or, like a pooler that no head
    reads, at none.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure=None):
        given = []
        for group in self.param_groups:
            group["n_steps"] = group.get("n_steps", 0) + 1
            given.append((group["lr"], group["eps"], group["weight_decay"]))
            rectified = rectification(group["n_steps"], group["betas"][1])
            if rectified:
                group["lr"] *= rectified
                group["eps"] /= math.sqrt(1 - group["betas"][1] ** group["n_steps"])
                group["weight_decay"] /= rectified  # AdamW decays by lr * weight_decay
            else:
                group["lr"] = 0.0  # the fused kernel then only updates the moments
        loss = super().step(closure)
        for group, (lr, eps, weight_decay) in zip(self.param_groups, given, strict=True):
            if group["lr"] == 0.0 and lr != 0.0:
                self._momentum_step(group, lr, weight_decay)
            group["lr"], group["eps"], group["weight_decay"] = lr, eps, weight_decay
        return loss

    def _momentum_step(self, group, lr, weight_decay):
        parameters = [p for p in group["params"] if p.grad is not None]
        if parameters:
            momentum = [self.state[p]["exp_avg"] for p in parameters]
            if weight_decay:
                torch._foreach_mul_(parameters, 1 - lr * weight_decay)
            torch._foreach_add_(parameters, momentum, alpha=-lr / (1 - group["betas"][0] ** group["n_steps"]))


def rectification(n_steps: int, beta2: float) -> float:
    """r_t of Liu et al. 2019, equation 7, or 0.0 where the variance is not tractable (rho_t <= 5, as torch has it)."""
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * n_steps * beta2**n_steps / (1 - beta2**n_steps)
    if rho <= 5:
        return 0.0
    return math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
