"""Recipes that follow from the weights alone join the comparison when a study begins, and stay in its record."""

from dataclasses import replace

from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import Document
from mergeopt.recipe.read import read_recipe
from mergeopt.recipe.write import recipe_data
from mergeopt.study.job import SearchJob
from mergeopt.study.record import StudyRecord
from mergeopt.study.references import Contender, closed_forms


def with_closed_forms(job: SearchJob, record: StudyRecord) -> SearchJob:
    """The job with the closed forms among its fixed recipes: made when the study begins, and kept in its record."""
    if not record.notes("closed forms"):
        made = {c.name: recipe_data(c.recipe) for c in closed_forms(job.recipe, job.checkpoints)}
        record.note("closed forms", {"recipes": made})
    kept = record.notes("closed forms")[0]["recipes"]
    documents = {name: Document(data, f"the recipe {name!r}") for name, data in kept.items()}
    more = [Contender(name, "fixed", read_recipe(d, SCHEMAS).recipe) for name, d in documents.items()]
    taken = {contender.name for contender in job.contenders}
    return replace(job, contenders=(*job.contenders, *(c for c in more if c.name not in taken)))
