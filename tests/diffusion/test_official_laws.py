"""The released loss and sampler against what follows from probability alone."""

import pytest
import torch
from diffusers import DDPMScheduler
from torch.distributions import Normal, kl_divergence

from rcdm.diffusion.official.convert import official_scheduler
from rcdm.diffusion.official.loss import LossTerms, VariationalLoss, _discretised_log_likelihood, _kl
from rcdm.diffusion.official.sampler import SpacedDDIMScheduler, spaced_timesteps


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 0.3), (0.7, 0.05), (-1.0, 0.01), (1.4, 1.0)])
def test_probabilities_of_all_pixel_values_add_up_to_one(mean, deviation):
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    centre, width = torch.full_like(values, mean), torch.full_like(values, deviation).log()
    probability = _discretised_log_likelihood(values, centre, width).exp()
    assert float(probability.sum()) == pytest.approx(1, abs=1e-6)
    normal = Normal(mean, deviation)
    inside = normal.cdf(values[100] + 1 / 255) - normal.cdf(values[100] - 1 / 255)
    assert float(probability[100]) == pytest.approx(float(inside), abs=1e-3)


def test_the_divergence_of_gaussians_is_that_of_torch():
    means, logs = torch.randn(2, 50), torch.randn(2, 50)
    ours = _kl(means[0], logs[0], means[1], logs[1])
    known = kl_divergence(Normal(means[0], (logs[0] / 2).exp()), Normal(means[1], (logs[1] / 2).exp()))
    assert torch.allclose(ours, known, atol=1e-5) and float(_kl(*torch.zeros(4, 1))) == 0


def test_an_image_without_noise_came_from_an_image_without_noise():
    """The mean of q(x_{t-1} | x_t, x0) at x_t = a x0 is a' x0, and its variance is that of diffusers."""
    scheduler = official_scheduler()
    tables, signal = VariationalLoss(scheduler)._tables, scheduler.alphas_cumprod.double()
    mean = tables["of_x0"] + tables["of_xt"] * tables["signal"]
    assert torch.allclose(mean[1:], signal[:-1].sqrt(), atol=1e-5) and float(mean[0]) == pytest.approx(1)
    plain = DDPMScheduler.from_config(scheduler.config, variance_type="fixed_small")
    for t in (1, 2, 500, 999):
        assert float(tables["log_variance"][t].exp()) == pytest.approx(float(plain._get_variance(t)), rel=2e-3)
        assert float(tables["log_beta"][t].exp()) == pytest.approx(float(scheduler.betas[t]), rel=1e-4)
    assert tables["log_variance"][0] == tables["log_variance"][1]
    assert torch.allclose(tables["signal"] ** 2 + tables["noise"] ** 2, torch.ones(1000).double())


def test_another_schedule_has_its_own_betas():
    cosine = DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range")
    tables = VariationalLoss(cosine)._tables
    assert torch.allclose(tables["signal"], cosine.alphas_cumprod.double().sqrt(), atol=1e-4)


def test_the_loss_is_the_sum_of_its_terms_image_by_image():
    loss, x0 = VariationalLoss(official_scheduler()), torch.rand(3, 3, 4, 4) * 2 - 1
    noise, t = torch.randn(3, 3, 4, 4), torch.tensor([0, 20, 999])
    out = torch.cat([noise + 0.5, torch.zeros_like(noise)], 1)
    terms = loss(out, x0, t, noise)
    assert isinstance(terms, LossTerms) and terms.mse.tolist() == pytest.approx([0.25] * 3, rel=1e-4)
    assert torch.equal(loss.error(out, x0, t, noise), terms.mse + terms.vb) and terms.vb.shape == (3,)
    assert loss.timesteps(torch.linspace(0, 0.9999, 1000)).bincount().tolist() == pytest.approx([1] * 1000, abs=1)


@pytest.mark.parametrize("spacing", ["10", "1", "1000", "3,4", "10,10,10", "ddim50", "ddim1000", ""])
def test_spaced_timesteps_are_so_many_and_rise_from_zero(spacing):
    found = spaced_timesteps(1000, spacing)
    count = 1000 if not spacing else sum(int(part) for part in spacing.removeprefix("ddim").split(","))
    assert len(found) == count and found == sorted(set(found)) and found[0] == 0 and found[-1] < 1000
    if spacing.isdigit() and count > 1:
        assert found[-1] == 999


@pytest.mark.parametrize(("total", "spacing", "words"), [
    (10, "11", "11 steps cannot be taken from 10"), (10, "6,6", "6 steps cannot be taken from 5"),
    (11, "6,6", "6 steps cannot be taken from 5"), (10, "5,0", "0 steps"), (10, "ddim7", "exactly 7 of 10"),
])  # fmt: skip
def test_more_steps_than_there_are_timesteps_are_refused(total, spacing, words):
    with pytest.raises(ValueError, match=words):
        spaced_timesteps(total, spacing)
    assert spaced_timesteps(11, "6,5") == list(range(11))  # the first section is the longer one


@pytest.mark.parametrize("clip", [True, False])
def test_a_step_of_ddim_goes_to_the_image_that_is_predicted(clip):
    """With the noise of the image known, each step stays on the line between both, and the last one ends at it."""
    scheduler = SpacedDDIMScheduler(clip_sample=clip, timestep_spacing="linspace")
    scheduler.set_timesteps(timesteps=[900, 500, 10])
    x0, noise = torch.full((1, 3, 2, 2), 0.5), torch.randn(1, 3, 2, 2)
    for t, after in ((900, 500), (500, 10), (10, None)):
        a, s = (scheduler.alphas_cumprod[t] ** 0.5, (1 - scheduler.alphas_cumprod[t]) ** 0.5)
        step = scheduler.step(torch.cat([noise, 9 + noise], 1), t, a * x0 + s * noise)
        assert torch.allclose(step.pred_original_sample, x0, atol=1e-4)
        signal = 1.0 if after is None else scheduler.alphas_cumprod[after]
        assert torch.allclose(step.prev_sample, signal**0.5 * x0 + (1 - signal) ** 0.5 * noise, atol=1e-3)
    far = scheduler.step(-9 * torch.ones_like(noise), 500, noise).pred_original_sample
    assert (float(far.max()) == 1) == clip


@pytest.mark.parametrize("said", [-1.0, 0.0, 0.5, 1.0])
def test_the_variance_that_is_said_lies_between_both_on_a_log_scale(said):
    """Where the noise is known, the bound is the divergence of the two variances, in bits."""
    loss, t = VariationalLoss(official_scheduler()), torch.tensor([1, 5, 700])
    x0, noise = torch.rand(3, 3, 4, 4) * 2 - 1, torch.randn(3, 3, 4, 4)
    found = loss(torch.cat([noise, torch.full_like(noise, said)], 1), x0, t, noise).vb
    least, most = (loss._tables[name][t].exp().sqrt() for name in ("log_variance", "log_beta"))
    known = kl_divergence(Normal(0, least), Normal(0, least * (most / least) ** ((said + 1) / 2)))
    assert torch.allclose(found.double(), known / torch.tensor(2.0).log(), atol=1e-4)
