"""Pairs of versions install cleanly on which flows do not start, schedules do nothing, or DataLoaders die."""

import time
from datetime import timedelta

import torch
from prefect import flow, get_client, task
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import IntervalSchedule
from torch.utils.data import DataLoader, TensorDataset


@task
def _double(x: int) -> int:
    return 2 * x


@flow
def _doubling(x: int) -> int:
    return _double.submit(x).result()


@flow
def _loading() -> int:
    loader = DataLoader(TensorDataset(torch.arange(8)), batch_size=4, num_workers=1)
    return sum(int(batch.sum()) for (batch,) in loader)


def test_a_flow_runs(prefect_server: str) -> None:
    """Reference: two times three. FastAPI above 0.150 stops every flow of Prefect 3.8."""
    assert _doubling(3) == 6


def test_a_dataloader_with_workers_lives_inside_a_flow(prefect_server: str) -> None:
    """Reference: 0 + ... + 7. Prefect 3.8 kills forked children unless its exit hook is dropped."""
    assert _loading() == 28


def test_a_schedule_creates_runs(prefect_server: str) -> None:
    """Contract of the scheduler: SQLAlchemy 2.1 makes it fail in silence."""
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(_doubling)
        schedule = {"schedule": IntervalSchedule(interval=timedelta(hours=1)), "active": True}
        client.create_deployment(flow_id, "hourly", schedules=[schedule], parameters={"x": 1})
        wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
        for _ in range(240):
            if client.read_flow_runs(flow_run_filter=wanted):
                return
            time.sleep(0.5)
    raise AssertionError("no scheduled run appeared within two minutes")
