"""Progress of a command."""

import io
import time

import pytest

from stemkit.cli import progress
from stemkit.cli.progress import OutputError, Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def quick(monkeypatch):
    """Times of a hundredth."""
    monkeypatch.setattr(progress, "TICK_INTERVAL", 0.005)
    monkeypatch.setattr(progress, "MAX_QUIET_TIME", 0.05)
    monkeypatch.setattr(progress, "REMINDER_INTERVAL", 0.1)


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def test_lines_for_long_steps_where_there_is_no_terminal(quick, monkeypatch):
    err = io.StringIO()
    monkeypatch.setattr("sys.stderr", err)
    with Progress(2) as shown:
        shown.step("a.tif: reading")
        shown.step("a.tif: enhancing")
        wait_for(lambda: err.getvalue().count("\n") >= 2)
        shown.advance()
        shown.step("b.tif: enhancing")
        wait_for(lambda: "2/2" in err.getvalue())
    lines = err.getvalue().splitlines()
    assert lines[0] == "stemkit: 1/2 a.tif: enhancing"
    assert lines[1].startswith("stemkit: 1/2 a.tif: enhancing (")
    assert "stemkit: 2/2 b.tif: enhancing" in lines


def test_quick_steps_are_silent_where_there_is_no_terminal(monkeypatch):
    err = io.StringIO()
    monkeypatch.setattr("sys.stderr", err)
    with Progress(2) as shown:
        shown.step("a.tif: reading")
        shown.advance()
    assert err.getvalue() == ""


@pytest.mark.parametrize(("total", "expected"), [(1, "[00:00] a.tif: enhancing"), (3, " 33%|")])
def test_a_bar_on_a_terminal_is_removed_at_the_end(quick, monkeypatch, total, expected):
    err, out = Terminal(), io.StringIO()
    monkeypatch.setattr("sys.stderr", err)
    monkeypatch.setattr("sys.stdout", out)
    with Progress(total) as shown:
        shown.step("a.tif: enhancing")
        wait_for(lambda: "a.tif: enhancing" in err.getvalue())
        shown.say("a_enhanced.tif")
        shown.advance()
        shown.step("b.tif: reading")
    assert expected in err.getvalue()
    assert out.getvalue() == "a_enhanced.tif\n"
    assert err.getvalue().rsplit("\r", 2)[1].strip() == ""


@pytest.mark.parametrize(("error", "kind"), [(BrokenPipeError(), BrokenPipeError), (OSError(28, "full"), OutputError)])
def test_errors_of_the_output_are_distinguished_from_those_of_files(monkeypatch, error, kind):
    class Broken(io.StringIO):
        def write(self, text):
            raise error

    monkeypatch.setattr("sys.stdout", Broken())
    with Progress() as shown, pytest.raises(kind):
        shown.say("a result")
