"""Each study's shape, and the case in which it must be something known."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rcdm import cli
from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.measures.directions import find_directions
from rcdm.studies import STUDIES
from rcdm.studies.interpolation import _at_middle, _numbers, linear, spherical
from rcdm.studies.manipulation import active_dimensions, nearest

MISC = Path(__file__).parents[1] / "recorded" / "official" / "misc"
SOURCES = ("tiny/backbone", "tiny/projector")


def two() -> torch.Tensor:
    return sprites.render(sprites.sample_factors(2, seed=4), 16)


def pixels(images) -> list[bytes]:
    return [image.tobytes() for image in images]


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_the_ends_of_a_path_are_plain_draws(pipe, path):
    result = STUDIES["interpolation"](pipe, two(), sources=SOURCES, seeds=[3, 9], path=path, points=5)
    assert len(result.images) == len(result.rows) * len(result.columns) == 4 * 7
    assert result.columns[0] == "first" and result.columns[-1] == "second"
    for row, (source, seed) in enumerate((s, k) for s in SOURCES for k in (3, 9)):
        plain = pipe(two(), source=source, seeds=[seed]).images
        first, *drawn, second = result.images[row * 7 : row * 7 + 7]
        assert pixels([first, second]) == pixels(im.to_pil(two()))
        for mine, theirs in ((drawn[0], plain[0]), (drawn[-1], plain[1])):
            difference = im.to_tensor(mine, 16) - im.to_tensor(theirs, 16)
            assert difference.abs().max() <= 2 / 127.5  # batches may differ by a grey level


@pytest.mark.parametrize("points", [4, 5])
def test_the_middle_of_a_path_is_as_far_from_both_ends(points):
    ratios = torch.linspace(0, 1, points).tolist()
    ends = torch.eye(2)
    found = _numbers(linear(ends[0], ends[1], ratios)[None], ends, ratios)
    assert _at_middle(found["to_first"]) == pytest.approx(_at_middle(found["to_second"]))


def test_a_path_from_an_image_to_itself_has_no_jumps(pipe):
    result = STUDIES["interpolation"](pipe, two()[[0, 0]], sources=["tiny/layer2"], seeds=[0], points=4)
    found = result.numbers["sources"]["tiny/layer2"]
    assert found["to_first"] == pytest.approx(found["to_second"], abs=1e-4)
    assert len(set(pixels(result.images[1:-1]))) == 1


def test_the_linear_path_is_the_recorded_one():
    known = load_file(MISC / "interpolation.safetensors")
    ratios = json.loads((MISC / "misc.json").read_text())["interpolation"]["ratios"]
    assert torch.allclose(linear(known["feat_1"][0], known["feat_2"][0], ratios), known["interpolated"], atol=1e-6)


def test_the_spherical_path_keeps_the_norm_of_equal_ones():
    a, b = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 3.0, 0.0])
    path = spherical(a, b, [0, 0.25, 0.5, 1])
    assert torch.allclose(path.norm(dim=1), torch.full((4,), 3.0), atol=1e-5)
    assert torch.allclose(path[2], torch.tensor([1.0, 1.0, 0.0]) * 3 / 2**0.5, atol=1e-5)
    assert torch.allclose(spherical(a, a, [0.3]), a[None], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": "curly"}, "linear, spherical"),
        ({"points": 1}, "points must be at least 2"),
        ({"images": 3}, "exactly two"),
    ],
)
def test_interpolation_refuses_what_it_cannot_do(pipe, changes, words):
    images = torch.zeros(changes.pop("images", 2), 3, 16, 16)
    with pytest.raises(ValueError, match=words):
        STUDIES["interpolation"](pipe, images, sources=SOURCES, seeds=[0], **changes)


def test_samples_are_plain_draws_with_their_mean_and_spread(pipe):
    result = STUDIES["samples"](pipe, two(), sources=SOURCES, seeds=[5, 6])
    assert result.columns == ("given", "seed 5", "seed 6", "mean", "spread")
    assert len(result.images) == len(result.rows) * 5 == 4 * 5
    plain = pipe(two(), source="tiny/projector", seeds=[5, 6], output_type="pt").images
    row = result.images[5:10]  # image 0, projector
    assert (im.to_tensor(row[1:3], 16) - plain[:2]).abs().max() <= 2 / 127.5
    assert (im.to_tensor(row[3], 16)[0] - plain[:2].mean(0)).abs().max() <= 2 / 127.5
    numbers = result.numbers["sources"]["tiny/projector"]
    assert numbers["similarity"]["n"] == 2 and "null" in numbers["similarity"] and numbers["spread"]["value"] > 0


def test_draws_of_one_noise_have_no_spread(pipe):
    result = STUDIES["samples"](pipe, two()[:1], sources=["tiny/backbone"], seeds=[5, 5])
    numbers = result.numbers["sources"]["tiny/backbone"]
    assert numbers["spread"]["value"] == pytest.approx(0, abs=1e-6) and "null" not in numbers["similarity"]


def test_a_draw_that_is_a_training_image_is_found_out(pipe):
    plain = pipe(two(), source="tiny/backbone", seeds=[5, 6], output_type="pt").images
    training = torch.cat([torch.rand(30, 3, 16, 16) * 2 - 1, plain])
    result = STUDIES["samples"](pipe, two(), sources=["tiny/backbone"], seeds=[5, 6], training=training)
    assert result.columns[-1] == "training image nearest to seed 5" and len(result.images) == 2 * 6
    near = result.numbers["sources"]["tiny/backbone"]["nearest"]
    assert near["value"] < 0.01 < near["null"] and near["n"] == 2
    for row in (result.images[:6], result.images[6:]):
        assert (im.to_tensor(row[-1], 16) - im.to_tensor(row[1], 16)).abs().max() <= 2 / 127.5


def test_nearest_training_images_can_be_judged_by_features(pipe):
    training = torch.zeros(2, 3, 16, 16)
    training[1] += 0.5
    options = {"sources": ["tiny/backbone"], "seeds": [5, 6], "training": training}
    flat = STUDIES["samples"](pipe, two(), features=lambda images: 0 * images[:, :1, 0, 0], **options)
    assert flat.numbers["sources"]["tiny/backbone"]["nearest"]["value"] == 0


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_study_says_how_many_images_it_needs(pipe, name, redness):
    takes_one = name in ("samples", "manipulation")
    images = torch.zeros(0 if takes_one else 1, 3, 16, 16)
    parameters = STUDIES[name].parameters
    more = {"reference": reference()} if "reference" in parameters else {}
    with pytest.raises(ValueError, match=r"[Aa]t least (one|\d+) image|exactly two images"):
        STUDIES[name](pipe, images, sources=SOURCES, seeds=[0, 1], **more)


class Redness:
    """Reads the mean of each channel."""

    spread: dict[str, float] = {}  # noqa: RUF012

    @staticmethod
    def read(images):
        return {"red": images[:, :1].mean((2, 3)), "blue": images[:, 2:].mean((2, 3))}


@pytest.fixture
def redness(monkeypatch):
    monkeypatch.setattr("rcdm.studies.manipulation.attributes_of", lambda pipe: Redness)


def reference() -> torch.Tensor:
    return sprites.render(sprites.sample_factors(40, seed=8), 16)


@pytest.mark.parametrize("method", ["principal", "attributes"])
def test_a_step_of_nothing_is_a_plain_draw(pipe, method, redness):
    options = {"method": method, "reach": 0.0, "points": 3, "directions": 2}
    result = STUDIES["manipulation"](
        pipe, two(), sources=["tiny/backbone"], seeds=[4], reference=reference(), **options
    )
    assert len(result.images) == len(result.rows) * len(result.columns) and len(result.columns) == 4
    plain = pipe(two(), source="tiny/backbone", seeds=[4], output_type="pt").images
    for i in range(2):
        for image in result.images[i * 2 * 4 + 1 : i * 2 * 4 + 4]:
            assert (im.to_tensor(image, 16)[0] - plain[i]).abs().max() <= 2 / 127.5


def test_principal_directions_are_one_deviation_long(pipe, redness):
    bank = pipe.encode(reference(), "tiny/projector")
    ways = find_directions("principal", pipe, reference(), Redness, "tiny/projector", components=3)
    z = pipe.unet.standardise(bank, "tiny/projector")
    std = pipe.unet._projection("tiny/projector").std
    for way in ways.values():
        axis = way / std  # in standardised units
        along = (z - z.mean(0)) @ (axis / axis.norm())
        assert float(along.std()) == pytest.approx(float(axis.norm()), rel=1e-3)


@pytest.mark.parametrize("case", ["manipulation", "manipulation_fewer_than_20_images"])
def test_the_released_manipulation_is_the_recorded_one(case):
    known = load_file(MISC / f"{case}.safetensors")
    bank, query = known["folder_features_raw"], known["image_feature"][0]
    found = nearest(query, bank, 20)
    indices = known["neighbour_index"][0]
    assert found.tolist() == [int(i) for i in indices if i >= 0]
    features = bank[indices]  # the released script takes the last image where there is none: index -1
    assert torch.equal((features != 0).sum(0), known["nonzero_counts"])
    shared = active_dimensions(features, 14)
    assert shared.nonzero()[:, 0].tolist() == known["selected_dims"].tolist()
    assert torch.equal(torch.where(shared, 0.0, query), known["feat_zero"][0])
    assert torch.equal(torch.where(shared, known["target_feature"][0], query), known["feat_transformation"][0])


def test_shared_dimensions_are_removed_and_replaced(pipe, redness):
    options = {"method": "neighbours", "neighbours": 5, "more_than": 5}  # none is active in more than all of them
    result = STUDIES["manipulation"](
        pipe, two(), sources=["tiny/layer2"], seeds=[1], reference=reference(), target=im.to_pil(two())[1], **options
    )
    assert result.columns == ("given", "plain", "shared = 0", "shared of target")
    row = result.images[:4]
    assert row[1].tobytes() == row[2].tobytes() == row[3].tobytes()  # zero manipulated dimensions are plain draws
    assert result.numbers["sources"]["tiny/layer2"]["dimensions"] == [[], []]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "magic"}, "principal"),
        ({"method": "neighbours", "source": "tiny/projector"}, "can be negative"),
        ({"count": 2}, "at least 3 reference"),
        ({"directions": 0}, "at least 1 direction"),
        ({"points": 1}, "2 points along it"),
        ({"target": Image.new("RGB", (16, 16))}, "A target is for method=neighbours"),
    ],
)
def test_manipulation_refuses_what_it_cannot_do(pipe, changes, words):
    source, count = changes.pop("source", "tiny/backbone"), changes.pop("count", 40)
    with pytest.raises(ValueError, match=words):
        STUDIES["manipulation"](pipe, two(), sources=[source], seeds=[0], reference=reference()[:count], **changes)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [("adversarial", {"steps": 0}, "at least 1 step"), ("information", {"batch_size": 0}, "batch_size is at least 1")],
)
def test_numbers_that_mean_nothing_are_refused(pipe, name, changes, words):
    with pytest.raises(ValueError, match=words):
        STUDIES[name](pipe, two(), sources=["tiny/backbone"], seeds=[0], **changes)


def test_settings_of_a_study_are_checked(tiny_checkpoint, capsys, tmp_path):
    for option, words in (
        ("points=x", "a value like 9"),
        ("pace=3", "path, points"),
        ("path=curly", "linear, spherical"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["study", "interpolation", "--checkpoint", str(tiny_checkpoint), "--source", "tiny/layer2"]
                     + ["--samples", "1", "--device", "cpu", "--out", str(tmp_path), "--option", option])  # fmt: skip
        assert words in capsys.readouterr().err


def test_every_study_has_a_command(tiny_checkpoint, tmp_path, capsys):
    files = []
    for i, image in enumerate(im.to_pil(two())):
        files.append(str(tmp_path / f"{i}.png"))
        image.resize((32, 32)).save(files[-1])
    for name in ("samples", "interpolation", "manipulation"):
        cli.main(["study", name, *files, "--checkpoint", str(tiny_checkpoint), "--samples", "2", "--device", "cpu"]
                 + ["--source", "tiny/projector", "--out", str(tmp_path / "out")])  # fmt: skip
        assert "tiny/projector" in capsys.readouterr().out
        assert Image.open(tmp_path / "out" / f"{name}.png").format == "PNG"
        assert "sources" in json.loads((tmp_path / "out" / f"{name}.json").read_text())
