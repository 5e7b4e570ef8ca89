"""Studies: each module asks one question of a pipeline and answers with a StudyResult."""

from collections.abc import Callable

from rcdm.studies import retention
from rcdm.studies.result import StudyResult

STUDIES: dict[str, Callable[..., StudyResult]] = {"retention": retention.study}
"""Name -> `(pipe, images, *, sources, seeds, …) -> StudyResult`."""

__all__ = ["STUDIES", "StudyResult"]
