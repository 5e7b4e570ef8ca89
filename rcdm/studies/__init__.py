"""Studies: each module asks one question of a pipeline and answers with a StudyResult; its record says all about it.

May import everything but ui and cli. No study imports another: what two of them need lives in measures or figures.
"""

from importlib import import_module

from rcdm.figures.result import StudyResult
from rcdm.studies.record import Entry, Option, Study

_MODULES = (
    "samples",
    "retention_study",
    "information_study",
    "invariance",
    "interpolation",
    "manipulation",
    "adversarial",
    "levels_study",
    "spectrum",
    "out_of_distribution",
    "width",
)
"""One line per study: the module that holds its record, `STUDY`; in the order of the report."""

_RECORDS: list[Study] = [import_module(f"rcdm.studies.{module}").STUDY for module in _MODULES]

STUDIES: dict[str, Study] = {record.name: record for record in _RECORDS}
"""Name -> its record, which is called as `(pipe, images, *, sources, seeds, …) -> StudyResult`."""

__all__ = ["STUDIES", "Entry", "Option", "Study", "StudyResult"]
