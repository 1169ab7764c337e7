# Functions from which rules get inputs and parameters, beside those of common.smk.
import json

from charloom.config import image_folder
from charloom.workflow import own_files, training

# Characters whose every picture of a folder is used, without shots in their file.
WHOLE_FOLDERS = [name for name, one in WORKFLOW.characters.items() if one.whole]


def pictures_of_folder(character):
    """The files of all pictures of a folder, as JSON."""
    files = (image_folder.of_shot(character, shot) for shot in character.shots)
    return json.dumps([str(path) for path in files if path])


def captions_of_folder(character):
    """The captions of all pictures of a folder that have one, as JSON."""
    files = map(character.caption_file, character.shots)
    return json.dumps([str(path) for path in files if path])


def stored_picture(wildcards, input):
    """Where the store has a picture of a whole folder, or will have it."""
    made = json.loads(own_files.picture_settings(person(wildcards.character)))
    content = CONTENTS.of(own_image(wildcards))
    return own_files.PICTURE.entry(CONTENTS.store, content, made).as_posix()


def stored_caption(wildcards, input):
    """The same for its caption."""
    made = json.loads(slices.caption(person(wildcards.character), wildcards.shot))
    content = CONTENTS.of(own_caption(wildcards))
    return own_files.CAPTION.entry(CONTENTS.store, content, made).as_posix()


def training_slice(character):
    """What training depends on; the LoRA that it starts from counts by content."""
    return training.started_from(slices.train(character), CONTENTS.of(character.init))


def first_lora(wildcards):
    """The LoRA that training starts from, if the recipe names one."""
    return person(wildcards.character).init


def prompt_page(wildcards):
    """The prompts for an image generator; a style has none."""
    style = person(wildcards.character).is_style
    return [] if style else results(wildcards.character).prompt_page


def sampled_checkpoint(wildcards):
    """The checkpoint to sample; step 0 is the base alone."""
    step = int(wildcards.step)
    return results(wildcards.character).checkpoint(step) if step else []


def strength_pictures(wildcards):
    """The pictures of the strength sweep."""
    character = person(wildcards.character)
    return [
        results(character.id).strength(strength, prompt.name)
        for strength in character.strengths
        for prompt in character.strength_prompts
    ]


def strength_sweep(wildcards):
    """The scores of the strength sweep and its strip, if there is one."""
    made = results(wildcards.character)
    found = person(wildcards.character).strengths
    return [made.strengths, made.strength_strip] if found else []


def scenes_of(wildcards):
    """The pictures of the gallery."""
    character = person(wildcards.character)
    if not character.gallery:
        remedy = "write the prompts of scenes there, as in config/characters/leyla.yaml"
        stop([f"{character.label}: gallery: is missing; {remedy}"])
    return [results(character.id).scene(scene.name) for scene in character.gallery]


def gallery_styles(wildcards):
    """The finished LoRAs of the workflow's own styles in the gallery."""
    names = gallery_slices.styles(person(wildcards.character))
    return [results(name).final for name in names]
