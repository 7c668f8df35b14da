"""A message to people when a deployed run fails or its process dies."""

from __future__ import annotations

import html
import json
import os
import urllib.request

from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.utilities.urls import url_for

from distillery.errors import InputError
from distillery.flows.safe_text import without_secrets

VARIABLE = "DISTILLERY_NOTIFY_URL"
SECONDS = 10


def address() -> str | None:
    """Where messages go, from DISTILLERY_NOTIFY_URL: a webhook that takes ``{"text": ...}``; None for nowhere.

    Raises:
        InputError: It is no address.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if not given:
        return None
    if not given.startswith(("http://", "https://")) or len(given.split()) > 1:
        raise InputError(f"{VARIABLE}: expected an address that begins with http:// or https:// and has no spaces")
    return given


def tell(flow: Flow[..., object], flow_run: FlowRun, state: State[object]) -> None:
    """Posts what happened; for on_failure and on_crashed, which find their parameters by these names.

    What goes wrong here is logged on the run by its kind alone: the address often is a secret, and errors repeat it.
    """
    try:
        if (where := address()) is None:
            return
        body = json.dumps({"text": message(flow_run, state)}).encode()
        request = urllib.request.Request(where, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass
    except Exception as error:
        status = getattr(error, "code", "")
        log = flow_run_logger(flow_run, flow)
        log.error("%s: nobody was told of this: %s %s", VARIABLE, type(error).__name__, status)


def message(flow_run: FlowRun, state: State[object]) -> str:
    """The run, the reason, and where to look, without secrets and without signs that a chat would obey."""
    lines = [f"{flow_run.name}: {state.name}. {state.message or ''}"]
    if (page := url_for(flow_run)) is not None:
        lines.append(f"Prefect: {page}")
    error = state.result(raise_on_failure=False)
    text = "\n".join([*lines, *getattr(error, "__notes__", [])])
    return html.escape(without_secrets(text), quote=False)
