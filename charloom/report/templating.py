"""The Jinja2 templates of the pages. Every value is escaped unless it is marked as markup."""

from __future__ import annotations

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from charloom.report import palette


def render(template: str, package: str = "charloom.report", **values: Any) -> str:
    """Render a file of ``templates/`` with ``values``; the layout is always the one of this package.

    Raises:
        jinja2.UndefinedError: the template uses a value that is missing.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, "charloom.report"))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(light=palette.LIGHT, dark=palette.DARK, **values)
