"""What a noisy image says of h: against worlds where it is known."""

import gaussian_world as gw
import pytest
import torch
from conftest import TINY_SOURCES

import rcdm
from rcdm.diffusion import guided
from rcdm.diffusion.regression import GAIN, LEVELS, SIDE, Regression, fit_regression

L, K = len(LEVELS), 2


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def known(pixels: int = 3 * SIDE**2, directions: int = K) -> Regression:
    """Whose pieces are different numbers at every level."""
    root = random(L, directions, directions, seed=3)
    return Regression(
        torch.eye(5)[:, :directions],
        random(L, directions, seed=1),
        random(L, directions + pixels, directions, seed=2),
        root @ root.mT + torch.eye(directions),
    )


def asked(regression: Regression, logsnr: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    n = 3
    images = random(n, 3, 2 * SIDE, 2 * SIDE, seed=4)
    return regression(random(n, 5, seed=5), random(n, 5, seed=6), images, torch.tensor(logsnr))


def test_at_a_level_h_is_compared_with_what_was_fitted_there():
    regression = known()
    for i, level in enumerate(LEVELS):
        r, weighed = asked(regression, [level])
        pixels = random(3, 3, 2 * SIDE, 2 * SIDE, seed=4).unflatten(2, (SIDE, 2)).unflatten(4, (SIDE, 2)).mean((3, 5))
        phi = torch.cat([random(3, 5, seed=6)[:, :K], GAIN * pixels.flatten(1)], 1)
        expected = random(3, 5, seed=5)[:, :K] - regression.intercept[i] - phi @ regression.weight[i]
        assert torch.allclose(r, expected, atol=1e-4)
        assert torch.allclose(regression.covariance[i] @ weighed.T, expected.T, atol=1e-3)


def test_between_two_levels_lies_what_is_between_them_and_beyond_the_ends_nothing_new():
    regression = known()
    low, high = asked(regression, [LEVELS[1]])[0], asked(regression, [LEVELS[2]])[0]
    third = LEVELS[1] + (LEVELS[2] - LEVELS[1]) / 3
    assert torch.allclose(asked(regression, [third])[0], (2 * low + high) / 3, atol=1e-4)
    for end, beyond in ((LEVELS[0], -40.0), (LEVELS[-1], 40.0)):
        assert torch.allclose(asked(regression, [end])[0], asked(regression, [beyond])[0], atol=1e-4)


def test_each_image_has_its_own_level():
    regression, levels = known(), [-3.0, 0.0, 3.0]
    together = asked(regression, levels)
    for i, level in enumerate(levels):
        for all_of_them, alone in zip(together, asked(regression, [level]), strict=True):
            assert torch.allclose(all_of_them[i], alone[i], atol=1e-4)


def test_a_relation_that_holds_is_found_with_its_covariance():
    n, tolerance = 6000, 0.3
    images = random(n, 3, 2, 2)
    root = torch.tensor([[0.5, 0.0], [0.4, 0.2]])
    way, shift = random(12, 2, seed=1), torch.tensor([3.0, -1.0])
    z = images.flatten(1) @ way + shift + random(n, 2, seed=2) @ root.T
    seeing = fit_regression(lambda level: images, lambda x: z, z, tolerance)  # z is said of the guess, too
    assert torch.allclose(seeing.covariance, tolerance * torch.eye(2).expand(L, -1, -1), atol=0.01)
    blind = fit_regression(lambda level: images, lambda x: torch.zeros_like(z), z, tolerance)
    turn = blind.basis
    assert torch.allclose(blind.weight[0][K:] * GAIN, way @ turn, atol=0.03)
    assert torch.allclose(blind.intercept[0], shift @ turn, atol=0.03)
    exact = turn.T @ root @ root.T @ turn + tolerance * torch.eye(2)
    assert torch.allclose(blind.covariance[0], exact, atol=0.03)


def test_what_explains_nothing_is_not_believed():
    images, z = random(120, 3, 16, 16), random(120, 40, seed=1)
    found = fit_regression(lambda level: images, lambda x: random(120, 40, seed=2), z, 0.0)
    assert found.weight.abs().max() < 0.02
    variance = z.var() * torch.ones(found.basis.shape[1])
    assert torch.allclose(found.covariance[0].diag(), variance, rtol=0.35)


def test_the_covariance_is_that_of_images_which_were_not_fitted():
    way = random(192, 4, seed=1) / 14
    images, fresh = random(150, 3, 8, 8), random(3000, 3, 8, 8, seed=2)
    z, later = (x.flatten(1) @ way + 0.3 * random(len(x), 4, seed=3) for x in (images, fresh))
    found = fit_regression(lambda level: images, lambda x: torch.zeros_like(z), z, 0.0)
    r, _ = found(later, torch.zeros_like(later), fresh, torch.zeros(1))
    assert r.square().sum(1).mean() == pytest.approx(float(found.covariance[0].trace()), rel=0.3)


@pytest.mark.parametrize(
    ("method", "numbers", "exact"),
    [("regression", 1, True), ("regression", 2, True), ("dps", 1, True), ("dps", 2, False), ("mpgd", 1, False)],
)
@pytest.mark.parametrize("timestep", [850, 500, 150])
def test_the_guided_guess_is_the_mean_of_the_posterior_where_that_is_known(method, numbers, exact, timestep):
    covariance, encoder, h = gw.world()
    encoder, h = encoder[:numbers], h[:numbers]
    pipe = gw.pipeline(covariance, encoder, method)
    a, s = pipe.unet._process.levels(timestep)
    given = torch.linalg.inv(torch.linalg.inv(covariance) + a**2 / s**2 * torch.eye(gw.D))
    of_h = encoder @ given @ encoder.T + gw.TOLERANCE * torch.eye(numbers)
    if method == "regression":
        weight = torch.cat([torch.eye(numbers), torch.zeros(gw.D, numbers)])
        pipe.unet.projections[gw.SOURCE].regression = Regression(
            torch.eye(numbers), torch.zeros(L, numbers), weight.expand(L, -1, -1), of_h.expand(L, -1, -1)
        )
    x_t = random(4, gw.D)
    free = x_t @ given * a / s**2
    expected = free + (h - free @ encoder.T) @ torch.linalg.inv(of_h) @ encoder @ given
    guess = pipe.unet.guess(x_t.view(4, 3, 2, 2), timestep, h.expand(4, -1), gw.SOURCE)
    assert torch.allclose(guess.x0.flatten(1), free, atol=1e-4)
    assert torch.allclose(guess.guided.flatten(1), expected, atol=1e-3) is exact
    if method == "regression":
        r = h - free @ encoder.T
        twist = -torch.einsum("bi,ij,bj->b", r, torch.linalg.inv(of_h), r) / 2
        assert torch.allclose(guess.twist, twist, atol=1e-3)


def test_with_many_images_draws_are_those_of_the_posterior():
    few = gw.compare("regression", 4000, steps=60)
    mean, spread = gw.compare("regression", 4000, steps=60, images=4000)
    through = gw.compare("dps", 4000, steps=60)
    assert mean < 3 * (gw.D / 4000) ** 0.5 and spread < 1.6 * (gw.D * (gw.D + 1) / 4000) ** 0.5
    assert mean < few[0] / 2 and spread < few[1] / 1.5 and spread < through[1] / 1.4


def test_the_strength_makes_steps_longer_and_none_goes_past_h():
    covariance, encoder, h = gw.world()
    encoder, h, weight = encoder[:1], h[:1], torch.cat([torch.eye(1), torch.zeros(gw.D, 1)]).expand(L, -1, -1)
    pipe = gw.pipeline(covariance, encoder, "regression")

    def step(variance: float, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        spread = torch.full((L, 1, 1), variance)
        own = Regression(torch.eye(1), torch.zeros(L, 1), weight, spread)
        pipe.unet.projections[gw.SOURCE].regression = own
        pipe.unet.set_strength(gw.SOURCE, strength)
        guess = pipe.unet.guess(random(4, 3, 2, 2), 500, h.expand(4, -1), gw.SOURCE)
        return guess.guided - guess.x0, guess.guided.flatten(1) @ encoder.T

    assert torch.allclose(step(1e3, 2)[0], 2 * step(1e3, 1)[0], atol=1e-5)
    for strength in (1, 2):  # it is said to be known better than it is
        assert torch.allclose(step(1e-3, strength)[1], h.expand(4, -1), atol=1e-3)


@pytest.mark.parametrize("method", ["dps", "mpgd"])
def test_methods_that_learn_nothing_have_no_regression(method):
    pipe = gw.pipeline(*gw.world()[:2], method)
    assert pipe.unet.projections[gw.SOURCE].regression is None


def test_a_network_that_costs_much_is_learnt_from_fewer_images(tiny_checkpoint, monkeypatch):
    sources = rcdm.load(tiny_checkpoint).sources
    for name in ("PRIOR_STEPS", "TRIED_STEPS"):
        monkeypatch.setattr(guided, name, 1)
    many = rcdm.guided(tiny_checkpoint, sources.only([TINY_SOURCES[0]]))
    assert many.guidance[TINY_SOURCES[0]].images == guided.MOST
    monkeypatch.setattr(guided, "AFFORDABLE", 1.0)
    few = rcdm.guided(tiny_checkpoint, sources.only([TINY_SOURCES[0]]), method="dps")
    assert few.guidance[TINY_SOURCES[0]].images == guided.FEWEST
    asked = rcdm.guided(tiny_checkpoint, sources.only([TINY_SOURCES[0]]), prior_images=272).guidance[TINY_SOURCES[0]]
    assert (asked.images, asked.n) == (272, guided.MOST_TRIED)
    three = rcdm.guided(tiny_checkpoint, sources, method="dps")
    for name, bound in (("AFFORDABLE", 1e12), ("FEWEST", 1), ("MOST", 10**12)):
        monkeypatch.setattr(guided, name, bound)
    assert 2 < guided._affordable(three) < guided._affordable(few) < 10**12
