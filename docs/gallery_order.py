"""The order of the gallery's pages."""

from pathlib import Path

PAGES = (
    "plot_first_steps.py",
    "plot_noise_in_my_image.py",
    "plot_straighten_the_rows.py",
    "plot_series.py",
    "plot_linked_columns.py",
    "plot_right_angles.py",
    "plot_whole_pipeline.py",
    "plot_enhance.py",
    "plot_positions_with_error_bars.py",
    "plot_displacements_and_strain.py",
    "plot_grains.py",
    "plot_rings.py",
    "plot_vacancies.py",
    "plot_point_defects.py",
    "plot_elements.py",
    "plot_polarization.py",
    "plot_counting.py",
    "plot_data_like_my_microscope.py",
    "plot_any_crystal.py",
    "plot_plant_a_defect.py",
    "plot_train_on_my_microscope.py",
    "plot_grid_search.py",
    "plot_super_resolve.py",
    "plot_compare_methods.py",
    "plot_when_not_to_trust.py",
)


class GalleryOrder:
    """Pages in the order above, any others after them by name."""

    def __init__(self, folder: str):
        self.folder = folder

    def __call__(self, filename: str) -> tuple[int, str]:
        name = Path(filename).name
        return (PAGES.index(name) if name in PAGES else len(PAGES), name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
