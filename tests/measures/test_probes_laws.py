"""Laws of the probes: optima that are known by their gradient, and what must not matter."""

import warnings

import pytest
import torch
from sklearn.linear_model import RidgeCV
from sklearn.neural_network import MLPRegressor

from rcdm.measures.probes import (
    HIDDEN,
    linear_probe,
    logistic_regression,
    mlp_model,
    mlp_prediction,
    mlp_probe,
    r_squared,
    ridge_model,
    ridge_prediction,
    ridge_probe,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_r_squared_of_the_truth_of_the_mean_and_of_a_half():
    phi = torch.randn(400, 2)
    assert r_squared(phi, phi).value == 1
    assert r_squared(phi.mean(0).expand(400, 2), phi).value == pytest.approx(0, abs=0.005)  # 1 - (N-1)/N
    centred = phi - phi.mean(0)
    assert r_squared(phi.mean(0) + centred / 2, phi).value == pytest.approx(0.75, abs=0.003)
    number = r_squared(torch.zeros(400, 2), phi)
    assert number.null == 0 and number.n == 400 and number.low < 0 < number.high + 0.05


@pytest.mark.parametrize("penalty", [1e-3, 0.1])
def test_the_gradient_of_a_logistic_regression_is_zero_where_it_ends(penalty):
    """Σ (softmax − one-hot) h / N + 2 penalty W = 0, and the bias bears no penalty."""
    h, labels = torch.randn(200, 4), torch.randint(3, (200,))
    labels = torch.where(h[:, 0] > 0.5, 0, labels)
    model = logistic_regression(h, labels, 3, penalty)
    wrong = (model(h).softmax(1) - torch.eye(3)[labels]).detach() / 200
    assert torch.allclose(wrong.T @ h + 2 * penalty * model.weight.detach(), torch.zeros(3, 4), atol=2e-4)
    assert torch.allclose(wrong.sum(0), torch.zeros(3), atol=2e-4)


def test_a_logistic_regression_is_fitted_where_gradients_are_off_and_repeats():
    h, labels = torch.randn(60, 4), torch.randint(3, (60,))
    with torch.no_grad():
        first, second = (logistic_regression(h, labels, 3, 0.01) for _ in range(2))
    assert torch.equal(first.weight, second.weight) and first.weight.abs().max() > 0


def classes(n: int = 300, noise: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(n) % 3
    return torch.eye(3, 6)[labels] + noise * torch.randn(n, 6), labels


def test_a_linear_probe_sees_no_units_and_no_origin():
    (h, labels), (h_test, labels_test) = classes(), classes(200)
    plain = linear_probe(h, labels, h_test, labels_test)
    scale, shift = torch.logspace(-3, 3, 6), torch.arange(6.0)
    scaled = linear_probe(h * scale + shift, labels, h_test * scale + shift, labels_test)
    assert plain.value > 0.9 and scaled.value == pytest.approx(plain.value, abs=0.011)
    assert plain.null == pytest.approx(1 / 3) and plain.n == 200
    dead = torch.cat([h, torch.ones(300, 1)], 1), torch.cat([h_test, torch.ones(200, 1)], 1)
    assert linear_probe(dead[0], labels, dead[1], labels_test).value == pytest.approx(plain.value, abs=0.011)


def test_a_linear_probe_counts_classes_that_only_the_test_holds():
    (h, labels), (h_test, labels_test) = classes(), classes(40)
    labels_test[0] = 7
    assert linear_probe(h, labels, h_test, labels_test).null == 1 / 8
    assert linear_probe(h, labels + 4, h_test, labels_test).null == 1 / 8


def test_the_penalty_is_the_one_that_serves_held_out_rows():
    """A penalty that leaves the bias alone sees the largest class everywhere."""

    def uneven(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = (torch.arange(n) % 3 == 0).long()
        return labels[:, None] + 0.2 * torch.randn(n, 4), labels

    (h, labels), (h_test, labels_test) = uneven(150), uneven(300)
    weak, strong, *both = (
        linear_probe(h, labels, h_test, labels_test, penalties=penalties).value
        for penalties in ((1e-4,), (100.0,), (1e-4, 100.0), (100.0, 1e-4))
    )
    assert strong == pytest.approx(2 / 3) and weak > 0.95 and both == [weak, weak]


def test_probes_read_each_number_in_its_own_unit():
    h = torch.randn(400, 5)
    phi = torch.cat([h[:, :1], 1000 * h[:, 1:2] + 50, torch.zeros(400, 1)], 1)
    for prediction in (ridge_prediction, mlp_prediction):
        read = prediction(h, phi, h[:300])
        assert read.shape == (300, 3) and read.dtype == torch.float32
        for k in (0, 1):
            assert r_squared(read[:, k : k + 1], phi[:300, k : k + 1]).value > 0.8
    one = mlp_prediction(h, phi[:, :1], h[:7])
    assert one.shape == (7, 1) and torch.equal(one, mlp_prediction(h, phi[:, :1], h[:7]))  # it repeats


@pytest.mark.parametrize("width", [1, 3])
def test_what_a_probe_learnt_is_what_scikit_learn_predicts(width, monkeypatch):
    """The layers that are kept of both probes, against the predictions of the library that learnt them."""
    learnt = []
    for kind in (RidgeCV, MLPRegressor):
        fit = kind.fit
        monkeypatch.setattr(kind, "fit", lambda self, x, y, fit=fit: learnt.append(fit(self, x, y)) or learnt[-1])
    h, h_test = torch.randn(300, 6), torch.randn(40, 6)
    phi = torch.cat([h[:, :1], 100 * h[:, 1:2].abs() + 7, -h[:, 2:3]], 1)[:, :width]
    ridge, mlp = ridge_model(h, phi), mlp_model(h, phi)
    theirs = [torch.as_tensor(model.predict(h_test.numpy())).reshape(40, width) for model in learnt]
    torch.testing.assert_close(ridge(h_test), theirs[0].float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mlp(h_test), theirs[1].float() * phi.std(0), rtol=1e-4, atol=1e-4)
    assert [len(layer.bias) for layer in mlp[::2]] == [HIDDEN, width] and len(ridge) == 1


def test_a_probe_of_noise_is_held_back_by_its_penalty():
    """Ridge on many useless dimensions must not do worse than the mean by much."""
    h, phi, h_test, phi_test = torch.randn(90, 80), torch.randn(90, 1), torch.randn(500, 80), torch.randn(500, 1)
    assert ridge_probe(h, phi, h_test, phi_test).value > -0.25


def test_probes_say_nothing_of_steps_that_ran_out():
    h = torch.randn(200, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mlp_probe(h, h[:, :2], h, h[:, :2]).value > 0.8
