"""What is known about a training's world without any network: who she is, what prompts ask, what her pictures show."""

from __future__ import annotations

from charloom.experiments.data import scenes
from charloom.experiments.design import Training
from charloom.experiments.measures import World
from charloom.paperdoll.attributes import Identity


def world(training: Training) -> World:
    """The known world of ``training``."""
    person = training.person
    prompts = {prompt.name: prompt.text for prompt in person.sample_prompts}
    return World(Identity(**person.doll), prompts, scenes(training))
