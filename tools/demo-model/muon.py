"""Muon for the matrices inside the layers, Adam for all else.

Muon moves a matrix by its momentum made nearly orthogonal (a quintic Newton–Schulz iteration); matrices of one shape
are handled together.
"""

import torch

ADAM = (0.9, 0.98)
EPSILON = 1e-9


def orthogonal(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, roughly, of a batch `[n, rows, columns]`."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = x.shape[-2] > x.shape[-1]
    y = x.bfloat16()
    y = y.mT if wide else y
    y = y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    return (y.mT if wide else y).to(x.dtype)


class Muon:
    """`step()` applies the gradients; `rates(scale)` are the numbers that it needs, which a captured graph reads anew.

    Parameters move in groups by kernels over lists, and nothing in a step waits for the CPU.
    """

    def __init__(self, model: torch.nn.Module, extra: list, matrix_rate: float, rate: float, decay: float = 0.01):
        self.matrix_rate, self.rate, self.decay, self.count = matrix_rate, rate, decay, 0
        shapes: dict[tuple, list] = {}
        self.rest = list(extra)
        for name, p in model.named_parameters():
            if p.ndim == 2 and ("layers" in name or "input_projection" in name):
                shapes.setdefault(tuple(p.shape), []).append(p)
            else:
                self.rest.append(p)
        device = self.rest[0].device
        self.matrices = [(ps, torch.zeros((len(ps), *shape), device=device)) for shape, ps in shapes.items()]
        self.first = [torch.zeros_like(p) for p in self.rest]
        self.second = [torch.zeros_like(p) for p in self.rest]
        self.now = torch.zeros(5, device=device)

    def rates(self, scale: float) -> list[float]:
        """For one more step at a fraction of the peak rates: both rates, 1 - Muon's momentum, Adam's corrections."""
        self.count += 1
        momentum = min(0.95, 0.85 + 0.1 * self.count / 300)
        return [self.matrix_rate * scale, self.rate * scale, 1 - momentum, *(1 - b**self.count for b in ADAM)]

    @torch.no_grad()
    def step(self) -> None:
        """Applies the gradients by the numbers in `now`."""
        matrix_rate, rate, fresh, first, second = self.now.unbind()
        for params, mean in self.matrices:
            grads = torch.stack([p.grad for p in params])
            mean.lerp_(grads, fresh)
            moved = orthogonal(torch.lerp(mean, grads, fresh))
            stretch = max(1.0, mean.shape[1] / mean.shape[2]) ** 0.5
            torch._foreach_mul_(params, 1 - matrix_rate * self.decay)
            torch._foreach_sub_(params, list((moved * (matrix_rate * stretch)).unbind()))
        grads = [p.grad for p in self.rest]
        torch._foreach_lerp_(self.first, grads, 1 - ADAM[0])
        torch._foreach_mul_(self.second, ADAM[1])
        torch._foreach_addcmul_(self.second, grads, grads, 1 - ADAM[1])
        spread = torch._foreach_sqrt(torch._foreach_div(self.second, second))
        torch._foreach_add_(spread, EPSILON)
        moved = torch._foreach_div(torch._foreach_div(self.first, first), spread)
        torch._foreach_mul_(moved, rate)
        torch._foreach_sub_(self.rest, moved)
        for p in [p for params, _ in self.matrices for p in params] + self.rest:
            p.grad = None
