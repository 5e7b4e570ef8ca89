"""Probes: what a linear map or a small network can read from a representation, on held-out images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeCV
from sklearn.neural_network import MLPRegressor
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from rcdm.measures.metrics import Number, accuracy, bootstrap, variance

HIDDEN = 256
"""Width of the one hidden layer of the small network that probes."""


def ridge_probe(h: Tensor, phi: Tensor, h_test: Tensor, phi_test: Tensor) -> Number:
    """Held-out R² of ridge regression from standardised h [N,D] to φ [N,P], the penalty by cross-validation."""
    return r_squared(ridge_prediction(h, phi, h_test), phi_test)


def mlp_probe(h: Tensor, phi: Tensor, h_test: Tensor, phi_test: Tensor) -> Number:
    """Held-out R² of a network with one hidden layer of 256, stopped early on a tenth of the training rows."""
    return r_squared(mlp_prediction(h, phi, h_test), phi_test)


def ridge_prediction(h: Tensor, phi: Tensor, h_test: Tensor) -> Tensor:
    """What `ridge_probe` reads from h_test [M,D]: [M,P]."""
    return ridge_model(h, phi)(h_test)


def mlp_prediction(h: Tensor, phi: Tensor, h_test: Tensor) -> Tensor:
    """What `mlp_probe` reads from h_test [M,D]: [M,P]."""
    return mlp_model(h, phi)(h_test)


def ridge_model(h: Tensor, phi: Tensor) -> nn.Sequential:
    """The reader of `ridge_probe`, learnt on h [N,D] and φ [N,P]: layers of the sizes D, P."""
    model = RidgeCV(alphas=(1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)).fit(h.numpy(), phi.numpy())
    coefficients = torch.from_numpy(model.coef_).reshape(phi.shape[1], h.shape[1])
    return _filled([coefficients], [torch.as_tensor(model.intercept_).reshape(phi.shape[1])])


def mlp_model(h: Tensor, phi: Tensor) -> nn.Sequential:
    """The reader of `mlp_probe`, learnt on h [N,D] and φ [N,P]: layers of the sizes D, HIDDEN, P."""
    scale = phi.std(0).clamp(min=1e-6)
    model = MLPRegressor(
        hidden_layer_sizes=(HIDDEN,), early_stopping=True, max_iter=60, n_iter_no_change=5, random_state=0, alpha=1e-3
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        target = (phi / scale).numpy()
        model.fit(h.numpy(), target[:, 0] if target.shape[1] == 1 else target)
    first, last = (torch.from_numpy(weights).T for weights in model.coefs_)
    hidden, out = (torch.from_numpy(biases) for biases in model.intercepts_)
    return _filled([first, last * scale[:, None]], [hidden, out * scale])


def layers(*sizes: int) -> nn.Sequential:
    """Linear maps from each size to the next, with ReLU between, on the CPU and without gradients."""
    steps: list[nn.Module] = []
    for width, more in pairwise(sizes):
        steps += [nn.Linear(width, more), nn.ReLU()]
    return nn.Sequential(*steps[:-1]).requires_grad_(False)


def _filled(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> nn.Sequential:
    """`layers` with these weights [out,in] and biases [out]."""
    model = layers(weights[0].shape[1], *map(len, biases))
    every = [tensor.flatten() for pair in zip(weights, biases, strict=True) for tensor in pair]
    vector_to_parameters(torch.cat(every).float(), model.parameters())
    return model


def linear_probe(
    h: Tensor,
    labels: Tensor,
    h_test: Tensor,
    labels_test: Tensor,
    *,
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3),
    cases: int = 1,
) -> Number:
    """Held-out top-1 accuracy of logistic regression from h [N,D] to classes, int64 [N], on the device of h.

    h is standardised; the weight of ‖W‖² is the one of `penalties` that serves a tenth of the training rows best. The
    test rows may be `cases` of each image, one case after the other: the interval is over images.
    """
    mean, std = h.mean(0), h.std(0).clamp(min=1e-6)
    h, h_test = (h - mean) / std, (h_test - mean) / std
    classes = 1 + int(max(labels.max(), labels_test.max()))
    order = torch.randperm(len(h), generator=torch.Generator().manual_seed(0)).to(h.device)
    trial, rest = order[: len(h) // 10], order[len(h) // 10 :]
    models = [logistic_regression(h[rest], labels[rest], classes, penalty) for penalty in penalties]
    best = max(models, key=lambda model: float((model(h[trial]).argmax(1) == labels[trial]).float().mean()))
    with torch.no_grad():
        return accuracy(best(h_test).argmax(1).cpu(), labels_test.cpu(), classes, cases=cases)


def logistic_regression(h: Tensor, labels: Tensor, classes: int, penalty: float) -> nn.Linear:
    """Multinomial logistic regression from h [N,D] to classes int64 [N], plus penalty x ‖W‖², by L-BFGS."""
    model = nn.Linear(h.shape[1], classes, device=h.device)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(h), labels) + penalty * model.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return model


def r_squared(predicted: Tensor, phi: Tensor) -> Number:
    """1 − E‖φ − φ̂‖² / Var φ over held-out rows, [N,P] twice."""
    errors = (predicted - phi).square().sum(1)
    return bootstrap(lambda i: 1 - errors[i].mean() / variance(phi[i]), len(phi), null=0.0)
