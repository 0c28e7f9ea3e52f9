"""Pictures of a run: what it trained on, how that was changed, and its worst mistakes.

Artifacts, not MLflow's images by key: its cards for those hide the picture below a list of all parameters.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stages.shared import files, prepared
from stages.shared.augmentation import variants
from stages.shared.params import AugmentParams

MAX_ROWS, NUM_COLUMNS = 12, 8
TILE_PX, GAP_PX, CAPTION_PX, FONT_PX = 96, 6, 20, 13
PAPER, INK = (255, 255, 255), (28, 37, 48)
LONGEST_CAPTION = 15

Tile = tuple[str, NDArray[np.uint8]]


def write(stage: str, workspace: Path, folder: Path) -> None:
    """Draw what the stage that has just ended left to see, as PNG files in ``folder``."""
    arrays = workspace / "data/prepared"
    if stage == "prepare":
        _save(_training_images(prepared.read(arrays, "train")), folder / "training_images.png")
    elif stage == "augment":
        policy = AugmentParams.model_validate(files.read_json(workspace / "data/augmented/policy.json"))
        train_set = prepared.read(arrays, "train")
        shown = range(min(MAX_ROWS, len(train_set.classes)))
        rows = zip(train_set.classes, variants(train_set, policy, NUM_COLUMNS - 1, shown), strict=False)
        tiles = [[(label if number == 0 else "", image) for number, image in enumerate(row)] for label, row in rows]
        _save(tiles, folder / "augmented_images.png")
    elif stage == "evaluate":
        mistakes = _mistakes(prepared.read(arrays, "test"), workspace / "reports/evaluate/predictions.csv")
        _save([mistakes[start : start + NUM_COLUMNS] for start in range(0, len(mistakes), NUM_COLUMNS)], folder / "worst_mistakes.png")


def _training_images(train_set: prepared.Prepared) -> list[list[Tile]]:
    rows = []
    for number, label in list(enumerate(train_set.classes))[:MAX_ROWS]:
        members = np.flatnonzero(train_set.labels == number)[:NUM_COLUMNS]
        rows.append([(label if column == 0 else "", image) for column, image in enumerate(train_set.gather(members))])
    return rows


def _mistakes(test_set: prepared.Prepared, predictions: Path) -> list[Tile]:
    """The mistakes that the model was surest of: what it said, under what it should have said."""
    with predictions.open(encoding="utf-8", newline="") as file:
        rows = [(float(row["probability"]), number, row) for number, row in enumerate(csv.DictReader(file))]
    wrong = sorted((item for item in rows if item[2]["actual"] != item[2]["predicted"]), key=lambda item: (-item[0], item[1]))
    wrong = wrong[: 3 * NUM_COLUMNS]
    images = test_set.gather(np.array([number for _, number, _ in wrong], np.int64))
    return [(f"{row['actual']}\nsaid {row['predicted']}", image) for (_, _, row), image in zip(wrong, images, strict=True)]


def _save(rows: Sequence[Sequence[Tile]], path: Path) -> None:
    """A contact sheet; none if there is nothing to show."""
    if not rows:
        return
    num_lines = max(caption.count("\n") + 1 for row in rows for caption, _ in row)
    height = TILE_PX + GAP_PX + num_lines * CAPTION_PX
    sheet = Image.new("RGB", (GAP_PX + max(map(len, rows)) * (TILE_PX + GAP_PX), GAP_PX + len(rows) * height), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for y, row in enumerate(rows):
        for x, (caption, image) in enumerate(row):
            corner = (GAP_PX + x * (TILE_PX + GAP_PX), GAP_PX + y * height)
            lines = "\n".join(line[:LONGEST_CAPTION] for line in caption.split("\n"))
            pen.multiline_text(corner, lines, INK, font)
            tile = Image.fromarray(image).resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST)
            sheet.paste(tile, (corner[0], corner[1] + num_lines * CAPTION_PX))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    sheet.save(beside, "PNG")
    beside.replace(path)
