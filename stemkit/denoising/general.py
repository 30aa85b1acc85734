"""Training of the general network that is shipped with the package."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stemkit.atomic import write_text
from stemkit.compute import resolve_device
from stemkit.denoising.sources import CROP_MULTIPLE, MIN_CROP, SynthesisSource
from stemkit.denoising.training import TrainingSchedule, train, training_record
from stemkit.denoising.weights import OUTPUTS, NetworkInfo, load_weights, save_weights
from stemkit.parameters import check_integer
from stemkit.synthesis.noises import CONSTANTS as NOISE
from stemkit.synthesis.recipe import Recipe

__all__ = ["model_card", "train_general"]

#: Edges of the training crops, px (chosen).
CROP_SIZES = (96, 128, 192)
#: Crops of the smallest size in a batch (chosen).
BATCH_SIZE = 16
#: Distribution of the training images; one in twenty has no columns, and their maps must be empty (chosen).
RECIPE = Recipe(spacing=(4.0, 36.0), empty=0.05)
#: Default architecture, which two CPU cores train in one to two hours (chosen).
ARCHITECTURE = {"n_channels": 64, "n_blocks": 4, "downsampling": 2}


def train_general(
    folder: Path,
    *,
    name: str = "sfin-general",
    max_epochs: int = 25,
    batches_per_epoch: int = 200,
    lr: float = 3e-3,
    seed: int = 1,
    device: str = "auto",
    n_channels: int | None = None,
    n_blocks: int | None = None,
    downsampling: int | None = None,
    crop_sizes: Sequence[int] = CROP_SIZES,
    batch_size: int = BATCH_SIZE,
    emphasis: float = 0.0,
    weights: str | Path | None = None,
    minutes: float | None = None,
    compile: bool = False,
    verbose: int = 1,
) -> Path:
    """Train the general network on synthetic pairs and write ``NAME.safetensors`` with its model card into a folder.

    A checkpoint is written to the same folder after every epoch, and the same call resumes from it.

    Parameters
    ----------
    folder : Path
    name : str
    max_epochs, batches_per_epoch, lr, minutes
        See :class:`~stemkit.denoising.training.TrainingSchedule`; in a new run the learning rate decreases to 0 within
        ``minutes``.
    seed, device, compile, verbose
        See :func:`~stemkit.denoising.training.train`.
    n_channels, n_blocks, downsampling : int, optional
        See :class:`stemkit.networks.SFIN`; by default those of the shipped weights.
    crop_sizes : sequence of int
        Edges of the crops, px.
    batch_size : int
        Number of images of the smallest crop size; batches of larger crops have equally many pixels.
    emphasis : float
        See :class:`~stemkit.denoising.sources.SynthesisSource`.
    weights : str or Path, optional
        Start from these weights and keep their architecture; the model card lists the earlier runs.

    Returns
    -------
    Path
        The file of weights.

    Raises
    ------
    ValueError
        If outputs or scaling of the weights are not those of the general network, their architecture is not that of
        the parameters, a crop size is unsuitable for the network, or the batch size is below 1.
    """
    check_integer("batch_size", batch_size)
    for size in crop_sizes:
        if size < MIN_CROP or size % CROP_MULTIPLE:
            raise ValueError(
                f"crop_sizes must be multiples of {CROP_MULTIPLE} of at least {MIN_CROP} px, but one is {size!r}"
            )
    folder.mkdir(parents=True, exist_ok=True)
    where = resolve_device(device)
    given = {"n_channels": n_channels, "n_blocks": n_blocks, "downsampling": downsampling}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    info = NetworkInfo(**{**ARCHITECTURE, **chosen}, outputs=OUTPUTS, spacing=RECIPE.spacing)
    module, before = None, dict[str, Any]()
    if weights is not None:
        module, known = load_weights(weights)
        if (known.architecture, known.outputs, known.scaling) != (info.architecture, info.outputs, info.scaling):
            raise ValueError(
                f"weights must be those of a general network, SFIN with outputs {OUTPUTS}, but {weights} is "
                f"{known.architecture} with {known.outputs}"
            )
        for key, value in chosen.items():
            if value != getattr(known, key):
                raise ValueError(f"{key} must be that of the weights, {getattr(known, key)}, but is {value}")
        info = dataclasses.replace(known, spacing=RECIPE.spacing, sha256="")
        before = {**known.training, "sha256": known.sha256}
    net = train(
        info,
        SynthesisSource(RECIPE, OUTPUTS, batch_size, crop_sizes, emphasis),
        TrainingSchedule(max_epochs, batches_per_epoch, lr, minutes=minutes, decay_lr_with_time=True),
        device=where,
        seed=seed,
        module=module,
        checkpoint=folder / f"{name}.checkpoint",
        compile=compile,
        verbose=verbose,
    )
    training = training_record(net, where, seed, before) | {"crop_sizes": list(crop_sizes), "emphasis": emphasis}
    training |= {} if minutes is None else {"minutes": float(minutes)}
    info = dataclasses.replace(info, training=training)
    path = save_weights(net.module_, info, folder / f"{name}.safetensors")
    load_weights(path)  # raises if the written file can't be read
    write_text(path.with_suffix(".md"), model_card(info, RECIPE))
    return path


def model_card(info: NetworkInfo, recipe: Recipe) -> str:
    """Model card in Markdown: architecture, training, limits of use."""
    made = info.training
    images = sum(
        run.get("epochs_done", run.get("epochs", 0)) * run.get("batches_per_epoch", 0) * run.get("batch_size", 0)
        for run in _runs(made)
    )
    commands = "<br>".join(f"`stemkit train {_options(run, info)}`" for run in _runs(made))
    unfinished = "" if made["epochs_done"] == made["epochs"] else f" (of {made['epochs']}: not finished)"
    low, high = recipe.spacing
    return f"""# General SFIN weights

SFIN with {info.n_channels} channels, {info.n_blocks} blocks and a grid coarser by {info.downsampling}; outputs
{", ".join(info.outputs)}. Trained on synthetic images only; no real micrograph was used.

| | |
|---|---|
| made by | {commands} |
| stemkit, torch, Python | {made["stemkit"]}, {made["torch"]}, {made["python"]} |
| device | {made["device"]} |
| images | {made["epochs_done"]} epochs{unfinished} of {made["batches_per_epoch"]} batches of up to \
{made["batch_size"]}; in all at most {images} |
| crops | {", ".join(map(str, made["crop_sizes"]))} px |
| time | {sum(run.get("seconds", 0) for run in _runs(made))} s |
| loss of the best epoch, on images that training does not draw | {made["valid_loss"]} |
| PSNR on them (peak: the contrast) | {made["valid_psnr"]:.2f} dB |
| column spacing | {low:g} to {high:g} px |
| column width (sigma) | {recipe.width[0]:g} to {recipe.width[1]:g} of the spacing, varied by species |
| noise | {NOISE.dose[0]:g} to {NOISE.dose[1]:g} electrons per pixel at a column, or a readout of \
{NOISE.readout[0]:.0%} to {NOISE.readout[1]:.0%} of the contrast; streaks up to {NOISE.streaks[1]:.0%}, row jitter up \
to {NOISE.jitter[1]:.0%} of the spacing, displacement as in real scans (drift, hum, along both axes) up to \
{NOISE.along_y[1]:g} px RMS, correlation along the row up to {NOISE.correlation[1]:g}, smooth background \
up to {NOISE.background[1]:.0%} |

Not for: diffraction patterns, spectra, images without atomic resolution, intensities to be published (measure
those on the recorded pixels, as `AtomDetector` does), or structures whose columns are not resolved in the recorded
image. Smooth variation of up to about a tenth of the contrast is removed as background; stronger variation is kept.
Faint columns next to bright ones may be weakened at the lowest doses.
"""


def _runs(made: dict[str, Any]) -> list[dict[str, Any]]:
    """Training runs of the weights in chronological order."""
    return [*(_runs(made["before"]) if "before" in made else []), made]


def _options(made: dict[str, Any], info: NetworkInfo) -> str:
    # weights from other sources may have no record of their training
    known = {"epochs": "epochs", "batches": "batches_per_epoch", "lr": "lr", "seed": "seed"}
    options = " ".join(f"--{option} {made.get(name, 'unknown')}" for option, name in known.items())
    crops = made.get("crop_sizes", CROP_SIZES)
    if tuple(crops) != CROP_SIZES:
        options += " --crops " + " ".join(map(str, crops))
    if made.get("batch_size", BATCH_SIZE) != BATCH_SIZE:
        options += f" --batch-size {made['batch_size']}"
    if "minutes" in made:
        options += f" --minutes {made['minutes']:g}"
    if made.get("emphasis"):
        options += f" --emphasis {made['emphasis']:g}"
    if "before" in made:
        return f"{options} --weights SHA256_{made['before'].get('sha256', '')[:8]}"
    return f"{options} --channels {info.n_channels} --blocks {info.n_blocks} --downsampling {info.downsampling}"
