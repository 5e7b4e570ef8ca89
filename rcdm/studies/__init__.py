"""Studies: each module asks one question of a pipeline and answers with a StudyResult."""

from collections.abc import Callable

from rcdm.studies import (
    adversarial,
    information_study,
    interpolation,
    invariance,
    levels_study,
    manipulation,
    out_of_distribution,
    retention_study,
    samples,
    spectrum,
    width,
)
from rcdm.studies.result import StudyResult

STUDIES: dict[str, Callable[..., StudyResult]] = {
    "samples": samples.study,
    "retention": retention_study.study,
    "information": information_study.study,
    "invariance": invariance.study,
    "interpolation": interpolation.study,
    "manipulation": manipulation.study,
    "adversarial": adversarial.study,
    "levels": levels_study.study,
    "spectrum": spectrum.study,
    "width": width.study,
    "out_of_distribution": out_of_distribution.study,
}
"""Name -> `(pipe, images, *, sources, seeds, …) -> StudyResult`."""

WITHOUT_DRAWS = ("information", "spectrum")
"""Those for which a number of denoising steps means nothing."""

__all__ = ["STUDIES", "WITHOUT_DRAWS", "StudyResult"]
