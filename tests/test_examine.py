"""Single files: every kind of bad image is found by its check, no damage crashes the scan, good images pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import validate as stage
from stages.shared.images import DECODING_ERRORS, load_square
from stages.shared.params import load
from stages.shared.quality import issues
from stages.shared.quality.examine import examine
from stages.shared.quality.scan import scan
from stages.shared.thumbnails import thumbnails
from tests import bad_images
from tests.tiny import ROOT

KINDS = bad_images.kinds()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Issues of each bad image, among a hundred good ones, by the whole of validate."""
    raw = tmp_path_factory.mktemp("bad") / "raw"
    bad_images.write(raw, "bad")
    verdict = stage.validate(scan(raw, raw.parent / "kept"), load(ROOT / "params.yaml").validate_)
    return {Path(row["path"]).name: set(row["issues"]) for row in verdict.manifest.to_dict("records")}


def test_there_are_enough_kinds() -> None:
    assert len({name for name, _, issue in KINDS if issue}) >= 60
    found_by = {issue for _, _, expected in KINDS for issue in expected.split("|") if issue}
    assert found_by == set(issues.NAMES) - {
        "conflicting-labels", "exact-duplicate", "near-duplicate", "conflicting-near-duplicate", "label-noise",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "issue"), [(name, issue) for name, _, issue in KINDS])
def test_a_kind_is_found_by_its_check(found: dict[str, set[str]], name: str, issue: str) -> None:
    together = {"exact-duplicate", "near-duplicate", "conflicting-near-duplicate"}
    if issue:
        assert found[name] & set(issue.split("|")), found[name]
    else:
        assert found[name] - together == set()


def test_good_images_have_no_issue(found: dict[str, set[str]]) -> None:
    assert [found[f"{number}.jpg"] for number in range(120)] == [set()] * 120


def test_what_is_used_can_be_trained_on(found: dict[str, set[str]], tmp_path: Path) -> None:
    """Each file that is not called undecodable is decoded by the same code that prepares training."""
    for name, content, _ in KINDS:
        (tmp_path / name).write_bytes(content)
        if found[name] & set(issues.UNREADABLE):
            with pytest.raises(DECODING_ERRORS):
                load_square(tmp_path / name, 32)
        else:
            assert load_square(tmp_path / name, 32).shape == (32, 32, 3)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_damaged_files_of_any_format_are_findings_not_crashes(tmp_path: Path, image_format: str) -> None:
    content = bad_images.encode(bad_images.scene().resize((24, 16)), image_format)
    generator = np.random.default_rng(0)
    found: set[str] = set()
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[generator.integers(0, len(content), 4)] = generator.integers(0, 256, 4)
        cut = damaged.tobytes()[: int(generator.integers(1, len(content) + 1))]
        found.update(issues.listed(np.array([examine(cut).found], np.uint64))[0])
        (tmp_path / "image.bin").write_bytes(cut)
        thumbnails(tmp_path, ["image.bin"])
    assert found & {"not-an-image", "truncated", "unreadable"}


def test_a_bomb_has_no_picture(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bad_images.bomb())
    assert thumbnails(tmp_path, ["bomb.png"]) == {}


def test_facts_of_a_plain_image() -> None:
    half = Image.fromarray(np.tile(np.repeat(np.array([0, 255], np.uint8), 8), (8, 1)))
    facts = examine(bad_images.encode(half, "PNG"))
    assert (facts.width, facts.height, facts.mode, facts.format, facts.found) == (16, 8, "L", "PNG", 0)
    assert (facts.brightness, facts.contrast, facts.dark_end, facts.bright_end, facts.entropy) == (0.5, 0.5, 0, 1, 1)
    assert facts.colour == 0


def test_hashes_of_the_mirror_image_are_those_of_the_mirrored_file() -> None:
    image = bad_images.scene()
    facts = examine(bad_images.encode(image, "PNG"))
    mirrored = examine(bad_images.encode(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG"))
    for name in ("dhash", "phash"):
        assert getattr(facts, f"{name}_mirrored") == getattr(mirrored, name)
        assert getattr(mirrored, f"{name}_mirrored") == getattr(facts, name)
        assert getattr(mirrored, name) != getattr(facts, name)


def test_a_symmetric_picture_keeps_its_hashes_too() -> None:
    """Half of its frequencies are absent, and rounding must not decide on them."""
    for seed in range(10):
        half = np.asarray(bad_images.scene(seed))[:, :80]
        image = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
        facts, copy = (examine(bad_images.encode(image, name)) for name in ("PNG", "JPEG"))
        assert (facts.phash ^ copy.phash).bit_count() <= 2
        assert (facts.phash ^ facts.phash_mirrored).bit_count() <= 2


@pytest.mark.parametrize("quality", [60, 90])
def test_a_reencoded_or_resized_picture_keeps_its_hashes(quality: int) -> None:
    for seed in range(10):
        image = bad_images.scene(seed)
        facts = examine(bad_images.encode(image, "PNG"))
        copy = examine(bad_images.encode(image.resize((120, 90)), "JPEG", quality=quality))
        assert max((facts.dhash ^ copy.dhash).bit_count(), (facts.phash ^ copy.phash).bit_count()) <= 6
