"""Muon for matrices, AdamW for the rest: what the stages that train from nothing use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import Tensor, nn

from ..precision import has_bfloat16

# Of the Newton-Schulz iteration (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024).
COEFFICIENTS = [(3.4445, -4.7750, 2.0315)]
STEPS = 5


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised momentum of each matrix [out, in] or kernel [out, in, h, w], flattened.

    A step's root mean square is that of AdamW's (Liu et al., arXiv 2502.16982), so that both share one learning rate.
    timm's and torch's own Muon iterate in bfloat16, which many CPUs emulate: here a matrix is orthogonalised in the
    precision that its device is fast in. The decay (decoupled, a share lr * weight_decay of each step) bounds the
    matrices' norms, since steps of fixed size would let them grow for as long as training lasts.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 1.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step with Nesterov momentum for every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)

    def _step(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(momentum, group["momentum"]).flatten(1)
        dtype = torch.bfloat16 if has_bfloat16(gradient.device) else torch.float32
        update = zeropower_via_newtonschulz(direction, STEPS, COEFFICIENTS, dtype=dtype).to(parameter.dtype)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.view(parameter.shape), alpha=-group["lr"] * get_lr_scale(update.shape))


def muon_and_adamw(parameters: Iterable[nn.Parameter], lr: float) -> list[torch.optim.Optimizer]:
    """Muon for what is at least a matrix, AdamW for biases, norms and whatever is too thin to be orthogonalised."""
    parameters = list(parameters)
    matrices = [p for p in parameters if p.ndim >= 2 and min(len(p), p[0].numel()) >= 4]
    known = {id(p) for p in matrices}
    others = [p for p in parameters if id(p) not in known]
    optimizers: list[torch.optim.Optimizer] = [Muon(matrices, lr)] if matrices else []
    return optimizers + ([torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)] if others else [])
