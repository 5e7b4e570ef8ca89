"""Studies: each module asks one question of a pipeline and answers with a StudyResult; its record says all about it.

May import everything but ui and cli. No study imports another: what two of them need lives in measures or figures.
The names of the studies are known at once, and `unrun` reads what they say of themselves; their records are imported
when they are first used, because torch takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcdm.figures.result import StudyResult
    from rcdm.studies.declared import Entry, Option
    from rcdm.studies.record import Study

    STUDIES: dict[str, Study]

_MODULES = {
    "samples": "samples",
    "retention": "retention_study",
    "information": "information_study",
    "invariance": "invariance",
    "interpolation": "interpolation",
    "manipulation": "manipulation",
    "adversarial": "adversarial",
    "levels": "levels_study",
    "spectrum": "spectrum",
    "out_of_distribution": "out_of_distribution",
    "width": "width",
    "guidance": "guidance_scale",
}
"""One line per study: its name, and the module that holds its record, `STUDY`; in the order of the report."""

NAMES = tuple(_MODULES)

_ELSEWHERE = {
    "StudyResult": "rcdm.figures.result",
    "Entry": "rcdm.studies.declared",
    "Option": "rcdm.studies.declared",
    "Study": "rcdm.studies.record",
}

__all__ = ["NAMES", "STUDIES", "Entry", "Option", "Study", "StudyResult"]


def __getattr__(name: str) -> Any:
    """`STUDIES`: name -> its record, which is called as `(pipe, images, *, sources, seeds, …) -> StudyResult`."""
    if name == "STUDIES":
        records = [import_module(f"rcdm.studies.{module}").STUDY for module in _MODULES.values()]
        globals()[name] = {record.name: record for record in records}
        return globals()[name]
    if name in _ELSEWHERE:
        return getattr(import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
