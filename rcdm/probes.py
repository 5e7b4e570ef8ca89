"""Probes: what a linear map or a small network can read from a representation, on held-out images."""

from __future__ import annotations

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeCV
from sklearn.neural_network import MLPRegressor
from torch import Tensor

from rcdm.metrics import Number, bootstrap, variance


def ridge_probe(h: Tensor, phi: Tensor, h_test: Tensor, phi_test: Tensor) -> Number:
    """Held-out R² of ridge regression from standardised h [N,D] to φ [N,P], the penalty by cross-validation."""
    model = RidgeCV(alphas=(1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)).fit(h.numpy(), phi.numpy())
    return r_squared(_predict(model, h_test, phi_test), phi_test)


def mlp_probe(h: Tensor, phi: Tensor, h_test: Tensor, phi_test: Tensor) -> Number:
    """Held-out R² of a network with one hidden layer of 256, stopped early on a tenth of the training rows."""
    scale = phi.std(0).clamp(min=1e-6)
    model = MLPRegressor(
        hidden_layer_sizes=(256,), early_stopping=True, max_iter=60, n_iter_no_change=5, random_state=0, alpha=1e-3
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        target = (phi / scale).numpy()
        model.fit(h.numpy(), target[:, 0] if target.shape[1] == 1 else target)
    return r_squared(_predict(model, h_test, phi_test) * scale, phi_test)


def _predict(model: RidgeCV | MLPRegressor, h: Tensor, like: Tensor) -> Tensor:
    return torch.from_numpy(model.predict(h.numpy())).float().reshape(like.shape)


def r_squared(predicted: Tensor, phi: Tensor) -> Number:
    """1 − E‖φ − φ̂‖² / Var φ over held-out rows, [N,P] twice."""
    errors = (predicted - phi).square().sum(1)
    return bootstrap(lambda i: 1 - errors[i].mean() / variance(phi[i]), len(phi), null=0.0)
