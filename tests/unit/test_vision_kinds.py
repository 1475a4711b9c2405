"""Scoring pictures: known answers of hand-set models, numbers equal to transformers' own, pictures that are none."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from explorer.checkpoints import open_checkpoint
from explorer.errors import CheckpointError, DataError
from explorer.evaluation import Evaluator, Loaded, load_images, load_module, load_task, with_head_of
from explorer.evaluation._images import image_batch, pixel_values, prepared_images
from explorer.evaluation.pictures import PictureError, Pictures
from tests.kind_examples import vision
from tests.kind_examples.vision import SETTINGS, colour, write_pictures, write_task


@pytest.mark.parametrize("kind", vision.EXAMPLES)
def test_a_hand_set_model_tells_the_colours_apart(kind: str, tmp_path: Path) -> None:
    built = vision.EXAMPLES[kind](tmp_path)
    task = with_head_of(open_checkpoint(built.model), load_task(built.task))
    score = list(Evaluator([task], built.model).run(Loaded(built.model), key="known"))[-1].scores["colours"]
    assert (score.n, score.correct, score.score) == (12, 12, 1.0)
    assert task.chance == pytest.approx(1 / 3)


def settings(folder: Path, **entries: Any) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps({**SETTINGS, **entries}), encoding="utf-8")
    return folder


PROCESSORS: dict[str, dict[str, Any]] = {
    "vit": {},
    "bicubic, other means": {"resample": 3, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    "clip": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 9}, "crop_size": 7},
    "convnext": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 8}, "crop_pct": 0.9},
    "not normalised": {"do_normalize": False},
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_equal_those_of_transformers_bit_for_bit(name: str, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    images = load_images(settings(tmp_path, **PROCESSORS[name]))
    rng = np.random.default_rng(0)
    rows = []
    for i, mode in enumerate(("RGB", "RGBA", "L", "P", "1", "LA")):
        made = Image.fromarray(rng.integers(0, 256, (23 + i, 31, 3), dtype=np.uint8)).convert(mode)
        made.save(tmp_path / f"{i}.png")
        rows.append({"image": str(tmp_path / f"{i}.png")})
    batch = image_batch(prepared_images(rows, images), images)
    assert batch["pixels"].dtype == torch.uint8
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    wanted = [processor(images=Image.open(r["image"]).convert("RGB"))["pixel_values"][0] for r in rows]
    assert np.array_equal(pixel_values(nn.Linear(1, 1), batch).numpy(), np.stack(wanted).astype(np.float32))


def test_a_photograph_is_turned_and_sixteen_bits_are_kept(tmp_path: Path) -> None:
    upright = np.zeros((4, 6, 3), dtype=np.uint8)
    upright[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90° clockwise
    Image.fromarray(upright).save(tmp_path / "turned.png", exif=exif)
    turned = np.asarray(Pictures().rgb(str(tmp_path / "turned.png")))
    assert turned.shape == (6, 4, 3) and (turned[:, -1] == 255).all() and not turned[:, :-1].any()
    deep = np.array([[0, 256, 40_000, 65_535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.asarray(Pictures().rgb(str(tmp_path / "deep.png")))[0, :, 0].tolist() == [0, 1, 156, 255]


def test_pictures_of_one_file_score_like_single_ones(tmp_path: Path) -> None:
    built = vision.image_classification(tmp_path)
    rows = write_pictures(built.task)
    stacked = np.stack([np.asarray(Image.open(built.task / r["image"])) for r in rows])
    packed = write_task(tmp_path / "packed", "image_classification", [])
    np.savez_compressed(packed / "test.npz", images=stacked)
    write_task(packed, "image_classification", [{**r, "image": f"test.npz#{i}"} for i, r in enumerate(rows)])
    single, many = (Evaluator([load_task(f)], built.model).plan("colours") for f in (built.task, packed))
    pixels = [{int(i): p for b in plan.blocks[0] for i, p in zip(b.indices, b.inputs["pixels"], strict=True)}
              for plan in (single, many)]  # fmt: skip
    assert len(pixels[0]) == 12 and all(torch.equal(pixels[0][i], pixels[1][i]) for i in range(12))
    changed = stacked.copy()
    changed[3, 0, 0] += 1
    before = load_task(packed).digest
    np.savez_compressed(packed / "test.npz", images=changed)
    assert load_task(packed).digest != before


def test_bad_pictures_are_problems_that_name_the_row(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t", "image_classification")
    (folder / "text.png").write_text("hello", encoding="utf-8")
    (folder / "empty.png").touch()
    np.savez(folder / "few.npz", images=np.zeros((2, 4, 4), dtype=np.uint8))
    np.savez(folder / "floats.npz", images=np.zeros((2, 4, 4)))
    names = ["0.png", "text.png", "empty.png", "none.png", "../0.png", "few.npz#2", "floats.npz#0", "few.npz#1", 3, " "]
    write_task(folder, "image_classification", [{"image": n, "label": 0} for n in names])
    with pytest.raises(DataError) as error:
        load_task(folder)
    said = str(error.value)
    assert "8 problems" in said
    assert "test.jsonl line 2: image text.png must be a picture (PNG, JPEG, WEBP, BMP, GIF, TIFF); got none of" in said
    assert "line 3: image empty.png must be a picture" in said and "got an empty file" in said
    assert "line 4: row: image must be a file; got no file none.png" in said
    assert "line 5: row: image must lie inside the task's folder; got ../0.png" in said
    assert "line 6: image few.npz#2 must be one of the 2 pictures of few.npz; got number 2" in said
    assert "line 7: image floats.npz#0 must be an .npz file with an array `images`, uint8" in said
    assert "line 9: image must name a file; got int" in said and "line 10: image must name a file; got an empty" in said


def test_a_picture_cut_short_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t", "image_classification")
    whole = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(whole).save(folder / "4.png")
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:3000])
    evaluator = Evaluator([load_task(folder)], settings(tmp_path))
    with pytest.raises(DataError, match=r"row 5: 4\.png must be a whole picture; got .*\. Mend or remove the row\."):
        evaluator.plan("colours")


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(colour(0, size=(20, 20))).save(tmp_path / "wide.png")
    for most, says in ((300, "must have at most 300 pixels; got 20 x 20"), (100, "more than twice as many")):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with warnings.catch_warnings(), pytest.raises(PictureError, match=says):
            warnings.simplefilter("ignore")
            Pictures().rgb(str(tmp_path / "wide.png"))


def test_image_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="needs image settings to score pictures; got none"):
        load_images(tmp_path)
    rows = write_pictures(tmp_path, 2)
    Image.fromarray(colour(0, size=(8, 30))).save(tmp_path / "1.png")
    placed = [{"image": str(tmp_path / r["image"])} for r in rows]
    free = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 8}, "do_center_crop": False}
    with pytest.raises(DataError, match="must give all pictures one size; got 9 x 8 and 30 x 8"):
        prepared_images(placed, load_images(settings(tmp_path, **free)))
    built = vision.image_classification(tmp_path / "vit")
    settings(built.model, size={"height": 12, "width": 12})
    task = with_head_of(open_checkpoint(built.model), load_task(built.task))
    with pytest.raises(DataError, match=r"must give pictures of the size that config\.json says; got 12 x 12"):
        list(Evaluator([task], built.model).run(Loaded(built.model), key="x"))


def test_label_texts_follow_the_template_and_must_fit(tmp_path: Path) -> None:
    built = vision.clip_zero_shot(tmp_path)
    batch = Evaluator([load_task(built.task)], built.model).plan("colours").blocks[0][0].inputs
    assert batch["input_ids"].tolist() == [[3, 4, 5, 3, 6 + i, 2] for i in range(3)]
    write_task(built.task, "clip_zero_shot", template="{label}")
    batch = Evaluator([load_task(built.task)], built.model).plan("colours").blocks[0][0].inputs
    assert batch["input_ids"].tolist() == [[6, 2], [7, 2], [8, 2]]
    write_task(built.task, "clip_zero_shot", template="a photo")
    with pytest.raises(DataError, match=r"template must hold \{label\}; got 'a photo'"):
        Evaluator([load_task(built.task)], built.model).plan("colours")
    write_task(built.task, "clip_zero_shot", template="a " * 20 + "{label}")
    with pytest.raises(CheckpointError, match="must be within the text tower's positions of 12; got 22"):
        list(Evaluator([load_task(built.task)], built.model).run(load_module(built.model), key="x"))
    vit = vision.image_classification(tmp_path / "vit")
    write_task(built.task, "clip_zero_shot")
    evaluator = Evaluator([load_task(built.task)], built.model)
    with pytest.raises(CheckpointError, match="must have a tower for texts and one for images; got ViTModel"):
        list(evaluator.run(load_module(vit.model), key="x"))


def test_same_convolution_pads_right_and_below() -> None:
    from explorer.evaluation.efficientnet_lite import SameConv

    convolution = SameConv(1, 1, 3, 2)
    nn.init.ones_(convolution.weight)
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    with torch.no_grad():
        found = convolution(image)[0, 0]
    # Even sides and a stride of 2: nothing left and above, one row and column of zeros right and below.
    assert found.tolist() == [[45.0, 39.0], [66.0, 50.0]]
