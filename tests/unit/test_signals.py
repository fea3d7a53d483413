import os
import signal

import pytest

from deme.system import signals
from deme.system.errors import Interrupted, Preempted


@pytest.mark.parametrize(
    ("signum", "error"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Preempted)]
)
def test_no_except_exception_swallows_a_stop(signum, error):
    with signals.handled(), pytest.raises(error):  # noqa: PT012
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

    from deme.cli import app
    from deme.system.errors import BadConfig

    def hidden(words):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise BadConfig("failed while it was cleaning up")

    monkeypatch.setattr(app, "_dispatch", hidden)
    assert app.main([]) == 130
    assert "interrupted" in capsys.readouterr().err
    monkeypatch.setattr(app, "_dispatch", lambda words: (_ for _ in ()).throw(BadConfig("a slip")))
    assert app.main([]) == 2
