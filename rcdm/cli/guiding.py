"""`--prior`: a command draws without a decoder that was trained for its networks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rcdm.cli.options import add_options, announce, given
from rcdm.diffusion.methods import METHOD, METHODS, PARTICLES, refuse_method
from rcdm.diffusion.places import find, refuse_unknown, sources_in
from rcdm.networks.reading import Reading

if TYPE_CHECKING:
    from rcdm.diffusion.pipeline import RCDMPipeline


def add_prior_options(parser: argparse.ArgumentParser) -> None:
    """A prior, the method of guidance, and how a file given with --backbone is read."""
    group = parser.add_argument_group(
        "guidance",
        "with --prior nothing was trained: a prior is guided to images with the given representation; --backbone is "
        "then any network (FILE, TIMM_NAME=FILE, published name, hf://OWNER/NAME), without it those of --checkpoint",
    )
    group.add_argument("--prior", metavar="NAME_OR_FOLDER", help="checkpoint, or unconditional pipeline of diffusers")
    words = "; ".join(f"{name}: {what}" for name, what in METHODS.items())
    group.add_argument("--method", choices=METHODS, default=METHOD, help=words)
    group.add_argument("--particles", type=int, default=PARTICLES, help="of each draw, for tds")
    group.add_argument(
        "--prior-images",
        type=int,
        metavar="N",
        help="draws of the prior that are learnt from; as many as cost about half a minute of a CPU's core (48 to 256) "
        "if not given. With more, draws come nearer to the representation",
    )
    add_options(group, Reading, blank=True)


def refuse_prior(options: argparse.Namespace) -> None:
    """ValueError for a prior that is nowhere, and for options that mean nothing together."""
    if options.prior is None:
        if read := Reading(**given(options, Reading)).given():
            raise ValueError(f"{read.split()[0]} says how a file is read that is given with --backbone and --prior.")
        if (options.method, options.particles, options.prior_images) != (METHOD, PARTICLES, None):
            raise ValueError("--method, --particles and --prior-images say how a prior is guided: give --prior, too.")
        return
    refuse_method(options.method, options.particles, options.prior_images)
    if options.particles != PARTICLES and options.method != "tds":
        raise ValueError(f"--particles is for --method tds, and the method is {options.method}.")
    if options.guidance_strength is not None:
        raise ValueError("--guidance-strength is for a trained decoder: leave it out with --prior.")
    find(options.prior)
    if options.backbone is None and (known := sources_in(find(options.checkpoint))):
        refuse_unknown(options.source, known)


def pipeline_of(options: argparse.Namespace, name: str) -> RCDMPipeline:
    """The pipeline of the checkpoint `name`, or with --prior a guided one; sources that it names become `source`."""
    import rcdm

    if getattr(options, "prior", None) is None:
        return checkpoint_of(options, name)
    if options.backbone is None:
        sources = rcdm.Sources.from_pretrained(find(name) / "sources").only(options.source)
    else:
        sources = rcdm.sources_of(options.backbone, options.source, reading=Reading(**given(options, Reading)))
    pipe = rcdm.guided(
        options.prior,
        sources,
        method=options.method,
        particles=options.particles,
        device=options.device,
        scheduler=options.scheduler,
        mixed_precision=options.mixed_precision,
        prior_images=options.prior_images,
        on_progress=announce,
    )
    options.source = list(sources.names) if options.source else []
    return _led(options, pipe)


def checkpoint_of(options: argparse.Namespace, name: str) -> RCDMPipeline:
    """The pipeline of the checkpoint `name`, with the sampler and the guidance of the options."""
    import rcdm

    pipe = rcdm.load(name, device=options.device, scheduler=options.scheduler, mixed_precision=options.mixed_precision)
    return _led(options, pipe)


def _led(options: argparse.Namespace, pipe: RCDMPipeline) -> RCDMPipeline:
    scale, strength = options.guidance_scale, options.guidance_strength
    if scale is not None or strength is not None:
        asked = options.source or (_with_regression(pipe) if strength else ())
        strengths = dict.fromkeys(asked, strength or 0.0)
        pipe.use_guidance(1 if scale is None else scale, pipe.config.guidance_interval, strengths)
    if getattr(options, "full_resolution", False):
        pipe.register_to_config(full_resolution=True)
    return pipe


def _with_regression(pipe: RCDMPipeline) -> Sequence[str]:
    """The sources that can be led, where none are named; says which cannot. All of them where none can."""
    names = pipe.sources.names
    learnt = [name for name in names if pipe.regressor is not None and name in pipe.regressor.names]
    if learnt and (others := [name for name in names if name not in learnt]):
        announce(f"not led, as the checkpoint has no regression of them: {', '.join(others)}")
    return learnt or names


def drawn_by(options: argparse.Namespace) -> str:
    """What draws, in a word or two: a checkpoint, or a prior with its method."""
    if getattr(options, "prior", None) is None:
        return str(options.checkpoint)
    whose = options.backbone or options.checkpoint
    return f"{options.prior}, guided by {whose} ({options.method})"


def given_prior(options: argparse.Namespace) -> list[str]:
    """Words of the command line that guide; none where nothing does."""
    if getattr(options, "prior", None) is None:
        return []
    words = ["--prior", str(options.prior), "--method", options.method]
    if options.method == "tds":
        words += ["--particles", str(options.particles)]
    if options.prior_images is not None:
        words += ["--prior-images", str(options.prior_images)]
    return [*words, *Reading(**given(options, Reading)).given().split()]
