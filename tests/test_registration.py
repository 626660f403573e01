"""Every image token lies where its pixels came from: light a block of the original, and the token that lights up holds it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from medlens.errors import BadInput, BadModel
from medlens.models import llava_med
from medlens.models.base import Model
from medlens.models.prompt import Look, look
from medlens.models.registration import PLACED, Shown, boxes, check_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # paligemma's own processor

SIZES = [(80, 56), (56, 80), (64, 64), (32, 32), (12, 30), (301, 200), (500, 100), (97, 640)]  # (width, height)
FAMILIES = [*tiny.FAMILIES, "llava_med"]


@pytest.fixture(scope="module")
def models():
    made = {name: Model(name, *tiny.build(name)) for name in tiny.FAMILIES}
    module, processor = tiny.build("llava")
    own = llava_med._padding_processor()
    processor.image_processor = own(size={"shortest_edge": tiny.SIDE}, crop_size={"height": tiny.SIDE, "width": tiny.SIDE})
    return made | {"llava_med": Model("llava_med", module, processor)}


def pooled(frames, side):
    """Mean brightness of a side x side grid of cells of each frame (n, 3, height, width): (n x side x side)."""
    n, _, height, width = frames.shape
    return frames.mean(1).reshape(n, side, height // side, side, width // side).mean((2, 4)).flatten()


def brightness(model, image):
    """Of each image token, from what the family's own processor makes of the image (LLaVA-NeXT: packed by its own model)."""
    inputs = look(model, [image]).inputs
    pixels = inputs["pixel_values"].float()
    if model.family == "llava_next":
        side = tiny.SIDE // tiny.PATCH
        cells = pooled(pixels[0], side).reshape(len(pixels[0]), side * side, 1)
        packed, _ = model.module.model.pack_image_features([cells], inputs["image_sizes"], "default", torch.full((1,), torch.nan))
        return torch.cat(list(packed)).flatten().numpy()
    pixels = pixels[0] if pixels.ndim == 5 else pixels
    return pooled(pixels, {"gemma3": 2, "idefics3": 2, "aya_vision": 2}.get(model.family, 4)).numpy()


def misplaced(model, size, places):
    """How many tokens do not light up, or less than another of the same picture, when the middle of their box is lit."""
    dark = brightness(model, Image.new("RGB", size))
    wrong = tried = 0
    for k, (left, top, right, bottom) in enumerate(places):
        if np.isnan(left):
            continue
        across, down = (right - left) / 4, (bottom - top) / 4
        middle = np.round([left + across, top + down, right - across, bottom - down])
        block = middle.clip(0, [*size, *size])  # what the model pads cannot be lit
        if block[2] <= block[0] or block[3] <= block[1]:
            continue
        image = Image.new("RGB", size)
        image.paste((255, 255, 255), tuple(int(edge) for edge in block))
        lit = brightness(model, image) - dark
        same = np.isclose(places[:, 2:] - places[:, :2], (right - left, bottom - top)).all(1)
        wrong, tried = wrong + (lit[k] < np.nanmax(lit[same]) - 1e-6 or lit[k] < 0.02), tried + 1
    return wrong, tried


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_lit_block_lights_the_token_whose_box_holds_it(models, family, size):
    places = boxes(models[family], Image.new("RGB", size))
    wrong, tried = misplaced(models[family], size, places)
    assert wrong == 0
    assert tried >= 3


def test_without_the_pad_the_round_trip_fails(models):
    size = (80, 40)
    places = boxes(models["llava_med"], Image.new("RGB", size))
    stretched = places * [1, 0.5, 1, 0.5] + [0, 10, 0, 10]  # the square's cells stretched onto the unpadded image
    assert (stretched.min(0)[:2] == 0).all()
    assert (stretched.max(0)[2:] == size).all()
    assert misplaced(models["llava_med"], size, places)[0] == 0
    assert misplaced(models["llava_med"], size, stretched)[0] > 4


def test_llava_next_ends_its_lines_with_tokens_without_a_place(models):
    places = boxes(models["llava_next"], Image.new("RGB", (80, 56)))
    assert np.isnan(places).any(1).sum() == 6  # eight lines, of which two are padding
    assert not np.isnan(places[:16]).any()


@pytest.mark.parametrize("grid", [(4, 8), (6, 4)])
def test_qwen_lays_the_whole_image_on_its_own_grid(grid):
    rows, columns = grid
    inputs = {"image_grid_thw": torch.tensor([[1, rows, columns]])}
    model = SimpleNamespace(processor=SimpleNamespace(image_processor=SimpleNamespace(merge_size=2)))
    placed = PLACED["qwen2_vl"](Shown(model, Look(lambda: inputs, ()), (60, 80), rows * columns // 4))
    assert len(placed) == rows * columns // 4
    assert placed[1].tolist() == [160 / columns, 0, 320 / columns, 120 / rows]


def test_families_that_cannot_be_placed_say_so(models):
    module, processor = tiny.build("llava")
    module.config.model_type = "mllama"
    with pytest.raises(BadModel, match="so nothing can be drawn on the image"):
        boxes(Model("m", module, processor), Image.new("RGB", (40, 40)))


def test_a_mask_of_another_size_is_refused():
    check_mask(np.zeros((4, 6), bool), (4, 6))
    with pytest.raises(BadInput, match="the mask is 4 x 6 pixels, its image 6 x 4"):
        check_mask(np.zeros((6, 4), bool), (4, 6))
