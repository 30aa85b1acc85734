"""The general network that ships: how it is made, so that anyone can make it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stemkit.compute import resolve_device
from stemkit.denoising.sources import SynthesisSource
from stemkit.denoising.training import made_with, train
from stemkit.denoising.weights import OUTPUTS, NetworkInfo, load_weights, save_weights
from stemkit.io.atomic import whole_file
from stemkit.synthesis import noises as draws
from stemkit.synthesis.recipe import Recipe

__all__ = ["model_card", "train_general"]

CROP_SIZES = (96, 128, 192)
BATCH_SIZE = 16
#: One image in twenty shows nothing: what a network should leave empty.
RECIPE = Recipe(spacing=(4.0, 36.0), empty=0.05)
#: What two CPU cores train in an hour or two.
ARCHITECTURE = {"width": 64, "n_blocks": 4, "downsampling": 2}


def train_general(
    folder: Path,
    *,
    name: str = "sfin-general",
    max_epochs: int = 25,
    batches_per_epoch: int = 200,
    lr: float = 3e-3,
    seed: int = 1,
    device: str = "auto",
    width: int | None = None,
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

    A checkpoint stands beside it after every epoch: the same call goes on from there. With ``minutes`` it stops after
    the epoch in which so much time is over, its learning rate having fallen to 0 by then where the run began there, and
    what is written is the best network so far. ``batch_size`` are the images of the smallest crop; larger crops have
    as many pixels per batch. With ``weights`` it starts
    from those, and takes their architecture; the card says what they had been through.

    Raises
    ------
    ValueError
        If the weights' outputs or their scaling are not those of the general network, their architecture is not the
        one that is asked for, a crop's size does not suit the network, or a batch has no image.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but is {batch_size!r}")
    for size in crop_sizes:
        if size < 32 or size % 16:
            raise ValueError(f"crop_sizes must be multiples of 16 of at least 32 px, but one is {size!r}")
    folder.mkdir(parents=True, exist_ok=True)
    where = resolve_device(device)
    asked = {"width": width, "n_blocks": n_blocks, "downsampling": downsampling}
    chosen: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    info = NetworkInfo(**{**ARCHITECTURE, **chosen}, outputs=OUTPUTS, spacing=RECIPE.spacing)
    module, before = None, dict[str, Any]()
    if weights is not None:
        module, known = load_weights(weights)
        if (known.architecture, known.outputs, known.scaling) != (info.architecture, info.outputs, info.scaling):
            raise ValueError(
                f"weights must be those of a general network, SFIN with outputs {OUTPUTS}, but {weights} is "
                f"{known.architecture} with {known.outputs}"
            )
        for name, value in chosen.items():
            if value != getattr(known, name):
                raise ValueError(f"{name} must be that of the weights, {getattr(known, name)}, but is {value}")
        info = dataclasses.replace(known, spacing=RECIPE.spacing, sha256="")
        before = {**known.training, "sha256": known.sha256}
    net = train(
        info,
        SynthesisSource(RECIPE, OUTPUTS, batch_size, crop_sizes, emphasis),
        device=where,
        seed=seed,
        max_epochs=max_epochs,
        batches_per_epoch=batches_per_epoch,
        lr=lr,
        module=module,
        checkpoint=folder / f"{name}.checkpoint",
        minutes=minutes,
        timed=True,
        compile=compile,
        verbose=verbose,
    )
    training = made_with(net, where, seed, before) | {"crop_sizes": list(crop_sizes), "emphasis": emphasis}
    training |= {} if minutes is None else {"minutes": float(minutes)}
    info = dataclasses.replace(info, training=training)
    path = save_weights(net.module_, info, folder / f"{name}.safetensors")
    load_weights(path)  # what was written can be read
    with whole_file(path.with_suffix(".md")) as temporary:
        temporary.write_text(model_card(info, RECIPE))
    return path


def model_card(info: NetworkInfo, recipe: Recipe) -> str:
    """What the weights are, how they were made and what they are not for, in Markdown."""
    made = info.training
    images = sum(_done(run) * run.get("batches_per_epoch", 0) * run.get("batch_size", 0) for run in _runs(made))
    commands = "<br>".join(f"`stemkit train {_options(run, info)}`" for run in _runs(made))
    unfinished = "" if made["epochs_done"] == made["epochs"] else f" (of {made['epochs']}: not finished)"
    low, high = recipe.spacing
    return f"""# General SFIN weights

SFIN with {info.width} channels, {info.n_blocks} blocks and a grid coarser by {info.downsampling}; outputs
{", ".join(info.outputs)}. Trained on synthetic images alone; no real micrograph was used.

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
| noise | {draws.DOSE[0]:g} to {draws.DOSE[1]:g} electrons per pixel at a column, or a readout of \
{draws.READOUT[0]:.0%} to {draws.READOUT[1]:.0%} of the contrast; streaks up to {draws.STREAKS[1]:.0%}, row jitter up \
to {draws.JITTER[1]:.0%} of the spacing, displacement as in real scans (drift, hum, along both axes) up to \
{draws.ALONG_Y[1]:g} px RMS, correlation along the row up to {draws.CORRELATION[1]:g}, smooth background \
up to {draws.BACKGROUND[1]:.0%} |

Not for: diffraction patterns, spectra, images without atomic resolution, intensities to be published (measure
those on the recorded pixels, as `AtomDetector` does), or structures whose columns can't be told apart in the recorded
image. Smooth variation of up to about a tenth of the contrast is taken for background and removed; stronger variation
is kept. Faint columns beside bright ones may be weakened at the lowest doses.
"""


def _runs(made: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that weights have been through, the first one first."""
    return [*(_runs(made["before"]) if "before" in made else []), made]


def _done(made: dict[str, Any]) -> int:
    return int(made.get("epochs_done", made.get("epochs", 0)))


def _options(made: dict[str, Any], info: NetworkInfo) -> str:
    # weights of one's own may say nothing of how they were made
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
    return f"{options} --width {info.width} --blocks {info.n_blocks} --downsampling {info.downsampling}"
