"""One picture that changes step by step, and what is drawn of it at every step: as jobs of a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.data.transformations import TRANSFORMATIONS
from rcdm.figures.result import StudyResult
from rcdm.measures.directions import has_directions
from rcdm.measures.faithfulness import pixels_of
from rcdm.measures.metrics import squared_error
from rcdm.studies.adversarial import STRENGTHS, attack
from rcdm.studies.manipulation import directions_for, moves
from rcdm.ui.drawing import Report, Show
from rcdm.ui.loaded import REFERENCES, Loaded
from rcdm.ui.watching import Check, checked

SURVEY_STEPS = 8
"""Denoising steps of the draws that only tell what a direction moves."""
STILL = 0.05
"""A direction moves nothing where it moves no attribute by this much of its own deviation, per deviation of h."""
POINTS = 5
MAIN = 8  # principal directions that are looked at, as many as a checkpoint ships


@dataclass(frozen=True)
class Ladders:
    """Draws step by step.

    Args:
        steps: what the steps are called.
        drawn: source -> for every step the draws, one per seed.
        changed: the pictures that were encoded, one per step: source -> its own, or "" -> those of all sources; empty
            where the representation alone was changed.
        numbers: as a StudyResult has them.
    """

    steps: tuple[str, ...]
    drawn: dict[str, list[list[Image.Image]]]
    changed: dict[str, list[Image.Image]]
    numbers: dict[str, Any]

    def as_study(self, seeds: Sequence[int]) -> StudyResult:
        """A row for the pictures and for each source and seed, a column per step."""
        grid, rows = [*self.changed.get("", [])], ["given"] if "" in self.changed else []
        for source, ladder in self.drawn.items():
            if source in self.changed:
                grid += self.changed[source]
                rows.append(f"{source}, given")
            for k, seed in enumerate(seeds):
                grid += [draws[k] for draws in ladder]
                rows.append(f"{source}, seed {seed}")
        return StudyResult(grid, tuple(rows), self.steps, self.numbers)


def _draw(loaded: Loaded, h: Tensor, source: str, seeds: Sequence[int], steps: int) -> Tensor:
    """h [P,D] -> draws [P,K,3,S,S], every row from the same K noises."""
    drawn = loaded.pipe.draw(
        h.repeat_interleave(len(seeds), 0), source, list(seeds) * len(h), num_inference_steps=steps
    )
    return drawn.unflatten(0, (len(h), len(seeds)))


def _pictures(drawn: Tensor) -> list[list[Image.Image]]:
    return [im.to_pil(row) for row in drawn]


def _moved(z: Tensor, start: Tensor) -> list[float]:
    """‖z − start‖² of standardised rows over 2 D, the mean over pairs of images: 0 unmoved, 1 as far as another one."""
    return [float(value) for value in squared_error(z, start.expand_as(z)) / (2 * z.shape[1])]


@dataclass(frozen=True)
class Transformed:
    """One transformation of one picture at every strength, and draws from each source -> Ladders.

    Numbers: source -> `alignment` at each strength, ‖f(Tx) − f(x)‖² over twice the width of the standardised h, which
    is what the distance to another image is on average: 0 invariant, 1 another image.
    """

    picture: Image.Image
    name: str
    sources: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int

    def calls(self) -> int:
        return len(self.sources) * len(self.seeds) * (1 + len(TRANSFORMATIONS[self.name].strengths)) * self.steps

    def run(self, loaded: Loaded, show: Show, check: Check) -> Ladders:
        pipe, what, report = loaded.pipe, TRANSFORMATIONS[self.name], Report(show, self.calls())
        x = pixels_of(pipe, [self.picture]).to(pipe.device)
        ladder = torch.cat([x, *(what.apply(x, strength) for strength in what.strengths)])
        drawn: dict[str, list[list[Image.Image]]] = {}
        numbers: dict[str, Any] = {}
        with checked(pipe, check, report.add, report.see):
            for source in self.sources:
                report.say(source)
                h = pipe.encode(ladder, source)
                drawn[source] = _pictures(_draw(loaded, h, source, self.seeds, self.steps))
                z = pipe.unet.standardise(h, source)
                numbers[source] = {"alignment": _moved(z[1:], z[:1])}
        columns = ("none", *(f"{strength:g} {what.unit}" for strength in what.strengths))
        about = {"transformation": self.name, "strengths": list(what.strengths), "seeds": list(self.seeds)}
        return Ladders(columns, drawn, {"": im.to_pil(ladder)}, {**about, "sources": numbers})


@dataclass(frozen=True)
class Attacked:
    """One picture under attack, as in the study `adversarial`, and draws from what each source makes of it -> Ladders.

    Numbers: source -> `distance` of the attacked representation at each strength, and `random`, that after a change of
    the same size with random signs; both as `alignment` in `Transformed`.
    """

    picture: Image.Image
    sources: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    attack_steps: int

    def calls(self) -> int:
        return len(self.sources) * len(self.seeds) * len(STRENGTHS) * self.steps

    def run(self, loaded: Loaded, show: Show, check: Check) -> Ladders:
        pipe, report = loaded.pipe, Report(show, self.calls())
        x = pixels_of(pipe, [self.picture]).to(pipe.device)
        signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(1)).to(x) * 2 - 1
        drawn: dict[str, list[list[Image.Image]]] = {}
        changed: dict[str, list[Image.Image]] = {}
        numbers: dict[str, Any] = {}
        with checked(pipe, check, report.add, report.see):
            for source in self.sources:
                encode = _standardised(loaded, source)
                hostile = []
                for strength in STRENGTHS:
                    check()
                    report.say(f"{source}: {strength} of 255")
                    hostile.append(attack(encode, x, 2 * strength / 255, steps=self.attack_steps))
                pixels = torch.cat(hostile)
                shaken = torch.cat([(x + 2 * strength / 255 * signs).clamp(-1, 1) for strength in STRENGTHS])
                report.say(source)
                drawn[source] = _pictures(_draw(loaded, pipe.encode(pixels, source), source, self.seeds, self.steps))
                changed[source] = im.to_pil(pixels)
                with torch.no_grad():
                    start = encode(x)
                    numbers[source] = {
                        "distance": _moved(encode(pixels), start),
                        "random": _moved(encode(shaken), start),
                    }
        about = {"strengths_of_255": list(STRENGTHS), "steps": self.attack_steps, "seeds": list(self.seeds)}
        columns = tuple(f"{strength} of 255" for strength in STRENGTHS)
        return Ladders(columns, drawn, changed, {**about, "sources": numbers})


def _standardised(loaded: Loaded, source: str) -> Callable[[Tensor], Tensor]:
    """Pixels [N,3,S,S] -> standardised h [N,D], with its gradient."""
    unet, network = loaded.pipe.unet, loaded.pipe.sources[source]
    return lambda pixels: unet.standardise(network(pixels), source)


@dataclass(frozen=True)
class Survey:
    """What every direction moves -> source -> direction -> attribute -> movement, as `moves` has it.

    Read off one draw at either end, with few steps. Raises ValueError where directions are not at hand.
    """

    picture: Image.Image
    sources: tuple[str, ...]
    seed: int
    method: str
    reach: float

    def calls(self) -> int:
        return len(self.sources) * 2 * 2 * MAIN * SURVEY_STEPS

    def run(self, loaded: Loaded, show: Show, check: Check) -> dict[str, dict[str, dict[str, float]]]:
        pipe = loaded.pipe
        ends = torch.tensor([-self.reach, self.reach])
        along = {source: _directions(loaded, source, self.method) for source in self.sources}
        report = Report(show, sum(len(ways) for ways in along.values()) * len(ends) * SURVEY_STEPS)
        found = {}
        with checked(pipe, check, report.add, report.see):
            for source, ways in along.items():
                report.say(f"what each direction of {source} moves")
                h = pipe.encode([self.picture], source)
                pushed = h[:, None, None] + ends.to(h)[:, None] * torch.stack(list(ways.values()))[:, None]  # [1,W,2,D]
                drawn = _draw(loaded, pushed.flatten(0, 2), source, (self.seed,), SURVEY_STEPS)
                found[source] = moves(drawn.unflatten(0, pushed.shape[:3]), list(ways), ends, loaded.attributes)
        return found


@dataclass(frozen=True)
class Edited:
    """One picture's representation pushed along one direction -> Ladders; sources that do not have it are left out."""

    picture: Image.Image
    sources: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    method: str
    reach: float
    direction: str

    def calls(self) -> int:
        return len(self.sources) * len(self.seeds) * POINTS * self.steps

    def run(self, loaded: Loaded, show: Show, check: Check) -> Ladders:
        pipe, report = loaded.pipe, Report(show, self.calls())
        pushes = torch.linspace(-self.reach, self.reach, POINTS)
        drawn: dict[str, list[list[Image.Image]]] = {}
        numbers: dict[str, Any] = {}
        with checked(pipe, check, report.add, report.see):
            for source in self.sources:
                way = _directions(loaded, source, self.method).get(self.direction)
                if way is None:
                    continue
                report.say(source)
                h = pipe.encode([self.picture], source) + pushes.to(way)[:, None] * way
                draws = _draw(loaded, h, source, self.seeds, self.steps)  # [P,K,3,S,S]
                found = moves(draws[None, None], [self.direction], pushes, loaded.attributes)
                drawn[source], numbers[source] = _pictures(draws), {"moves": found[self.direction]}
        if not drawn:
            raise ValueError(f"There is no direction {self.direction[:80]!r} in these sources: look for them again.")
        about = {"method": self.method, "direction": self.direction, "seeds": list(self.seeds)}
        steps = tuple(f"{push:+.1f}" for push in pushes.tolist())
        return Ladders(steps, drawn, {}, {**about, "sources": numbers})


def _directions(loaded: Loaded, source: str, method: str) -> dict[str, Tensor]:
    """Name -> direction [D]: shipped with the checkpoint, or else found in its training images, once."""
    shipped = has_directions(loaded.pipe)
    key = f"{source}|{method}"
    if key not in loaded.ways:
        reference = None if shipped else loaded.references[:REFERENCES]
        loaded.ways[key] = directions_for(method, loaded.pipe, reference, loaded.attributes, source, MAIN)
    return loaded.ways[key]


def by_movement(survey: dict[str, dict[str, dict[str, float]]]) -> tuple[list[str], list[str]]:
    """Directions, those first that move some attribute of some source most; and those that move none."""
    most: dict[str, float] = {}
    for ways in survey.values():
        for way, line in ways.items():
            most[way] = max(most.get(way, 0.0), *line.values())
    order = sorted(most, key=lambda way: -most[way])
    return [way for way in order if most[way] >= STILL], [way for way in order if most[way] < STILL]
