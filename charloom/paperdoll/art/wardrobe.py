"""The wardrobe: colours of clothes, and the cut and neckline of each outfit."""

from __future__ import annotations

from dataclasses import dataclass

from charloom.paperdoll.art.pen import Colour

COLORS: dict[str, Colour] = {
    "white": (248, 248, 246),
    "black": (40, 38, 46),
    "gray": (142, 146, 154),
    "beige": (222, 198, 160),
    "brown": (124, 80, 50),
    "red": (208, 42, 50),
    "pink": (246, 150, 184),
    "orange": (244, 132, 40),
    "yellow": (252, 212, 62),
    "green": (64, 150, 78),
    "teal": (20, 152, 160),
    "navy blue": (36, 54, 116),
    "purple": (128, 72, 172),
}
JEANS: Colour = (108, 132, 160)
CHARCOAL: Colour = (72, 72, 84)
CREAM: Colour = (252, 250, 246)


@dataclass(frozen=True)
class Cut:
    """How an outfit is cut; ``legs`` is "jeans", "charcoal", "same" or "bare", ``hem`` where the top or skirt ends."""

    reach: float
    ease: float
    legs: str
    hem: float
    flare: float = 0.0


CUTS: dict[str, Cut] = {
    "tank top": Cut(0.0, 0.0, "jeans", 3.12),
    "t-shirt": Cut(0.45, 0.03, "jeans", 3.16),
    "button-up shirt": Cut(1.0, 0.02, "charcoal", 3.2),
    "hoodie": Cut(1.0, 0.12, "charcoal", 3.24),
    "turtleneck": Cut(1.0, 0.0, "charcoal", 3.12),
    "striped sweater": Cut(1.0, 0.07, "jeans", 3.2),
    "pantsuit": Cut(1.0, 0.03, "same", 3.36),
    "trench coat": Cut(1.0, 0.06, "charcoal", 4.5, 0.2),
    "sundress": Cut(0.0, 0.0, "bare", 4.35, 0.5),
    "evening gown": Cut(0.0, 0.0, "bare", 5.46, 0.35),
    "overalls": Cut(0.45, 0.03, "same", 3.3),
    "pajamas": Cut(1.0, 0.1, "same", 3.34),
}
# Right half of the neckline, centre to shoulder: front dip, and dip from behind.
NECKLINES: dict[str, tuple[list[tuple[float, float]], float]] = {
    "tank top": ([(0.0, 1.82), (0.2, 1.78), (0.34, 1.6), (0.38, 1.38), (0.58, 1.44), (0.6, 1.62), (0.72, 1.9)], 1.66),
    "t-shirt": ([(0.0, 1.56), (0.2, 1.52), (0.34, 1.36), (0.6, 1.44), (0.84, 1.55), (0.93, 1.75)], 1.42),
    "button-up shirt": ([(0.0, 1.66), (0.15, 1.45), (0.3, 1.3), (0.6, 1.44), (0.84, 1.55), (0.93, 1.75)], 1.34),
    "hoodie": ([(0.0, 1.62), (0.2, 1.46), (0.34, 1.3), (0.62, 1.42), (0.88, 1.54), (0.98, 1.76)], 1.34),
    "turtleneck": ([(0.0, 1.36), (0.2, 1.34), (0.3, 1.28), (0.6, 1.43), (0.84, 1.54), (0.92, 1.75)], 1.34),
    "striped sweater": ([(0.0, 1.5), (0.3, 1.46), (0.52, 1.37), (0.68, 1.45), (0.86, 1.55), (0.95, 1.75)], 1.44),
    "pantsuit": ([(0.0, 2.3), (0.16, 1.8), (0.3, 1.32), (0.62, 1.42), (0.88, 1.52), (0.97, 1.74)], 1.34),
    "trench coat": ([(0.0, 1.95), (0.16, 1.6), (0.3, 1.26), (0.62, 1.4), (0.9, 1.52), (0.99, 1.74)], 1.3),
    "sundress": ([(0.0, 1.86), (0.2, 1.74), (0.44, 1.72), (0.6, 1.86), (0.74, 2.0)], 1.84),
    "evening gown": ([(0.0, 1.8), (0.25, 1.74), (0.5, 1.72), (0.74, 1.68), (0.9, 1.7)], 1.8),
    "overalls": ([(0.0, 1.54), (0.2, 1.5), (0.34, 1.36), (0.6, 1.44), (0.84, 1.55), (0.93, 1.75)], 1.42),
    "pajamas": ([(0.0, 1.86), (0.16, 1.55), (0.3, 1.3), (0.62, 1.43), (0.88, 1.54), (0.97, 1.76)], 1.36),
}
