"""Grids of samples, and pictures embedded in pages."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from charloom.core.errors import UserError
from charloom.report import fonts, grid, pictures

PROMPT = "a full body photo of n1ka, a woman with short red hair, dancing, wearing a <red> gown & scarf"


def picture(seed: int = 0, size: tuple[int, int] = (64, 64)) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def test_checkpoint_grid_is_deterministic_and_marked():
    cells = [
        grid.Cell(f"{i:02d}", "full body, dancing in the rain with a very long description " * 3, picture(i))
        for i in range(7)
    ]
    image = grid.checkpoint_grid(cells, title="Nika, step 50")
    assert image.tobytes() == grid.checkpoint_grid(cells, title="Nika, step 50").tobytes()
    assert image.width > 5 * 64
    single = grid.checkpoint_grid(cells[:1], title="x")
    assert single.width < image.width
    with pytest.raises(UserError):
        grid.checkpoint_grid([], title="x")


def test_grids_take_other_shapes_and_name_broken_files(tmp_path):
    wide = grid.checkpoint_grid(
        [grid.Cell("01", "", picture(0, (96, 48))), grid.Cell("02", "", picture(1, (48, 96)))], title="x"
    )
    assert wide.height > wide.width / 3
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="a.png: is not a picture that can be read"):
        grid.checkpoint_grid([grid.Cell("01", "", tmp_path / "a.png")], title="x")


def test_comparison_grid_highlights_the_chosen_column():
    rows = [("01", "dancing"), ("02", "sleeping")]
    columns = [(f"step {s}", [picture(s), None]) for s in (50, 100)]
    image = grid.comparison_grid(rows, columns, chosen=1, title="Nika")
    mark = tuple(int(grid.MARK[i : i + 2], 16) for i in (1, 3, 5))
    counts = [
        (np.asarray(i) == mark).all(axis=-1).sum() for i in (image, grid.comparison_grid(rows, columns, title="Nika"))
    ]
    assert counts[0] > counts[1] + 1000


def test_words_are_wrapped_to_the_width():
    font = fonts.of([])(16)
    lines = grid.wrap("one two three four five six seven eight nine ten eleven twelve", font, 120, 2)
    assert len(lines) == 2 and lines[-1].endswith("…")
    assert all(font.getlength(line) <= 120 for line in lines)
    assert grid.wrap("short", font, 120, 2) == ["short"]
    assert font.getlength(grid.wrap("Donaudampfschifffahrtsgesellschaftskapitän", font, 90, 1)[0]) <= 90
    assert "".join(grid.wrap("一个女人在桥上笑" * 4, font, 120, 20)) == "一个女人在桥上笑" * 4


def test_names_in_any_language_have_letters_and_no_boxes(monkeypatch):
    def without(text, font):
        return fonts._lacking(font, text.replace(" ", ""))

    for text in ("Zoë Müller, große Augen – “ja”", "Лейла смеётся", "Ελένη", "plain"):
        assert without(text, fonts.of([text])(20)) == 0, text
    assert without("Zoë", fonts.of(["plain"])(20)) == 1  # Pillow's own, as ever
    monkeypatch.setattr(fonts, "ELSEWHERE", ("no-such-font.ttf",))
    assert fonts.of(["笑っている, Zoë"])(20).getlength("Zoë")  # boxes where no font has them, and no mistake
    one = grid.checkpoint_grid([grid.Cell("01", "Zoë", picture(0))], title="Zoë")
    other = grid.checkpoint_grid([grid.Cell("01", "Zoî", picture(0))], title="Zoî")
    assert not np.array_equal(np.asarray(one), np.asarray(other))


def test_prompts_of_a_sheet_are_told_apart_by_what_differs():
    texts = [
        "close-up, smiling, red hoodie, studio",
        "close-up, sad, red hoodie, studio",
        "close-up, red hoodie, studio",
    ]
    assert grid.differences(texts) == ["smiling", "sad", texts[2]]
    assert grid.differences([texts[0], texts[0]]) == [texts[0]] * 2 and grid.differences(texts[:1]) == texts[:1]


def test_short_leaves_out_what_all_prompts_share():
    assert grid.short(PROMPT, "n1ka") == "full body, dancing, wearing a <red> gown & scarf"
    assert grid.short("a medium shot photo of n1ka, waving", "n1ka") == "medium shot, waving"
    assert (
        grid.short("a full body photo of n1ka, frontal view, a straw hat", "n1ka")
        == "full body, frontal view, a straw hat"
    )


def test_pictures_shrink_to_the_budget(tmp_path):
    paths = []
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (400, 300, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(noise).save(paths[-1])
    small = pictures.embed(paths, 60_000)
    assert sum(map(len, small.values())) <= 60_000
    large = pictures.embed(paths, 10_000_000)
    assert sum(map(len, large.values())) > sum(map(len, small.values()))
    assert pictures.embed([], 10) == {}
