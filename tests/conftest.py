import gc
import os
import signal
import tempfile

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup; tests send it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.environ["OMP_NUM_THREADS"] = "1"
if "PYTEST_XDIST_WORKER" not in os.environ:  # the processes of one pytest share a cache
    CACHE = tempfile.TemporaryDirectory(prefix="deme-cache-")
    os.environ["DEME_CACHE"] = CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("TQDM_DISABLE", "1")

import logging
import warnings

import pytest

# torch's own deprecations, raised while these import
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers  # noqa: F401
    import pytorch_lightning  # noqa: F401
    import torch

from deme.system.console import log_to_terminal

torch.set_num_threads(1)
gc.freeze()  # the garbage collector need not visit what is imported
log_to_terminal("INFO")  # as the command line does, for tests that call a command's function


def pytest_unconfigure():
    gc.unfreeze()


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """The test runs in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def messages():
    """The messages that the test has logged so far."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logging.getLogger("deme").addHandler(handler)
    yield found
    logging.getLogger("deme").removeHandler(handler)
