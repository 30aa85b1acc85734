"""Sessions: ``nox -s tests``, ``lint``, ``types``, ``docs``, and others that ``nox --list`` shows."""

from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "virtualenv"
CONSTRAINTS = ("-c", "constraints.txt")


def install(session: nox.Session, *packages: str) -> None:
    # torch first, in the version of the constraints: with other packages, a build with CUDA (gigabytes) may be chosen
    session.install(*CONSTRAINTS, "torch")
    session.install(*CONSTRAINTS, *packages)


@nox.session
def demo(session: nox.Session) -> None:
    """``stemkit demo``: calibration, enhancement and detection on images with known truth."""
    install(session, ".[formats,report]")
    session.run("stemkit", "demo", *(session.posargs or ["-o", "demo-output"]))


@nox.session
def tests(session: nox.Session) -> None:
    """Tests of less than three seconds; ``nox -s tests -- -m slow`` runs the others, ``-- PATHS`` all of a path."""
    install(session, "-e", ".[test]")
    # worksteal gives each worker one half of the files, so that few fixtures are made twice; a worker that finishes
    # early takes tests of the other one
    options = session.posargs or ["-m", "not slow"]
    session.run("pytest", "-n", "2", "--dist", "worksteal", *options, env={"OMP_NUM_THREADS": "1"})


@nox.session
def tests_oldest(session: nox.Session) -> None:
    """A part of the test suite with the oldest dependencies that pyproject.toml allows."""
    oldest = ("-c", "constraints-oldest.txt")
    session.install(*oldest, "torch")
    session.install(*oldest, ".[formats,zarr,dask,crystals,exports,report]")
    session.install("pytest", "hypothesis", "mrcfile")
    paths = ["tests/io", "tests/columns", "tests/noise", "tests/structure", "tests/report/test_page.py"]
    paths += ["tests/test_plotting.py"]
    # old releases of libraries issue deprecation warnings under a recent Python
    options = ["-o", "filterwarnings=default", "-p", "no:cacheprovider"]
    command = ["pytest", *options, *(session.posargs or [*paths, "tests/test_estimators.py"])]
    session.run(*command, env={"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::DeprecationWarning"})


@nox.session
def napari(session: nox.Session) -> None:
    """The plugin in the real viewer, on a virtual display (Debian's packages xvfb and libgl1-mesa-dri)."""
    install(session, "-e", ".[napari]", "pyside6-essentials", "pytest")
    # napari and Qt issue warnings
    command = ["pytest", "-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=ignore", "tests/napari"]
    session.run("xvfb-run", "-a", *command, *session.posargs, external=True, env={"OMP_NUM_THREADS": "1"})


@nox.session
def build(session: nox.Session) -> None:
    """Wheel and source distribution: their contents, and the wheel in a new environment."""
    session.install(*CONSTRAINTS, "build", "twine")
    folder = session.create_tmp()
    session.run("python", "-m", "build", "--outdir", folder, ".", silent=True)
    packages = [str(path) for path in Path(folder).glob("stemkit-*")]
    session.run("twine", "check", "--strict", *packages)
    session.run("python", "tests/check_packages.py", *packages)
    wheel = next(path for path in packages if path.endswith(".whl"))
    install(session, f"{wheel}[report]")
    session.chdir(folder)  # so that the installed package is used, not the checkout
    session.run("stemkit", "demo", "-o", "demo", "--overwrite")
    session.run("stemkit", "report", "demo/gold_110_haadf.nc", "-o", "report", "--overwrite")


@nox.session
def links(session: nox.Session) -> None:
    """Links of the documentation: those to the repository, and of other servers, as far as they can be reached."""
    session.run("python", "docs/links.py", *(session.posargs or ["--online"]))


@nox.session
def lint(session: nox.Session) -> None:
    """Style of the code."""
    session.install(*CONSTRAINTS, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Static types."""
    install(session, "-e", ".", "mypy")
    session.run("mypy")
    session.run("mypy", "tests/typing/user_script.py")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, gallery included."""
    install(session, "-e", ".[docs,formats,zarr,dask,crystals,exports,report]")
    if not session.posargs:
        # runs the code blocks of the pages on small images
        session.run("python", "docs/run_blocks.py")
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html", *session.posargs)
