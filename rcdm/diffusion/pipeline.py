"""The pipeline: photographs or representations in, drawn images that share them out."""

from __future__ import annotations

import copy
import inspect
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from huggingface_hub import create_repo, snapshot_download, upload_folder
from PIL import Image
from torch import Tensor

from rcdm.data import images as im
from rcdm.diffusion.checked_folder import check_pipeline
from rcdm.diffusion.given_representation import checked
from rcdm.diffusion.guidance_settings import UNGUIDED, Guidance, GuidanceSettings
from rcdm.diffusion.model_card import complete_folder
from rcdm.diffusion.process import Process, first_noise, network_input, reads_variance, scheduler_named, set_steps
from rcdm.diffusion.regressor import Regressor
from rcdm.diffusion.unet import RepresentationUNet
from rcdm.networks.sources import Sources


@dataclass
class RCDMPipelineOutput(BaseOutput):
    """`images`: one per (row of h) x (seed), row-major: a list of PIL images, or [N,3,H,W] in [-1,1]."""

    images: list[Image.Image] | Tensor


class RCDMPipeline(GuidanceSettings, DiffusionPipeline):
    """Draws images from a representation (Bordes, Balestriero & Vincent 2022, arXiv 2112.09164).

    Args:
        unet: the denoiser. scheduler: any diffusers scheduler that fits its prediction type.
        sources: the frozen networks that turn images into representations.
        default_steps: number of denoising steps when a call names none.
        trained_on: name of the data that the denoiser learnt from.
        guidance_scales: source -> scale, as in `use_guidance`; so are `guidance_interval` and `guidance_strengths`.
        full_resolution: whether photographs reach a source at its own size, or through that of the drawn images.
        regressor: what guidance by regression needs; None where it was never learnt.
    """

    model_cpu_offload_seq = "sources->unet"
    _optional_components = ["regressor"]  # noqa: RUF012 (as diffusers has it)

    def __init__(
        self,
        unet: RepresentationUNet,
        scheduler: SchedulerMixin,
        sources: Sources,
        default_steps: int = 20,
        trained_on: str = "",
        guidance_scales: dict[str, float] | None = None,
        guidance_interval: list[float] | None = None,
        full_resolution: bool = False,
        guidance_strengths: dict[str, float] | None = None,
        regressor: Regressor | None = None,
    ) -> None:
        super().__init__()
        parts = {"unet": unet, "scheduler": scheduler, "sources": sources}
        self.register_modules(**parts)
        self.use_regressor(regressor)
        ours = {name: type(part) for name, part in parts.items() if type(part).__module__.startswith("rcdm.")}
        # under the names that stay: a checkpoint must not depend on where a class lives
        self.register_to_config(**{name: ("rcdm", kind.__name__) for name, kind in ours.items()})
        self.register_to_config(default_steps=default_steps, trained_on=trained_on, full_resolution=full_resolution)
        self.use_guidance(guidance_scales or {}, guidance_interval, guidance_strengths or {})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> RCDMPipeline:
        """Load a checkpoint folder, or a hub id (its snapshot is downloaded first; json, md and safetensors only).

        Raises ValueError, naming file and field, for a folder that is damaged.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            patterns = ["*.json", "*.md", "*.safetensors"]
            folder = Path(snapshot_download(str(pretrained_model_name_or_path), allow_patterns=patterns))
        check_pipeline(folder)
        kwargs.setdefault("use_safetensors", True)
        return super().from_pretrained(str(folder), **kwargs)

    def save_pretrained(
        self, save_directory: str | Path, *, push_to_hub: bool = False, repo_id: str | None = None, **kwargs: Any
    ) -> None:
        """Write a folder that stands alone: shared networks included, with a model card (README.md) and metrics.json.

        Card and numbers are those of the folder that the pipeline was loaded from; without one a card is written.
        `push_to_hub` uploads it as `repo_id`, else as the folder's name; see there for its options.
        """
        options = {key: kwargs.pop(key) for key in ("private", "token", "commit_message", "create_pr") if key in kwargs}
        folder = Path(save_directory)
        self._save(folder, folder.name, **kwargs)
        if push_to_hub:
            self.push_to_hub(repo_id or folder.name, **options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes to a model repository, made if need be; returns its address."""
        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self._save(Path(folder), repo_id)
            message = commit_message or "Upload of an RCDM"
            found = upload_folder(
                repo_id=repo_id, folder_path=folder, token=token, commit_message=message, create_pr=create_pr
            )
        return str(found)

    def _save(self, folder: Path, name: str, **kwargs: Any) -> None:
        super().save_pretrained(str(folder), **kwargs)
        origin = self.config._name_or_path if "_name_or_path" in self.config else None
        complete_folder(
            folder,
            Path(origin) if origin and Path(origin).is_dir() else None,
            name=name,
            size=self.image_size,
            parameters=sum(parameter.numel() for parameter in self.unet.parameters()),
            about={
                "sources": tuple(self.sources),
                "networks": {
                    name: self.sources.config_of(name)
                    for name in dict.fromkeys(s.partition("/")[0] for s in self.sources)
                },
                "data": self.config.trained_on,
                "has_unconditional": self.unet.config.has_unconditional,
            },
        )

    @property
    def caution(self) -> str:
        """A sentence for whoever gives it a photograph that it cannot draw; empty where there is nothing to say."""
        if self.config.trained_on != "sprites":
            return ""
        return (
            "This checkpoint has only ever seen drawn shapes. Of any other image it draws the shapes whose "
            "representation comes closest."
        )

    def use_scheduler(self, name: str) -> None:
        """Draw with another sampler of diffusers: its short name, such as `euler` or `unipc`, or that of its class.

        It has the noise levels that the denoiser has learnt. Raises ValueError, listing the choices.
        """
        self.register_modules(scheduler=scheduler_named(self.components["scheduler"], name))

    def calls_of(self, steps: int) -> int:
        """How often the denoiser is called, and a callback with it, in so many steps; some samplers look twice."""
        scheduler = copy.deepcopy(self.scheduler)
        set_steps(scheduler, steps)
        return len(scheduler.timesteps)

    @property
    def image_size(self) -> int:
        """Height and width of the drawn images, in pixels."""
        return self.unet.image_size

    @torch.no_grad()
    def encode(self, images: Tensor | Image.Image | Sequence[Image.Image], source: str | Sequence[str]) -> Tensor:
        """PIL, list of PIL, or [B,3,H,W] in [-1,1] -> [B,D] float32, raw, on the pipeline's device.

        A tensor is only resized to what the source expects; PIL images become one by `seen`. `source` is one name, or
        one name per image: then narrower rows are padded with zeros to the widest. Raises ValueError for an unknown
        source or a number of names that does not fit.
        """
        return self.sources.encode(images if isinstance(images, Tensor) else self.seen(images), source)

    def seen(self, images: Image.Image | Sequence[Image.Image]) -> Tensor | list[Image.Image]:
        """What sources are given of photographs: their central squares [B,3,S,S] in [-1,1] at the size that is drawn.

        Images of that size are all that the denoiser learnt from, so h of a sharper one would be foreign to it. With
        `full_resolution` the photographs themselves.
        """
        pictures = [images] if isinstance(images, Image.Image) else list(images)
        return pictures if self.config.full_resolution else im.to_tensor(pictures, self.image_size)

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor | Image.Image | Sequence[Image.Image] | None = None,
        *,
        representation: Tensor | None = None,
        source: str | Sequence[str] | None = None,
        seeds: Sequence[int] = (0,),
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_strength: float | None = None,
        output_type: str = "pil",
        batch_size: int = 64,
        callback_on_step_end: Callable[[RCDMPipeline, int, int, dict[str, Tensor]], Any] | None = None,
    ) -> RCDMPipelineOutput:
        """Draw one image per (row of h) x (seed), row-major.

        Give `images` or `representation` [B,D] (raw), with the `source` it comes from (one name, or one per row); give
        neither for unconditional draws, one per seed. The noise of an image depends on its seed and the image shape
        alone. `guidance_scale` 1 is off, and so is `guidance_strength` 0; where neither is named, both are the
        checkpoint's own for each source. `callback_on_step_end(pipe, step, timestep, tensors)` receives, after each
        step of each batch, `sample` (noisy), `denoised` (the present guess, in [-1,1]) and `index` (which images of the
        output these are). Raises ValueError for arguments that do not fit together.
        """
        if output_type not in ("pil", "pt"):
            raise ValueError(f"output_type must be 'pil' or 'pt', and is {output_type!r}.")
        h = self._conditioning(images, representation, source, guidance_scale, guidance_strength)
        rows = range(1 if h is None else len(h))
        jobs = [(row, seed) for row in rows for seed in seeds]
        if h is not None:
            h = h[[row for row, _ in jobs]]
            source = source if source is None or isinstance(source, str) else [source[row] for row, _ in jobs]
        result = self.draw(
            h,
            source,
            [seed for _, seed in jobs],
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_strength=guidance_strength,
            batch_size=batch_size,
            callback_on_step_end=callback_on_step_end,
        )
        if output_type == "pt":
            return RCDMPipelineOutput(images=result)
        return RCDMPipelineOutput(images=im.to_pil(result))

    @torch.no_grad()
    def draw(
        self,
        representation: Tensor | None,
        source: str | Sequence[str] | None,
        seeds: Sequence[int],
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_strength: float | None = None,
        batch_size: int = 64,
        callback_on_step_end: Callable[[RCDMPipeline, int, int, dict[str, Tensor]], Any] | None = None,
    ) -> Tensor:
        """Image i from row i of `representation` [N,D] and seed i of N: -> [N,3,S,S] in [-1,1]. Else as in a call."""
        steps = self.config.default_steps if num_inference_steps is None else num_inference_steps
        if steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, and is {steps}.")
        if not len(seeds) or (representation is not None and len(representation) != len(seeds)):
            raise ValueError("Give at least one seed and one representation, and as many of one as of the other.")
        if not self.unet.config.has_unconditional and (representation is None or guidance_scale not in (None, 1)):
            raise ValueError(UNGUIDED)
        if representation is not None:
            representation = checked(representation, self.unet.named(source), self.unet.config.sources)
        drawn = []
        with self.progress_bar(total=(calls := self.calls_of(steps)) * -(-len(seeds) // batch_size)) as bar:
            for index in torch.arange(len(seeds)).split(batch_size):
                h = None if representation is None else representation[index.to(representation.device)]
                names = source if source is None or isinstance(source, str) else [source[i] for i in index]

                def report(step: int, timestep: int, tensors: dict[str, Tensor], index: Tensor = index) -> None:
                    bar.update()
                    if callback_on_step_end is not None:
                        callback_on_step_end(self, step, timestep, {**tensors, "index": index})

                own = [int(seeds[i]) for i in index]
                guidance = self.guidance_for(len(own), h, names, guidance_scale, guidance_strength)
                drawn.append(self.draw_batch(own, h, names, steps, guidance, report))
                bar.n = calls * len(drawn)
                bar.refresh()
        return torch.cat(drawn)

    def draw_batch(
        self,
        seeds: Sequence[int],
        h: Tensor | None,
        source: str | Sequence[str] | None,
        steps: int,
        guidance: Sequence[Guidance],
        report: Callable[[int, int, dict[str, Tensor]], None],
    ) -> Tensor:
        """One batch of draws [B,3,S,S] in [-1,1]; image i from row i of h [B,D], or of None, and seed i.

        `guidance` is that of each image. `report(step, timestep, tensors)` is called after each step. Whoever keeps or
        shares draws wraps this.
        """
        streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        return self._denoise(streams, h, source, steps, guidance, report)

    def _conditioning(
        self,
        images: Tensor | Image.Image | Sequence[Image.Image] | None,
        representation: Tensor | None,
        source: str | Sequence[str] | None,
        guidance_scale: float | None,
        guidance_strength: float | None,
    ) -> Tensor | None:
        """What a call is to be conditioned on: [B,D] raw, or None."""
        if images is not None and representation is not None:
            raise ValueError("Give images or a representation, not both.")
        if images is None and representation is None:
            if guidance_scale not in (None, 1) or guidance_strength:
                raise ValueError("guidance_scale and guidance_strength need images or a representation.")
            return None
        if source is None:
            raise ValueError(f"Say which source: one of {', '.join(self.sources.names)}.")
        if representation is not None:
            return checked(representation, source, self.unet.config.sources).to(self.device)
        assert images is not None
        return self.encode(images, source)

    def _denoise(
        self,
        streams: list[torch.Generator],
        h: Tensor | None,
        source: str | Sequence[str] | None,
        steps: int,
        guidance: Sequence[Guidance],
        report: Callable[[int, int, dict[str, Tensor]], None],
    ) -> Tensor:
        """One batch: noise from one CPU stream per image -> [B,3,S,S] in [-1,1]."""
        scheduler = copy.deepcopy(self.scheduler)  # schedulers keep state; calls must not share it
        set_steps(scheduler, steps, self.device)
        accepts_streams = "generator" in inspect.signature(scheduler.step).parameters
        extra: dict[str, Any] = {"generator": streams} if accepts_streams else {}
        space, shape = self.unet.space, self.unet.space.shape(self.image_size)
        noise = torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(self.device)
        x, process = first_noise(scheduler, noise), Process(scheduler)
        for step, timestep in enumerate(scheduler.timesteps):
            x_t = network_input(scheduler, x, timestep)
            out = self.guided_prediction(process, x_t, timestep, h, source, guidance)
            denoised = space.decode(process.x0(out[:, : space.channels], x_t, timestep))
            if not reads_variance(scheduler):
                out = out[:, : space.channels]  # the others are a variance that this scheduler does not read
            x = scheduler.step(out, timestep, x, **extra).prev_sample
            report(step, int(timestep), {"sample": x, "denoised": denoised})
        return space.decode(x)
