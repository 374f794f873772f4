"""Parameters that share one memory, so that an optimizer steps over one tensor instead of two hundred."""

from collections.abc import Iterable

import torch
from torch import nn

ALIGNMENT = 8  # values; every parameter begins at a multiple, as vectorised kernels want it


class FlatParameters:
    """Parameters whose values and gradients are views of two tensors; for optimizers that treat each value alone.

    Args:
        parameters: of one device and dtype; from now on they lie in `whole`, and their gradients in `whole.grad`.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        ends = [0]
        for parameter in self.parameters:
            ends.append(ends[-1] + -(-parameter.numel() // ALIGNMENT) * ALIGNMENT)
        first = self.parameters[0]
        values = torch.zeros(ends[-1], dtype=first.dtype, device=first.device)
        gradients, self.gradients = torch.zeros_like(values), []
        for parameter, start in zip(self.parameters, ends, strict=False):
            own = slice(start, start + parameter.numel())
            values[own].view(parameter.shape).copy_(parameter.detach())
            parameter.data = values[own].view(parameter.shape)
            self.gradients.append(gradients[own].view(parameter.shape))
        self.whole = nn.Parameter(values)
        self.whole.grad = gradients

    def attach_gradients(self) -> None:
        """Give each parameter its part of `whole.grad` as gradient, which others set to None."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient

    def release(self) -> None:
        """Give each parameter a memory of its own again, and no gradient."""
        for parameter in self.parameters:
            parameter.data, parameter.grad = parameter.detach().clone(), None


def flatten(optimizer: torch.optim.Optimizer, without_gradient: Iterable[nn.Parameter]) -> list[FlatParameters]:
    """Have an optimizer step over one tensor for each of its parameter groups, and return these.

    Args:
        optimizer: has made no step yet.
        without_gradient: parameters that no loss depends on, which the optimizer would leave as they are.
    """
    idle, flats, groups = {id(parameter) for parameter in without_gradient}, [], []
    for group in optimizer.param_groups:
        if used := [parameter for parameter in group["params"] if id(parameter) not in idle]:
            flats.append(FlatParameters(used))
            groups.append({**group, "params": [flats[-1].whole]})
    optimizer.param_groups[:] = groups
    return flats
