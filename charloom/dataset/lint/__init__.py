"""Finds what is wrong with a data set before hours are spent on training.

Errors stop the workflow; warnings are listed and left to the user. Captions and the plan are checked as text, images by
a few facts each (:func:`facts`), which can be cached because they depend only on the bytes. Everything is passed as
:class:`Item`, so that the user's own files and the workflow's copies are checked alike. Each check is a rule of
:data:`RULES`. No model runs here: what a face or text detector has seen is part of the facts.
"""

from charloom.dataset.lint.check import Checked, check, lint, made, names, prompts, unread
from charloom.dataset.lint.findings import LEVELS, Finding, Item, as_record, in_order
from charloom.dataset.lint.measure import facts, facts_of
from charloom.dataset.lint.registry import RULES

__all__ = [
    "LEVELS",
    "RULES",
    "Checked",
    "Finding",
    "Item",
    "as_record",
    "check",
    "facts",
    "facts_of",
    "in_order",
    "lint",
    "made",
    "names",
    "prompts",
    "unread",
]
