"""Bits of a representation, against a case in which they are known."""

import math

import pytest
import torch

from rcdm.data import sprites
from rcdm.diffusion.process import Process
from rcdm.measures.information import Information, information, trapezoid
from rcdm.studies import STUDIES
from rcdm.studies.information_study import _differences, _summary, agree


def gaussian(seed: int = 0, d: int = 6, p: int = 3, sigma: float = 0.5):
    """x ~ N(0, S), h = A x + σ n: S, A, draws of x [N,D] and h [N,P], and the information in bits."""
    stream = torch.Generator().manual_seed(seed)
    root = torch.randn(d, d, generator=stream, dtype=torch.float64) / d**0.5
    covariance, a = root @ root.T + 0.1 * torch.eye(d), torch.randn(p, d, generator=stream, dtype=torch.float64)
    x = torch.randn(20_000, d, generator=stream, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    h = x @ a.T + sigma * torch.randn(20_000, p, generator=stream, dtype=torch.float64)
    bits = 0.5 * torch.logdet(torch.eye(p) + a @ covariance @ a.T / sigma**2) / math.log(2)
    return covariance, a, x, h, float(bits)


def exact_denoiser(covariance, a, h, logsnr, sigma: float = 0.5):
    """ε̂ without and with h: the posterior means of a Gaussian."""
    d = len(covariance)
    gain = covariance @ a.T @ torch.linalg.inv(a @ covariance @ a.T + sigma**2 * torch.eye(len(a)))
    mean, conditional = h @ gain.T, covariance - gain @ a @ covariance

    def predict(x_t, k):
        signal, noise = torch.sigmoid(logsnr[k]).sqrt(), torch.sigmoid(-logsnr[k]).sqrt()

        def epsilon(mu, s):
            total = signal**2 * s + noise**2 * torch.eye(d)
            x0 = mu + (x_t - signal * mu) @ torch.linalg.inv(total) @ (signal * s)
            return (x_t - signal * x0) / noise

        return epsilon(torch.zeros(d, dtype=torch.float64), covariance), epsilon(mean, conditional)

    return predict


def test_both_forms_are_the_mutual_information_of_gaussians():
    covariance, a, x, h, bits = gaussian()
    logsnr = torch.linspace(-9, 9, 64, dtype=torch.float64)
    stream = torch.Generator().manual_seed(1)
    noise = [torch.randn(x.shape, generator=stream, dtype=torch.float64) for _ in logsnr]
    found = information(exact_denoiser(covariance, a, h, logsnr), x, logsnr, lambda k: noise[k])
    assert float(found.form_2.mean()) == pytest.approx(bits, rel=0.01)
    assert float(found.form_1.mean()) == pytest.approx(bits, rel=0.01)


def test_of_a_shuffled_representation_form_1_is_below_zero():
    covariance, a, x, h, _ = gaussian()
    logsnr = torch.linspace(-9, 9, 32, dtype=torch.float64)
    stream = torch.Generator().manual_seed(1)
    noise = [torch.randn(x.shape, generator=stream, dtype=torch.float64) for _ in logsnr]
    found = information(exact_denoiser(covariance, a, h.roll(1, 0), logsnr), x, logsnr, lambda k: noise[k])
    assert float(found.form_1.mean()) < -1


def test_the_trapezoid_rule_is_exact_for_lines():
    points = torch.tensor([3.0, 1.0, 0.5, -2.0])
    assert float((trapezoid(points) * (2 * points + 1)).sum()) == pytest.approx(9 + 3 - 4 + 2)


def test_the_study_has_the_shape_it_promises(pipe):
    images = sprites.render(sprites.sample_factors(5, seed=4), 16)
    sources = ("tiny/backbone", "tiny/projector")
    result = STUDIES["information"](pipe, images, sources=sources, seeds=[0, 1], levels=4)
    assert len(result.images) == len(result.rows) * len(result.columns) == 4 * 3
    for source in sources:
        numbers = result.numbers["sources"][source]
        assert numbers["form_1"]["n"] == 5 and "null" in numbers["form_1"] and numbers["form_2"]["value"] >= 0
    (gap,) = result.numbers["differences"].values()
    values = [result.numbers["sources"][source]["form_1"]["value"] for source in sources]
    others = [result.numbers["sources"][source]["form_2"]["value"] for source in sources]
    first = gap["form_1"] if "withheld" in gap else gap["value"]
    assert first == pytest.approx(values[0] - values[1], abs=1e-2)
    assert gap["form_2"] == pytest.approx(others[0] - others[1], abs=1e-2)
    assert ("withheld" in gap) != agree(first, gap["form_2"]) and ("value" in gap) == ("withheld" not in gap)
    assert gap.get("limited_by_decoder", first < 0) == (first < 0)


@pytest.mark.parametrize(("one", "other", "expected"), [
    (10, 10, True), (10, 14, True), (10, 16, False), (16, 10, False), (10, -10, False), (-10, -14, True), (0, 0, False),
    (0, 5, False),
])  # fmt: skip
def test_a_difference_is_withheld_where_its_two_estimates_contradict_each_other(
    one: float, other: float, expected: bool
) -> None:
    assert agree(one, other) is expected


def gap_of(form_1: float, form_2: float) -> dict:
    """What the study says of a backbone with so many bits more than its projector, by each form."""
    flat = torch.zeros(4)
    bits = {"n/backbone": Information(flat + form_1, flat + form_2, None), "n/projector": Information(flat, flat, None)}
    return _differences(bits)["n/backbone − n/projector"]


def test_a_withheld_difference_has_no_value_and_says_both() -> None:
    assert gap_of(14, -3) == {"withheld": True, "form_1": 14, "form_2": -3, "n": 4}
    assert gap_of(14, 12)["value"] == 14 and "withheld" not in gap_of(14, 12)
    sources = {"n/backbone": {"form_1": {"value": 1, "low": 0, "high": 2, "null": 0}, "form_2": {"value": 1}}}
    about = {"logsnr": [-8, 6], "asked": [-8, 6], "images": 4, "sources": sources, "differences": {"n": gap_of(14, -3)}}
    assert "withheld" in _summary(about) and "14.0 by error spared, -3.0 by guess moved" in _summary(about)


def test_a_denoiser_that_ignores_h_finds_no_bits(pipe):
    for projection in pipe.unet.projections.values():
        torch.nn.init.zeros_(projection.linear.weight)
    images = sprites.render(sprites.sample_factors(3, seed=4), 16)
    numbers = STUDIES["information"](pipe, images, sources=["tiny/layer2"], levels=3).numbers["sources"]["tiny/layer2"]
    assert numbers["form_1"]["value"] == pytest.approx(0, abs=1e-3)
    assert numbers["form_2"]["value"] == pytest.approx(0, abs=1e-3)


def test_every_image_has_its_own_noise_whatever_the_batch(pipe):
    images = sprites.render(sprites.sample_factors(4, seed=4), 16)
    options = {"sources": ["tiny/backbone"], "levels": 3}
    together, apart = (
        STUDIES["information"](pipe, images, batch_size=size, **options).numbers["sources"]["tiny/backbone"]
        for size in (4, 1)
    )
    assert together["form_1"]["value"] == pytest.approx(apart["form_1"]["value"], abs=1e-2)


def test_a_range_beyond_the_schedule_is_reported_as_far_as_it_was_integrated(pipe):
    images, known = sprites.render(sprites.sample_factors(3, seed=4), 16), Process(pipe.scheduler).logsnr()
    option = {"sources": ["tiny/layer2"], "levels": 3}
    wide = STUDIES["information"](pipe, images, **option, lowest=-4.0, highest=40.0)
    assert wide.numbers["logsnr"][1] == float(known.max()) < 40 and wide.numbers["asked"] == [-4.0, 40.0]
    assert "Asked for were -4 to 40" in wide.summary and f"down to ln SNR {float(known.max()):.1f}" in wide.summary
    assert "Asked for" not in STUDIES["information"](pipe, images, **option).summary


def test_information_refuses_too_few_images(pipe):
    with pytest.raises(ValueError, match="at least 2 images"):
        STUDIES["information"](pipe, torch.zeros(1, 3, 16, 16), sources=["tiny/layer2"])


@pytest.mark.parametrize(("levels", "lowest", "highest"), [(1, -7.0, 7.0), (24, 7.0, -7.0), (24, 0.0, 0.0)])
def test_a_range_that_is_empty_is_refused(pipe, levels, lowest, highest):
    with pytest.raises(ValueError, match="from a lower to a higher"):
        STUDIES["information"](
            pipe, sprites.render(sprites.sample_factors(3, seed=4), 16), sources=["tiny/layer2"], seeds=[0],
            levels=levels, lowest=lowest, highest=highest,
        )  # fmt: skip
