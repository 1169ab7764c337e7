"""The colours of the pages, charts and grids."""

from __future__ import annotations

LIGHT = {
    "ink": "#2b2230",
    "soft": "#7a6f80",
    "paper": "#faf7f3",
    "card": "#ffffff",
    "line": "#e7dfd8",
    "wash": "#f3ede6",
    "mark": "#c2552d",
    "good": "#3f7d54",
    "bad": "#b3412f",
    "warn": "#fbf0d9",
    "warn-line": "#e3c888",
    "c0": "#c2552d",
    "c1": "#2f7f86",
    "c2": "#8a5aa8",
    "c3": "#8d8478",
}
"""Colours by CSS variable. ``mark`` is the accent, ``c0`` to ``c3`` are the lines of charts."""

DARK = {
    "ink": "#efe8ef",
    "soft": "#a79cac",
    "paper": "#1b171e",
    "card": "#252029",
    "line": "#3a3340",
    "wash": "#2c2631",
    "mark": "#ee8a5f",
    "good": "#7cc495",
    "bad": "#f08d7d",
    "warn": "#372d1d",
    "warn-line": "#6b5730",
    "c0": "#ee8a5f",
    "c1": "#66b8bf",
    "c2": "#bf93dd",
    "c3": "#9d948a",
}
