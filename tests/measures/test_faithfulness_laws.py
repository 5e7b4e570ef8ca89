"""Honesty, levels and directions: equivalences on a network of random weights."""

import pytest
import torch

from rcdm.data import images as im
from rcdm.measures.attributes import Attributes
from rcdm.measures.directions import find_directions
from rcdm.measures.faithfulness import encode_all, faithfulness, faithfulness_of, pixels_of
from rcdm.measures.levels import levels_of, levels_with
from rcdm.measures.metrics import ranks

SOURCE = "tiny/backbone"


def photos(n: int, side: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(5)) * 2 - 1


def test_pieces_and_kinds_of_image_do_not_matter(pipe):
    x = im.to_tensor(im.to_pil(photos(5)))
    h = pipe.encode(x, SOURCE)
    for size in (2, 5, 256):
        assert torch.allclose(encode_all(pipe, x, SOURCE, batch_size=size), h, atol=1e-5)
    assert torch.allclose(encode_all(pipe, im.to_pil(x), SOURCE, batch_size=2), h, atol=1e-5)
    assert torch.allclose(pixels_of(pipe, x), x) and torch.allclose(pixels_of(pipe, im.to_pil(x)), x, atol=1e-6)
    assert pixels_of(pipe, photos(2, 32)).shape == (2, 3, 16, 16)


def test_image_i_is_drawn_from_seed_i(pipe):
    x = photos(6)
    h = pipe.encode(x, SOURCE)
    drawn = pipe.draw(h, SOURCE, [0, 1, 2, 3, 4, 5], num_inference_steps=2)
    assert faithfulness(pipe, x, SOURCE, num_inference_steps=2) == faithfulness_of(pipe, h, drawn, SOURCE)


def test_both_ways_of_looking_and_the_floor_are_those_of_standardised_numbers(pipe):
    x, drawn = photos(30), photos(30).flip(0) * 0.5 + photos(30) * 0.5
    h = pipe.encode(x, SOURCE)
    found = faithfulness_of(pipe, h, drawn, SOURCE)
    given, kept = (pipe.unet.standardise(part, SOURCE) for part in (h, pipe.encode(drawn, SOURCE)))
    assert found["mrr"].value == pytest.approx(float((1 / ranks(kept, given)).mean()))
    assert found["mrr_data_to_drawn"].value == pytest.approx(float((1 / ranks(given, kept)).mean()))
    likeness = torch.cosine_similarity(kept, given)
    floor = found["similarity_floor"]
    assert float((likeness >= floor.value).float().mean()) == pytest.approx(0.95, abs=0.04)
    other = torch.cosine_similarity(kept, given.roll(1, 0))
    assert float((other >= floor.null).float().mean()) == pytest.approx(0.95, abs=0.04)


def test_a_level_stands_behind_the_one_that_it_lies_in(pipe):
    network, preprocessing = pipe.sources.network("tiny")
    usual = network.levels()
    assert levels_with(network, []) == levels_with(network, usual) == tuple(usual)
    more = levels_with(network, ["layer2@mean", "elsewhere"])
    assert more[more.index("layer2") + 1] == "layer2@mean" and more[-1] == "elsewhere"
    assert len(more) == len(usual) + 2
    x = photos(3)
    some = levels_of(network, preprocessing, x, lambda images: images.flip(3), ["backbone", "layer1"])
    assert list(some) == ["backbone", "layer1"]
    assert torch.allclose(some["backbone"], pipe.encode(x.flip(3), SOURCE), atol=1e-5)


def test_main_directions_are_one_deviation_long_and_fall(pipe):
    x = photos(50)
    z = pipe.unet.standardise(pipe.encode(x, SOURCE), SOURCE)
    origin = torch.zeros(1, z.shape[1])
    found = find_directions("principal", pipe, x, Attributes(lambda images: {}, {}), SOURCE, components=4)
    assert list(found) == [f"component {i}" for i in range(4)]
    lengths = []
    for way in found.values():
        moved = pipe.unet.standardise(way[None], SOURCE) - pipe.unet.standardise(origin, SOURCE)
        length = float(moved.norm())
        assert length == pytest.approx(float((z @ (moved[0] / length)).std()), rel=1e-3)
        lengths.append(length)
    assert lengths == sorted(lengths, reverse=True) and lengths[-1] > 0


def test_the_direction_of_a_number_is_how_the_representation_goes_along_with_it(pipe):
    x = photos(200)
    z = pipe.unet.standardise(pipe.encode(x, SOURCE), SOURCE)
    weights = torch.zeros(z.shape[1], 3)
    weights[0, 0] = weights[1, 1] = weights[2, 1] = 1.0
    read = Attributes(lambda images: {"one": (z @ weights)[:, :1], "two": (z @ weights)[:, 1:]}, {})
    found = find_directions("attributes", pipe, x, read, SOURCE, components=1)
    assert list(found) == ["one", "two 0"]  # of what never changes there is none
    for way, number in zip(found.values(), (z @ weights).T, strict=False):
        scale = pipe.unet.projections[SOURCE].std
        covariance = ((z - z.mean(0)) * (number - number.mean())[:, None]).sum(0) / 199
        assert torch.allclose(way / scale, covariance / number.std(), atol=0.03)
