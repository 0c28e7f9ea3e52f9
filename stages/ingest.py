"""Image source and backbone weights → data/raw, data/backbone: every input frozen, so that a run can be repeated."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from stages.flight.record import journal
from stages.shared import files, paths
from stages.shared.archives import Member, is_archive, members_of_archive, members_of_folder
from stages.shared.errors import SourceError
from stages.shared.params import IngestParams, Params, load

LAYOUT = "one folder a class with its images, or train/, val/, test/ with class folders in each"
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # HDF5 file format specification, section II.A
IMAGENET_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
IMAGENET_SIZES_PX = (96, 128, 160, 192, 224)


@dataclass(frozen=True)
class Frozen:
    """What was frozen: images a class, files that lay outside of class folders."""

    class_counts: dict[str, int]
    num_ignored: int


def ingest(source: Path, raw: Path) -> Frozen:
    """Copy or unpack the images of ``source`` into ``raw``, as ``[<split>/]<class>/…``.

    Raises:
        SourceError: if the source holds no images in class folders, or is an archive that must not be unpacked.
    """
    if source.is_dir():
        members = members_of_folder(source)
    elif is_archive(source):
        members = members_of_archive(source)
    else:
        raise SourceError(
            f"ingest.source {source} is neither a folder nor a zip or tar archive.\n"
            f"Expected {LAYOUT}. Set ingest.source in params.yaml and type: dvc repro"
        )
    raw.mkdir(parents=True)
    num_ignored = 0
    for member in members:
        if len(member.path.parts) < 2:
            num_ignored += 1
            continue
        _save(member, raw)
    _drop_wrapping_folders(raw)
    counts = count_classes(raw)
    if not counts:
        raise SourceError(
            f"ingest.source {source} holds no images in class folders ({num_ignored} files lie outside of any).\n"
            f"Expected {LAYOUT}. Set ingest.source in params.yaml and type: dvc repro"
        )
    return Frozen(counts, num_ignored)


def _save(member: Member, raw: Path) -> None:
    target = raw / member.path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for chunk in member.chunks():
                file.write(chunk)
    except FileExistsError as error:
        raise SourceError(f"{member.path} occurs twice in the source (or differs from another name in case only). Rename one.") from error
    except OSError as error:
        raise SourceError(f"{member.path} cannot be copied to {target}: {error}") from error


def _drop_wrapping_folders(raw: Path) -> None:
    """Lift class folders out of a folder that merely wraps them (``photos/cat/…``, ``photos/dog/…``)."""
    wrapped = raw.with_name(raw.name + ".wrapped")
    while len(entries := list(raw.iterdir())) == 1 and entries[0].name not in paths.SPLITS:
        children = list(entries[0].iterdir())
        folders = [child for child in children if child.is_dir()]
        if len(folders) < 2 and len(folders) < len(children):
            return  # a single class
        for child in set(children).difference(folders):
            child.unlink()  # a README beside the class folders
        shutil.rmtree(wrapped, ignore_errors=True)
        entries[0].rename(wrapped)
        raw.rmdir()
        wrapped.rename(raw)


def count_classes(raw: Path) -> dict[str, int]:
    """Files a class, over all splits."""
    counts: dict[str, int] = {}
    for path in sorted(raw.rglob("*")):
        if path.is_file():
            parts = path.relative_to(raw).parts
            label = parts[1] if parts[0] in paths.SPLITS and len(parts) > 2 else parts[0]
            counts[label] = counts.get(label, 0) + 1
    return counts


def freeze_backbone(weights: str, alpha: float, size_px: int, folder: Path) -> None:
    """Copy the backbone's weights into ``folder``; an empty ``weights`` entry in backbone.json means random weights.

    Raises:
        SourceError: if the file is absent or is not HDF5, or ImageNet's weights cannot be fetched.
    """
    folder.mkdir(parents=True)
    name = ""
    if weights != "none":
        path = _fetch_imagenet(alpha, size_px) if weights == "imagenet" else Path(weights)
        _check_weights(path)
        # Keras tells its own format from the older one by the name.
        name = "backbone.weights.h5" if path.name.endswith(".weights.h5") else "backbone.h5"
        shutil.copyfile(path, folder / name)
    files.write_json(folder / "backbone.json", {"weights": name})


def _check_weights(path: Path) -> None:
    if not path.is_file():
        raise SourceError(
            f"ingest.backbone_weights {path} is not a file. Expected none, imagenet, or a .weights.h5 file of MobileNetV2 without top."
        )
    with path.open("rb") as file:
        signature = file.read(len(HDF5_SIGNATURE))
    if signature != HDF5_SIGNATURE:
        raise SourceError(f"ingest.backbone_weights {path} is not an HDF5 file (it begins with {signature!r}).")


def _fetch_imagenet(alpha: float, size_px: int) -> Path:
    import keras  # loads TensorFlow: only for who asks for a download

    rows = size_px if size_px in IMAGENET_SIZES_PX else 224
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_{rows}_no_top.h5"
    try:
        return Path(keras.utils.get_file(name, IMAGENET_URL + name, cache_subdir="models"))
    except Exception as error:  # get_file raises a bare Exception on network errors
        raise SourceError(
            f"ImageNet's weights cannot be fetched: {error}\n"
            "The two other choices for ingest.backbone_weights in params.yaml: none (random weights), "
            "or the path of a .weights.h5 file of MobileNetV2 without top."
        ) from error


def write(params: Params, raw: Path, backbone: Path) -> Frozen:
    """Both outs; no partial folder is left when one fails."""
    section: IngestParams = params.ingest
    for folder in (raw, backbone):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        frozen = ingest(Path(section.source), raw)
        freeze_backbone(section.backbone_weights, params.train.alpha, params.prepare.image_size_px, backbone)
    except BaseException:
        for folder in (raw, backbone):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return frozen


def main(log: journal.Journal) -> None:
    frozen = write(load(paths.PARAMS), paths.RAW, paths.BACKBONE)
    num_images = sum(frozen.class_counts.values())
    log.metrics("ingest", {"num_files": num_images, "num_classes": len(frozen.class_counts)})
    log.say(f"{num_images} files in {len(frozen.class_counts)} classes; {frozen.num_ignored} files outside of class folders left out")


if __name__ == "__main__":
    journal.run_stage("ingest", main)
