"""What can be wrong with one image: every issue once, with its meaning; a set of issues is a 64-bit mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Issue:
    """A finding about a single image, and why it matters to who trains MobileNetV2."""

    name: str
    meaning: str
    minor: bool = False  # worth knowing, no reason to act


ISSUES = (
    Issue("empty", "The file has no bytes."),
    Issue("not-an-image", "The content is no image format that is known, whatever the name says."),
    Issue("truncated", "The file ends in the middle of the picture; decoders fill the rest with grey, or fail in an epoch."),
    Issue("unreadable", "The format is known, but decoding fails."),
    Issue("decompression-bomb", "The header promises more pixels than fit in memory; it is not decoded."),
    Issue("corrupt", "Bytes were damaged: Pillow, OpenCV and TensorFlow decode it without a word, into a wrong picture."),
    Issue("constant", "All pixels are equal: there is nothing to learn from."),
    Issue("conflicting-labels", "The same bytes lie in two classes: one of the labels is wrong."),
    Issue("exact-duplicate", "The same bytes twice in one class; they weigh double, and would leak if they were split."),
    Issue("near-duplicate", "Nearly the same picture as another, perhaps mirrored (dHash and pHash both within the distance)."),
    Issue("conflicting-near-duplicate", "Nearly the same picture lies in another class: look at both, one label may be wrong."),
    Issue("label-noise", "A classifier that has not seen this image is sure of another class: the label may be wrong."),
    Issue("wrong-extension", "The name promises another format than the content, or none; tools that go by the name fail or pass over it."),
    Issue(
        "unportable-format",
        "TensorFlow, OpenCV or browsers refuse this format (TIFF, AVIF, JPEG 2000, animated WebP, PNG without its end).",
    ),
    Issue("animated", "Several frames; only the first is used."),
    Issue("trailing-bytes", "Bytes follow the end of the picture: a cut archive, a phone's video, or something hidden.", minor=True),
    Issue("sixteen-bit", "More than 8 bits a channel are scaled to 8; some decoders turn such images white.", minor=True),
    Issue("cmyk", "A print format; colours shift when it is converted to RGB.", minor=True),
    Issue("alpha", "Transparent parts become white.", minor=True),
    Issue("palette", "At most 256 colours, from a table; a model may learn the dithering.", minor=True),
    Issue("exif-orientation", "Stored turned; upright only for decoders that read EXIF.", minor=True),
    Issue("grey-among-colour", "Grey, where nearly all other images have colour.", minor=True),
    Issue("dark", "Even its bright parts are dark, unlike the rest of the data."),
    Issue("bright", "Even its dark parts are bright, unlike the rest of the data."),
    Issue("low-contrast", "Its tones lie close together, unlike those of the rest of the data."),
    Issue("blurry", "Far less fine detail than the rest of the data."),
    Issue("low-information", "A picture of very few tones: perhaps a placeholder, a scan of an empty page, or a failed download."),
    Issue("odd-size", "Far larger or smaller than the rest of the data.", minor=True),
    Issue("odd-aspect", "Long and narrow: cutting out the square that training sees loses most of it."),
)

NAMES = tuple(issue.name for issue in ISSUES)
BITS = {name: np.uint64(1 << number) for number, name in enumerate(NAMES)}
COPIES = ("exact-duplicate", "near-duplicate")
UNREADABLE = ("empty", "not-an-image", "truncated", "unreadable", "decompression-bomb")


def mask(names: Iterable[str]) -> int:
    """The names as one number."""
    return sum(int(BITS[name]) for name in set(names))


def having(masks: NDArray[np.uint64], *names: str) -> NDArray[np.bool_]:
    """Which of ``masks`` hold one of ``names``, same shape."""
    found: NDArray[np.bool_] = (masks & np.uint64(mask(names))) != 0
    return found


def listed(masks: NDArray[np.uint64]) -> list[list[str]]:
    """The names in each mask, in alphabetic order; masks repeat, so each is written out once."""
    different, inverse = np.unique(masks, return_inverse=True)
    written = [sorted(name for name, bit in BITS.items() if value & bit) for value in different]
    return [written[number] for number in inverse]
