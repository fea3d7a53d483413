import os
import signal

import pytest

from deme import signals
from deme.errors import Interrupted, Preempted


@pytest.mark.parametrize(("signum", "error"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Preempted)])
def test_no_except_exception_swallows_a_stop(signum, error):
    with signals.handled(), pytest.raises(error, match="the same command goes on from here"):  # noqa: PT012
        try:
            os.kill(os.getpid(), signum)
        except Exception:
            pytest.fail("swallowed")


def test_a_signal_waits_for_the_next_poll_and_a_second_one_does_not():
    with signals.handled(), signals.graceful():
        os.kill(os.getpid(), signal.SIGTERM)
        assert isinstance(signals.pending(), Preempted)
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    assert signals.pending() is None


def test_a_stop_that_a_librarys_cleanup_hid_is_still_a_stop(monkeypatch, capsys):
    import signal

    from deme import cli
    from deme.errors import BadConfig

    def hidden(words):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise BadConfig("failed while it was cleaning up")

    monkeypatch.setattr(cli, "_dispatch", hidden)
    assert cli.main([]) == 130
    assert "interrupted" in capsys.readouterr().err
    monkeypatch.setattr(cli, "_dispatch", lambda words: (_ for _ in ()).throw(BadConfig("a slip")))
    assert cli.main([]) == 2
