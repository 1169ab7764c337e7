"""Sample prompts for characters whose file gives none, by class and look.

They ask for what a data set does not hold: other clothes, colours, places, things to do.
"""

from __future__ import annotations

from charloom.config import kinds

_Scenes = tuple[tuple[str, str], ...]

_PEOPLE: _Scenes = (
    ("full-body", "three-quarter view, sitting cross-legged, holding an open book, soft smile, wearing teal pajamas, "
     "bedroom"),
    ("full-body", "frontal view, standing, both arms raised, laughing, wearing {party}, neon-lit street at night"),
    ("medium", "frontal view, arms crossed, skeptical expression, wearing a purple hoodie, library with bookshelves"),
    ("close-up", "three-quarter view, crying with tears on {their} cheeks, wearing a green turtleneck, city street"),
    ("medium", "three-quarter view, holding a mug, contemplative expression, wearing an orange striped sweater, cafe "
     "with a brick wall"),
    ("full-body", "frontal view, jumping with both arms raised, joyful expression, wearing {play}, park with trees"),
    ("full-body", "side profile, walking with arms at {their} sides, neutral expression, wearing a yellow trench coat, "
     "snowy mountains"),
    ("close-up", "frontal view, joyful expression, wearing {beach}, beach"),
    ("medium", "frontal view, hands on {their} hips, serious expression, wearing green overalls, kitchen"),
    ("close-up", "three-quarter view, surprised expression, wearing a teal hoodie, a beanie, sunset field"),
)  # fmt: skip
_CLOTHES = {
    "woman": {"party": "a red evening gown", "play": "pink overalls", "beach": "a red sundress"},
    "man": {"party": "a red tuxedo", "play": "yellow overalls", "beach": "a red linen shirt"},
    "person": {"party": "a red sequined suit", "play": "yellow overalls", "beach": "a red linen shirt"},
}
_CREATURE: _Scenes = (
    ("full-body", "three-quarter view, sitting on a park bench, autumn leaves on the ground"),
    ("full-body", "side profile, running along a beach, splashing water"),
    ("medium", "frontal view, wearing a yellow raincoat, rainy street at night"),
    ("close-up", "three-quarter view, wearing round glasses, library with bookshelves"),
    ("full-body", "frontal view, jumping over a log, snowy forest"),
    ("medium", "three-quarter view, wearing a chef's hat, kitchen with copper pans"),
    ("full-body", "seen from behind, looking at a full moon, rooftop at night"),
    ("close-up", "frontal view, wearing a green knitted scarf, market with fruit stalls"),
    ("full-body", "three-quarter view, asleep on a red armchair, living room with a fireplace"),
    ("medium", "side profile, riding in a small rowing boat, misty lake"),
)
_OBJECT: _Scenes = (
    ("full-body", "three-quarter view, on a kitchen table beside a bowl of lemons, morning light"),
    ("medium", "frontal view, on a wooden shelf among books"),
    ("close-up", "three-quarter view, covered in rain drops, garden"),
    ("full-body", "side profile, on a rock by the sea, sunset"),
    ("medium", "three-quarter view, held in two hands, market with stalls"),
    ("full-body", "frontal view, on a red carpet, museum hall"),
    ("close-up", "frontal view, lit by neon signs, city street at night"),
    ("full-body", "three-quarter view, half buried in snow, forest"),
    ("medium", "seen from above, on a picnic blanket, park with trees"),
    ("full-body", "three-quarter view, inside an open cardboard box, attic"),
)
_STYLE: _Scenes = (
    ("full-body", "a lighthouse on a cliff in a storm"),
    ("medium", "an old woman selling flowers, market square"),
    ("close-up", "a tabby cat looking out of a window, rain outside"),
    ("full-body", "a cyclist on a mountain road, morning fog"),
    ("medium", "a bowl of ramen with chopsticks, wooden counter"),
    ("full-body", "a steam train crossing a stone bridge, autumn valley"),
    ("close-up", "a young man with a red beard, laughing, harbour"),
    ("full-body", "two children flying a kite, wide meadow"),
    ("medium", "an astronaut repairing a satellite, the earth below"),
    ("full-body", "a narrow street with lanterns, night"),
)
_SCENES = {"creature": _CREATURE, "object": _OBJECT, "style": _STYLE}


def prompts(class_: str, look: str) -> tuple[str, ...]:
    """Ten sample prompts with ``{trigger}``, for a class and a look of :mod:`charloom.config.kinds`."""
    words = kinds.of(class_, look)
    made = []
    for tier, scene in _SCENES.get(class_, _PEOPLE):
        for key, clothes in _CLOTHES.get(class_, {}).items():
            scene = scene.replace(f"{{{key}}}", clothes)
        scene = words.fill(scene)
        style = class_ == "style"
        made.append(
            f"{words.tiers[tier]} of {scene}, in {{trigger}} style"
            if style
            else f"{words.tiers[tier]} of {{trigger}}, {scene}"
        )
    return tuple(made)
