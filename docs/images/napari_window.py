"""The picture of napari: ``xvfb-run -a python docs/images/napari_window.py`` writes ``napari.png`` into this folder."""

from __future__ import annotations

from pathlib import Path

import napari
import numpy as np
from napari.layers import Layer

from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, SFINDenoiser
from stemkit.benchmark import simulated
from stemkit.napari.layers import columns_layer, image_layer


def main() -> None:
    true_image, _ = simulated("graphene_silicon", "haadf", shape=(256, 256), pixel_size=0.012)
    counts = PointwiseNoise.counted(40.0, background=2.0)
    noise = NoiseModel(float(np.ptp(true_image.values)), float(true_image.min()), pointwise=counts)
    recorded = NoiseCalibrator().fit_transform(noise.apply(true_image, random_state=0))
    enhanced = SFINDenoiser().fit_transform(recorded)
    columns = AtomDetector().fit_transform(enhanced)
    viewer = napari.Viewer(show=False)
    for layer in (
        image_layer(recorded, "graphene"),
        image_layer(enhanced, "graphene enhanced"),
        columns_layer(columns, enhanced, "graphene columns"),
    ):
        viewer.add_layer(Layer.create(*layer))
    viewer.canvas.overlays.scale_bar.visible = True
    viewer.window.resize(1300, 820)
    viewer.window.add_plugin_dock_widget("stemkit", "Measure corrected columns")
    viewer.reset_view()
    viewer.screenshot(str(Path(__file__).with_name("napari.png")), canvas_only=False, flash=False)
    viewer.close()


if __name__ == "__main__":
    main()
