"""The command as a whole: installation, messages, arguments, exit codes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stemkit
from stemkit.cli import VERBS, main
from stemkit.cli.messages import compact, error_line, first_use, with_error, with_option_names
from stemkit.tables import counted

#: A line that announces a step.
PROGRESS = re.compile(r"^stemkit: (\d+/\d+ )?\S+: (reading|enhancing|writing)( \(\d+ s\))?$")


def shell(line, **options):
    """Exit code, stdout and stderr of a line of Bash in which STEMKIT is the command.

    Lines about progress are left out of stderr: whether a step is announced depends on the load of the machine.
    """
    done = subprocess.run(
        ["bash", "-c", line.replace("STEMKIT", f"{sys.executable} -m stemkit")], capture_output=True, **options
    )
    lines = done.stderr.decode(errors="replace").splitlines()
    return done.returncode, done.stdout, [line for line in lines if not PROGRESS.match(line)]


@pytest.fixture
def small(tmp_path):
    """A folder of four small images, as fast as a command can be."""
    for name in "abcd":
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=(32, 32)))
    return tmp_path


@pytest.mark.parametrize("command", [[sys.executable, "-m", "stemkit"], [str(Path(sys.executable).parent / "stemkit")]])
def test_the_installed_command(command):
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"stemkit {stemkit.__version__}"


class TestOutput:
    def test_the_end_of_a_pipe_is_no_failure_of_a_file(self, small):
        code, out, err = shell(f"STEMKIT info {small} | head -1; exit ${{PIPESTATUS[0]}}")
        assert code == 141
        assert out.decode().strip() == str(small / "a.npy")
        assert err == []

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
    def test_a_full_disk_ends_the_command(self, small):
        code, _, err = shell(f"STEMKIT info {small} > /dev/full")
        assert code == 1
        assert err == ["stemkit: can't print results: No space left on device"]

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes as names")
    def test_names_that_are_not_utf_8(self, small):
        name = os.fsdecode(b"\xff\xfe.npy")
        (small / "a.npy").rename(small / name)
        code, out, err = shell(f"cd {small}; STEMKIT info $'\\xff\\xfe.npy'")
        assert (code, err) == (0, [])
        assert out.splitlines()[0] == b"\xff\xfe.npy"
        code, out, err = shell(f"cd {small}; STEMKIT enhance $'\\xff\\xfe.npy' -o out")
        assert code == 0
        assert out.splitlines()[0] == b"out/\xff\xfe_enhanced.tif"
        assert b"\xff\xfe_enhanced.tif" in os.listdir(os.fsencode(small / "out"))

    def test_a_damaged_netcdf_file_leaves_no_traceback(self, small, image):
        whole = stemkit.write(image, small / "whole.nc").read_bytes()
        for i, cut in enumerate((100, len(whole) // 2, len(whole) - 10)):
            (small / f"cut{i}.nc").write_bytes(whole[:cut])
        code, _, err = shell(f"STEMKIT info {small}/cut*.nc")
        assert code == 1
        assert not [line for line in err if "Traceback" in line or "Exception ignored" in line]
        assert err[-1] == "stemkit: 3 of 3 failed"


class TestMessages:
    def test_notes_name_the_file_and_the_command_s_options(self, tmp_path, image, capsys):
        for name in ("a", "b"):
            np.save(tmp_path / f"{name}.npy", -image.values)
        assert main(["info", str(tmp_path)]) == 0
        notes = [line for line in capsys.readouterr().err.splitlines() if "its columns look dark" in line]
        assert len(notes) == 2
        assert all("pass --mode to set it" in note for note in notes)
        assert "a.npy" in notes[0]
        assert "b.npy" in notes[1]

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            ("pass overwrite=True to replace it", "pass --overwrite to replace it"),
            ("pass its name as dataset=, one of 1", "pass its name as --dataset, one of 1"),
            ("stemkit.calibrated(image, pixel_size=...)", "stemkit.calibrated(image, pixel_size=...)"),
            ("NoiseCalibrator(mode='bf')", "NoiseCalibrator(mode='bf')"),
        ],
    )
    def test_parameters_become_options_but_not_in_calls(self, message, expected):
        assert with_option_names(message) == expected

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (ValueError("n must be 1"), "n must be 1"),
            (KeyError("head"), "unexpected KeyError: 'head' (stemkit --debug shows where it occurred)"),
            (OverflowError(34, "out of range"), "the intensities are too large or too small to compute with"),
            (UserWarning("no lattice"), "no lattice"),
            (MemoryError(), "there is not enough memory for this image or these parameters (MemoryError)"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 TB"), "there is not enough memory"),
        ],
    )
    def test_errors_are_one_line(self, error, expected):
        assert error_line(error).startswith(expected)

    def test_an_unexpected_error_is_shown_where_it_occurred_on_request(self, tif, capsys, monkeypatch):
        def fails(*_, **__):
            raise KeyError("lost")

        monkeypatch.setattr("stemkit.cli.info.load", fails)
        assert main(["info", str(tif)]) == 1
        assert "Traceback" not in (err := capsys.readouterr().err)
        assert f"stemkit: {tif}: unexpected KeyError: 'lost'" in err
        assert main(["--debug", "info", str(tif)]) == 1
        assert 'raise KeyError("lost")' in capsys.readouterr().err

    def test_numbers_with_nouns(self):
        assert [counted(n, "vacancy", "vacancies") for n in (0, 1)] == ["0 vacancies", "1 vacancy"]
        assert counted(2, "file") == "2 files"


class TestArguments:
    def test_output_must_be_a_folder(self, tif, capsys):
        assert main(["enhance", str(tif), "-o", str(tif)]) == 1
        assert "-o must name a folder" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--region", "10:20"], "--region: must have the form y0:y1,x0:x1"),
            (["--region", "a:b,c:d"], "--region: must have the form y0:y1,x0:x1"),
            (["--region", "20:10,0:5"], "--region: must have y0 < y1 and x0 < x1"),
            (["--pixel-size", "0"], "--pixel-size: must be a positive number, but is '0'"),
            (["--pixel-size", "inf"], "--pixel-size: must be a positive number, but is 'inf'"),
            (["--pixel-size", "nm"], "--pixel-size: must be a positive number, but is 'nm'"),
        ],
    )
    def test_invalid_arguments_say_their_form(self, tif, arguments, message, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(["info", str(tif), *arguments])
        assert message in capsys.readouterr().err

    def test_region_beyond_the_image(self, tif, capsys):
        assert main(["info", str(tif), "--region", "0:500,0:10"]) == 1
        assert "must lie within the image, 96 by 112 px" in capsys.readouterr().err

    @pytest.mark.parametrize("device", ["mps", "xpu", "vulkan", "meta", "quantum", "cuda:99"])
    @pytest.mark.parametrize("command", ["enhance", "detect", "train"])
    def test_devices_that_can_t_be_used_are_refused(self, tmp_path, tif, command, device, capsys):
        files = [] if command == "train" else [str(tif)]
        assert main([command, *files, "-o", str(tmp_path / "out"), "--device", device]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(("stemkit: --device ", "stemkit: device "))
        assert repr(device) in line
        assert not (tmp_path / "out").exists()

    def test_a_bad_weights_name_lists_the_known_ones(self, tmp_path, tif, capsys):
        assert main(["enhance", str(tif), "-o", str(tmp_path), "--weights", "nothing"]) == 1
        assert "sfin-general" in capsys.readouterr().err

    @pytest.mark.parametrize("content", ["tensor", "list", "text", "nested"])
    def test_weights_that_hold_other_things_are_refused(self, tmp_path, tif, content, capsys):
        import torch

        things = {"tensor": torch.zeros(3), "list": [1, 2], "text": "hello", "nested": {"head_conv.weight": [1]}}
        torch.save(things[content], tmp_path / "weights.pth")
        assert main(["enhance", str(tif), "-o", str(tmp_path), "--weights", str(tmp_path / "weights.pth")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "weights" in line
        assert str(tmp_path / "weights.pth") in line
        assert not (tmp_path / "image_enhanced.tif").exists()


def test_each_verb_has_one_line_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.split("VERB\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == [verb.__name__.split(".")[-1] for verb in VERBS]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.390512, 0.00021, "0.3905(2)"),
        (0.390512, 0.000196, "0.3905(2)"),
        (0.390512, 0.00019, "0.39051(19)"),
        (89.5641, 0.0102, "89.564(10)"),
        (0.3801, 0.00996, "0.380(10)"),
        (176.4, 12.3, "176(12)"),
        (17643.0, 260.0, "17600(300)"),
        (90.0, 0.0, "90"),
        (0.3905, float("nan"), "0.3905"),
    ],
)
def test_errors_in_parentheses(value, error, text):
    assert compact(value, error) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(0.292683, 2.04e-5, "0.292683 ± 0.000020"), (90.2854, 0.0994, "90.285 ± 0.099"), (123.4, 17.0, "123 ± 17")],
)
def test_values_have_the_decimals_of_their_errors(value, error, text):
    assert with_error(value, error).replace("\N{NO-BREAK SPACE}", " ") == text


def test_the_first_use_says_that_it_compiles(tmp_path, monkeypatch):
    monkeypatch.setattr("stemkit.compilation.cache_folder", lambda package: tmp_path)
    (tmp_path / "compiled").mkdir()  # by the import of the functions
    assert "compiling the fits" in first_use()
    (tmp_path / "compiled" / "fit.nbi").touch()
    assert first_use() == ""


def test_without_arguments_the_verbs_are_listed(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    assert {"report", "detect", "demo"} <= set(capsys.readouterr().out.split())
