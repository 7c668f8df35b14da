"""Whether the servers that the environment names answer; where one does not, a line that says what to mend."""

from __future__ import annotations

from prefect import get_client
from prefect.settings import PREFECT_API_URL
from sqlalchemy import create_engine

from distillery.address import masked
from distillery.errors import InputError, first_line
from distillery.flows.safe_text import without_secrets

SECONDS = 5


def check_prefect() -> str | None:
    """Address of the Prefect server; None if there is none, so that one starts with each run.

    Raises:
        InputError: It does not answer, or refuses the login.
    """
    address: str | None = PREFECT_API_URL.value()
    if address is None:
        return None
    try:
        with get_client(httpx_settings={"timeout": SECONDS}, sync_client=True) as client:
            client.read_flows(limit=1)
    except Exception as error:
        where = f"at {masked(address)!r}, got:"
        if getattr(getattr(error, "response", None), "status_code", None) == 401:
            problem = f"PREFECT_API_AUTH_STRING: expected the login, user:password, of Prefect {where} 401"
        else:
            problem = f"PREFECT_API_URL: expected a Prefect server that answers {where} {_cause(error)}"
        raise InputError(problem) from error
    return address


def check_database(uri: str) -> None:
    """Returns if a database answers. MLflow itself tries for a hundred seconds before it says what is wrong."""
    create_engine(uri, connect_args={"connect_timeout": SECONDS}).connect().close()


def tracking_problem(uri: str, error: Exception) -> InputError:
    """What to mend when MLflow's store did not answer."""
    code, where = getattr(error, "error_code", None), repr(masked(uri))
    if code == "UNAUTHENTICATED":
        wanted = f"expected a login that MLflow accepts at {where}, got: 401, not authenticated"
        return InputError(f"MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: {wanted}")
    if "Invalid Host header" in str(error):
        wanted = f"expected a name that the server at {where} is told to answer to"
        return InputError(f"MLFLOW_TRACKING_URI: {wanted}; its MLFLOW_SERVER_ALLOWED_HOSTS names others")
    return InputError(f"MLFLOW_TRACKING_URI: expected a store that answers at {where}, got: {_cause(error)}")


def _cause(error: BaseException) -> str:
    """The first line of the innermost error: those around it name addresses at length and cut its reason off."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return without_secrets(first_line(error))[:200]
