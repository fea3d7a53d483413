"""What is shown where: messages and progress on standard error and in log files, results on standard output."""

import contextlib
import io
import logging
import re

import pytest

from deme.report.terminal import text_table
from deme.system import console, notebook, streams
from deme.system.console import log_to_file, log_to_terminal, logger, print_result, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_terminal():
    """Make standard error a terminal, for the block."""
    return contextlib.redirect_stderr(Terminal())


@pytest.fixture(autouse=True)
def _shown(monkeypatch):
    """The level that other tests see is put back."""
    monkeypatch.setenv(console.LEVEL_VARIABLE, "INFO")
    log_to_terminal("INFO")
    yield
    log_to_terminal("INFO")


def test_what_the_encoding_of_a_stream_lacks_is_spelled_out(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    with streams.tolerant_streams() as lost:
        print_result("1.5 ± 0.1")
        assert lost() is None
    assert out.buffer.getvalue() == b"1.5 \\xb1 0.1\n"


def work(steps=4, outer=None):
    with progress("training", steps, "steps", start=1) as bar:
        for step in range(1, steps):
            bar.advance(loss=f"0.{step}")
            if outer is not None:
                logger.info("step %d", step)


def test_messages_go_to_standard_error_and_results_to_standard_output(capsys):
    logger.info("a message")
    logger.warning("take care")
    logger.debug("a detail")
    print_result("a result")
    out, err = capsys.readouterr()
    assert out == "a result\n"
    assert re.sub(r"\d\d:\d\d:\d\d ", "", err) == "a message\nwarning: take care\n"
    assert re.match(r"\d\d:\d\d:\d\d ", err), "the time, where no terminal shows it"


def test_of_the_details_of_a_step_the_terminal_shows_warnings_and_progress_alone(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", -1)
    with log_to_file(tmp_path / "log.txt"), console.details():
        logger.info("a message")
        logger.warning("take care")
        print_result("a result of the step")
        work()
    print_result("a result")
    out, err = capsys.readouterr()
    assert out == "a result\n"
    assert "a message" not in err
    assert "take care" in err
    assert "training: 4/4 steps" in err
    assert "a message" in (tmp_path / "log.txt").read_text()
    log_to_terminal("DEBUG")
    with console.details():
        logger.info("a message")
        print_result("a result of the step")
    out, err = capsys.readouterr()
    assert "a message" in err
    assert "a result of the step" in out


def test_on_a_terminal_a_message_is_the_plain_text():
    with on_terminal() as terminal:
        logger.info("a message")
    assert terminal.getvalue() == "a message\n"


@pytest.mark.parametrize(("level", "shown"), [("WARNING", "w"), ("INFO", "iw"), ("DEBUG", "diw")])
def test_levels(level, shown, capsys):
    log_to_terminal(level)
    log_to_terminal(level)  # twice: still one line each
    for write, text in ((logger.debug, "d"), (logger.info, "i"), (logger.warning, "w")):
        write(text)
    lines = [line.split(" ")[-1] for line in capsys.readouterr().err.splitlines()]
    assert lines == list(shown)


def test_a_log_file_holds_messages_that_the_terminal_does_not_show(tmp_path, capsys):
    log_to_terminal("WARNING")
    with log_to_file(tmp_path / "run" / "log.txt"):
        logger.info("a message")
        logger.warning("take care")
        logger.debug("a detail")
    logger.warning("after it")
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert [line[20:] for line in lines] == ["a message", "warning: take care", "a detail"]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert "a message" not in capsys.readouterr().err


def test_in_a_program_that_shows_nothing_the_log_file_is_complete(tmp_path):
    handlers, logger.handlers = logger.handlers, []
    logger.setLevel(logging.NOTSET)
    try:
        with log_to_file(tmp_path / "log.txt"):
            logger.info("a message")
    finally:
        logger.handlers = handlers
    assert "a message" in (tmp_path / "log.txt").read_text()
    assert logger.level == logging.NOTSET


def test_progress_without_a_terminal_is_a_line_now_and_then(tmp_path, monkeypatch, capsys):
    work()
    assert capsys.readouterr().err == "", "nothing for a step that takes no time"
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with log_to_file(tmp_path / "log.txt"):
        work()
    err = capsys.readouterr().err
    assert [line[9:].split(",")[0] for line in err.splitlines()] == [
        "training: 2/4 steps", "training: 3/4 steps", "training: 4/4 steps"
    ]  # fmt: skip
    assert re.search(r"/s, [\d.]+ \w+ left, loss 0.1$", err.splitlines()[0])
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 3


def test_progress_of_an_unknown_total(monkeypatch, capsys):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with progress("reading", None, "images") as bar:
        bar.advance(2000)
    assert re.search(r"reading: 2,000 images, \S+/s$", capsys.readouterr().err.strip())


def test_on_a_terminal_progress_is_a_bar_and_messages_stay_above_it(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with on_terminal() as terminal:
        with log_to_file(tmp_path / "log.txt"), progress("outer", 2) as outer:
            work(outer=outer)
            outer.advance()
        text = terminal.getvalue()
        logger.info("after it")
    assert "training" in text
    assert "outer" in text
    assert "1/4" in text, "where the step began"
    assert re.search(r"step 2\b", text)
    assert "training: 4/4 steps" not in text, "no lines beside the bar"
    assert "training: 4/4 steps" in (tmp_path / "log.txt").read_text(), "but in the log file"
    assert terminal.getvalue().endswith("after it\n")


def test_bars_survive_an_error_and_ends_in_another_order():
    with on_terminal() as terminal:
        one, other = progress("one", 2), progress("other", 2)
        one.__enter__().advance()
        other.__enter__().advance()
        one.__exit__(None, None, None)
        other.__exit__(None, None, None)
        with pytest.raises(ValueError, match="a reason"), progress("third", 2):
            raise ValueError("a reason")
        logger.info("after it")
    assert terminal.getvalue().endswith("after it\n")


@pytest.mark.parametrize("how", ["helper", "quiet"])
def test_no_bar_in_helper_processes_and_none_when_quiet(how, tmp_path):
    with on_terminal() as terminal:
        log_to_terminal(None if how == "helper" else "WARNING")
        work()
        with log_to_file(tmp_path / "log.txt"):  # as in a run
            work()
    assert terminal.getvalue() == ""


@pytest.fixture
def line(monkeypatch):
    """The texts that the line of a notebook has shown, in a process that is taken for one."""
    texts = []

    class Handle:
        def update(self, data, raw):
            texts.append(data["text/plain"])

    def display(data, raw, display_id):
        assert display_id  # so that it can be replaced
        texts.append(data["text/plain"])
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(console, "is_notebook", lambda: True)
    monkeypatch.setattr(notebook, "SECONDS_BETWEEN_UPDATES", 0)
    return texts


def test_in_a_notebook_one_line_says_what_is_done_and_warnings_stay(line, capsys):
    with console.one_line("decouple"), console.one_line("train"):
        logger.info("a message")
        work()
        print_result("a result, which the function returns")
        logger.warning("take care")
    logger.info("after it")
    assert line[:2] == ["decouple ...", "decouple: a message"]
    assert all(text.startswith("decouple: training: ") for text in line[2:-1])
    assert "4/4 steps" in line[-2]
    assert "loss 0.3" in line[-2]
    assert re.fullmatch(r"decouple: done in \d+ s", line[-1])
    out, err = capsys.readouterr()
    assert out == ""
    assert re.sub(r"\d\d:\d\d:\d\d ", "", err) == "warning: take care\nafter it\n"


def test_the_line_is_replaced_twice_a_second_at_most(line, monkeypatch):
    monkeypatch.setattr(notebook, "SECONDS_BETWEEN_UPDATES", 1e9)
    with console.one_line("train"):
        work()
    assert len(line) <= 3


def test_the_line_of_what_was_stopped_says_so(line):
    with pytest.raises(KeyboardInterrupt), console.one_line("train"):
        raise KeyboardInterrupt
    assert line[-1].startswith("train: stopped after")
    with console.one_line("merge"):
        pass
    assert line[-1].startswith("merge: done in")


def test_elsewhere_there_is_no_such_line(capsys):
    assert not notebook.is_notebook()
    with console.one_line("train"):
        print_result("a result")
    assert capsys.readouterr().out == "a result\n"


def test_a_table_is_plain_text_in_a_notebook_too(monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    text = text_table(None, ["metric", "value"], [["loss", "0.1"]])
    assert "loss" in text
    assert "\x1b" not in text
