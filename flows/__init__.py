"""Order and record: when the stages run (Prefect) and where they are recorded (MLflow). No numerics."""

import atexit
import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Before prefect and mlflow are imported anywhere: nothing is reported to their makers, and a server that starts with a
# flow may take its time on a small machine. What a user has set already stays.
for _name, _value in {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}.items():
    os.environ.setdefault(_name, _value)


def _drop_exit_hooks() -> None:
    # Prefect 3.8's queue thread leaves a hook that asserts in every forked child, so that a DataLoader's workers die.
    hooks = getattr(threading, "_threading_atexits", None)
    if hooks is not None:
        hooks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_exit_hooks)


@contextmanager
def importing() -> Iterator[None]:
    """No search for garbage, which takes seconds while modules come in, and none among them later: they stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


atexit.register(gc.unfreeze)  # extension modules look at exit whether all that they made is gone
