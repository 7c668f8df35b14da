"""Stage `logits`: raw, in order, and continued chunk by chunk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from safetensors.torch import load_file, save_file
from tiny_chain import Chain

from distillery import memory
from distillery.config import experiment
from distillery.config.experiment import Logits, Recipe, Teacher, Views
from distillery.errors import InputError
from distillery.stages.data.preparation import prepare, read_source
from distillery.stages.data.transfer_set import show
from distillery.stages.logits import logit_cache as stage
from distillery.stages.logits.logit_cache import cache_logits, check_belongs, check_drift, read_logits
from distillery.stages.teachers.member_files import load_member
from distillery.stages.teachers.teacher_training import train_teachers
from distillery.store import Handle, Store

VIEWS = Views(count=3, transforms=[{"name": "noise"}, {"name": "spunge"}], seed=2)
CHUNKS = Logits(dtype="float32", chunk_rows=64)  # five chunks of 60 of the 300 test rows


def given_member(array: np.ndarray, folder: Path, chain: Chain, store: Store) -> Handle:
    """A member with these logits for the source's rows."""
    np.savez(folder / "given.npz", logits=array)
    teacher = Teacher(name="given", family="given", path=str(folder / "given.npz"))
    return train_teachers(["given"], teacher, Recipe(), 0, chain.data, store)[0]


@pytest.mark.parametrize("split", ["train", "val_ensemble", "val_search", "test"])
def test_logits_follow_the_rows_of_the_split(chain: Chain, store: Store, split: str) -> None:
    """reference: the member asked directly, row by row of the split, within half precision."""
    for member in chain.members:
        handle = cache_logits(member, split, chain.data, Logits(), store)
        rows = chain.dataset.splits[split]
        expected = load_member(member, chain.dataset).logits(chain.dataset.inputs[rows], rows)
        found = read_logits(handle)
        assert found.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=2**-11, atol=2**-24)


def test_each_row_keeps_its_place(chain: Chain, store: Store, tmp_path: Path) -> None:
    """golden: logits that are the row's number come back as the numbers of the split's rows, exactly."""
    numbers = np.arange(900, dtype=np.float32)[:, None] * [1, -1, 0]
    member = given_member(numbers, tmp_path, chain, store)
    found = read_logits(cache_logits(member, "test", chain.data, CHUNKS, store))
    assert np.array_equal(found, numbers[chain.dataset.splits["test"]])


def test_single_precision_is_exact(chain: Chain, store: Store) -> None:
    """property: float32 keeps every bit, half precision half the bytes; each is a stage of its own."""
    handles = {
        d: cache_logits(chain.members[0], "test", chain.data, Logits(dtype=d), store) for d in ("float16", "float32")
    }
    rows = chain.dataset.splits["test"]
    expected = load_member(chain.members[0], chain.dataset).logits(chain.dataset.inputs[rows], rows)
    assert np.array_equal(read_logits(handles["float32"]), expected)
    assert np.array_equal(read_logits(handles["float16"]), expected.astype(np.float16).astype(np.float32))
    sizes = [h.file("logits.zarr/c/0/0/0").stat().st_size for h in handles.values()]
    assert sizes == [300 * 3 * 2 + 4, 300 * 3 * 4 + 4]  # four bytes for the CRC


@pytest.fixture
def labelled(chain: Chain, store: Store) -> Handle:
    """The first member's logits of the transfer set in three views, at single precision."""
    return cache_logits(chain.members[0], "transfer", chain.data, CHUNKS, store, views=VIEWS)


def test_the_transfer_set_is_labelled_as_it_is_shown(chain: Chain, labelled: Handle) -> None:
    """reference: item v · N + p is the member's answer to what `show` makes of view v of the training row at place p.

    Without views it is the row itself.
    """
    data, member = chain.dataset, load_member(chain.members[0], chain.dataset)
    rows = data.splits["train"]
    inputs = np.concatenate([show(data, VIEWS, rows, np.full(len(rows), v)) for v in range(3)])
    found = read_logits(labelled)
    assert labelled.metrics == {"rows": 3 * len(rows), "rows_computed": 3 * len(rows)}
    np.testing.assert_allclose(found, member.logits(inputs, np.tile(rows, 3)), atol=1e-5)
    np.testing.assert_allclose(found[: len(rows)], member.logits(data.inputs[rows], rows), atol=1e-5)
    assert np.abs(np.diff(found.reshape(3, -1, 3), axis=0)).max(-1).min() > 0


def test_each_kind_of_views_is_a_stage_of_its_own(chain: Chain, store: Store, labelled: Handle) -> None:
    """property: another seed, number or option of the views is other logits; the same ones are found again."""

    def again(views: Views) -> Handle:
        return cache_logits(chain.members[0], "transfer", chain.data, CHUNKS, store, views=views)

    noise = Views(count=3, transforms=[{"name": "noise"}], seed=2)
    louder = Views(count=3, transforms=[{"name": "noise", "size": 0.4}], seed=2)
    others = [VIEWS.model_copy(update={"seed": 1}), VIEWS.model_copy(update={"count": 2}), noise, louder]
    assert again(VIEWS).cached and again(Views(**VIEWS.model_dump())).path == labelled.path
    assert len({labelled.path, *(again(v).path for v in others)}) == 5


def changed(handle: Handle, folder: Path) -> Handle:
    """A copy of a stage that may be changed."""
    shutil.copytree(handle.path, folder)
    return replace(handle, path=str(folder))


def test_fresh_logits_have_not_drifted(chain: Chain, store: Store, labelled: Handle) -> None:
    """contract: right after labelling the member still answers the same, at half precision as well."""
    assert check_drift(labelled, chain.members[0], chain.data) < 1e-5
    half = cache_logits(chain.members[0], "transfer", chain.data, Logits(), store, views=VIEWS)
    assert 0 < check_drift(half, chain.members[0], chain.data) < stage.DRIFT / 5


def test_the_worst_changed_entry_is_told(chain: Chain, labelled: Handle, tmp_path: Path) -> None:
    """contract: of entries that were changed after labelling the worst is named: the member, its row and its view."""
    copy = changed(labelled, tmp_path / "changed")
    array = zarr.open_array(copy.file("logits.zarr"), mode="r+")
    rows = chain.dataset.splits["train"]
    worse = np.zeros(array.shape)
    worse[1, :, 0] = 10 + rows
    array[:] = array[:] + worse
    pattern = r"logits of member 'mlp-00': row (\d+) in view (\d+) was labelled"
    with pytest.raises(RuntimeError, match=pattern) as caught:
        check_drift(copy, chain.members[0], chain.data)
    worst, view = (int(word) for word in str(caught.value).split("row ")[1].split(" was")[0].split(" in view "))
    assert view == 1 and worst in rows
    away = float(str(caught.value).split("was labelled ")[1].split(" away")[0])
    assert away == pytest.approx(10 + worst, abs=12)  # so that it is this row's change, give or take its logits


def test_a_changed_member_is_found(chain: Chain, labelled: Handle, tmp_path: Path) -> None:
    """contract: logits are refused when the member's weights are others than those that made them."""
    copy = changed(chain.members[0], tmp_path / "member")
    weights = load_file(copy.file("model.safetensors"))
    save_file({k: v * 1.2 for k, v in weights.items()}, copy.file("model.safetensors"))
    with pytest.raises(RuntimeError, match=r"member 'mlp-00': row .* what the member answers now"):
        check_drift(labelled, copy, chain.data)
    with pytest.raises(RuntimeError, match="member 'mlp-01'"):
        check_drift(labelled, chain.members[1], chain.data)


KEPT = {
    "float16": Logits(),
    "float32": Logits(dtype="float32"),
    "int8": Logits(dtype="int8"),
    "top": Logits(top=2),
}


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("size", [1.0, 60.0, 2000.0])
def test_large_logits_do_not_drift_by_being_kept(
    store: Store, tmp_path: Path, tree: dict[str, Any], kept: str, size: float
) -> None:
    """contract: a member that answers the same passes, however large its logits are and whatever keeping them costs."""
    data = experiment.Data(**{**tree["data"], "classes": 8, "informative": 6})
    handle = prepare(data, read_source(data), store)
    array = size * np.random.default_rng(0).normal(size=(900, 8)).astype(np.float32)
    member = given_member(array, tmp_path, SimpleNamespace(data=handle), store)
    labelled = cache_logits(member, "transfer", handle, KEPT[kept], store)
    drift = check_drift(labelled, member, handle)
    assert drift == 0 if kept == "float32" else drift > 0


def test_answers_that_differ_by_a_gpus_rounding_have_not_drifted(chain: Chain, store: Store, tmp_path: Path) -> None:
    """property: a thousandth of large logits is allowed, a twentieth is not; the message says what would help."""
    array = 60 * np.random.default_rng(0).normal(size=(900, 3)).astype(np.float32)
    noise = np.random.default_rng(1).choice([-1, 1], array.shape).astype(np.float32)
    handles = []
    for share in (0.0, 1e-3, 0.05):
        (folder := tmp_path / str(share)).mkdir()
        handles.append(given_member(array * (1 + share * noise), folder, chain, store))
    labelled = cache_logits(handles[0], "transfer", chain.data, Logits(), store)
    assert check_drift(labelled, handles[1], chain.data) > stage.DRIFT
    with pytest.raises(
        RuntimeError, match=r"go back to those that labelled, or remove .* \(and its copy at the remote"
    ):
        check_drift(labelled, handles[2], chain.data)


def test_logits_too_large_for_half_precision_are_told(chain: Chain, store: Store, tmp_path: Path) -> None:
    """contract: member, row and remedy are named; single precision keeps them."""
    array = np.zeros((900, 3), np.float32)
    row = int(chain.dataset.splits["test"][3])
    array[row, 1] = 1e5
    member = given_member(array, tmp_path, chain, store)
    message = f"member 'given': expected logits of at most 65504 .* got 1e\\+05 in row {row}; set logits.dtype: float32"
    with pytest.raises(InputError, match=message):
        cache_logits(member, "test", chain.data, Logits(), store)
    assert read_logits(cache_logits(member, "test", chain.data, CHUNKS, store)).max() == 1e5


def test_members_are_shown_rows_by_the_block(
    chain: Chain, store: Store, labelled: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """reference: the same logits where a block is seven rows; never more than these are asked for at once."""
    expected, asked = read_logits(labelled), []
    real = load_member(chain.members[0], chain.dataset)

    class Counted:
        def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
            asked.append(len(inputs))
            return real.logits(inputs, rows)

    monkeypatch.setattr(memory, "BLOCK_BYTES", 7 * chain.dataset.inputs[:1].nbytes)
    monkeypatch.setattr(stage, "load_member", lambda *_: Counted())
    elsewhere = Store(store.root / "elsewhere")
    found = cache_logits(chain.members[0], "transfer", chain.data, CHUNKS, elsewhere, views=VIEWS)
    np.testing.assert_allclose(read_logits(found), expected, atol=1e-5)
    assert max(asked) == 7 and sum(asked) == 900
    check_drift(found, chain.members[0], chain.data)
    assert max(asked) == 7


def test_a_shift_of_all_classes_is_no_drift(chain: Chain, labelled: Handle, tmp_path: Path) -> None:
    """property: what is compared are log-probabilities, which a constant on all logits of a row does not change."""
    copy = changed(labelled, tmp_path / "shifted")
    array = zarr.open_array(copy.file("logits.zarr"), mode="r+")
    array[:] = array[:] + 3
    assert check_drift(copy, chain.members[0], chain.data) < 1e-5


def test_logits_belong_to_their_data_split_and_views(
    chain: Chain, store: Store, labelled: Handle, tree: dict[str, Any]
) -> None:
    """contract: logits of other data, of another split or of other views are InputErrors that name what differs."""
    check_belongs([labelled, labelled], chain.data, VIEWS)
    other = experiment.Data(**{**tree["data"], "random_state": 4})
    with pytest.raises(InputError, match=f"expected data .*, got {chain.dataset.digest('train', 'unlabeled')}"):
        check_belongs([labelled], prepare(other, read_source(other), store), VIEWS)
    on_test = cache_logits(chain.members[0], "test", chain.data, CHUNKS, store)
    with pytest.raises(InputError, match="logits 'mlp-00-test': expected split transfer, got test"):
        check_belongs([labelled, on_test], chain.data, VIEWS)
    for views in (Views(), VIEWS.model_copy(update={"seed": 1}), VIEWS.model_copy(update={"count": 4})):
        with pytest.raises(InputError, match="logits 'mlp-00-transfer': expected views"):
            check_belongs([labelled], chain.data, views)


def test_logits_of_unlabelled_rows_follow_those_of_train(store: Store, tmp_path: Path) -> None:
    """golden: given logits that are the row's number come back as train's rows, then the unlabelled ones."""
    generator = np.random.default_rng(0)
    for name, count in (("a", 80), ("u", 20)):
        lines = [f"{x:.3f},{'pq'[i % 2]}" for i, x in enumerate(generator.normal(size=count))]
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,y", *lines]))
    paths = {"path": str(tmp_path / "a.csv"), "unlabeled_path": str(tmp_path / "u.csv")}
    table = experiment.Data(source="table", label="y", **paths)
    data = prepare(table, read_source(table), store)
    numbers = np.arange(100, dtype=np.float32)[:, None] * [1, -1]
    member = given_member(numbers, tmp_path, SimpleNamespace(data=data), store)
    with np.load(data.file("splits.npz")) as splits:
        expected = [*splits["train"], *range(80, 100)]
    found = read_logits(cache_logits(member, "transfer", data, CHUNKS, store))
    assert np.array_equal(found, numbers[expected])


def flip_a_byte(chunk: Path) -> None:
    """Damages the middle of a chunk."""
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "gone": Path.unlink,
    "flipped": flip_a_byte,
    "cut short": lambda chunk: chunk.write_bytes(chunk.read_bytes()[:-9]),
    "empty": lambda chunk: chunk.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_only_the_damaged_chunk_is_computed_again(chain: Chain, store: Store, labelled: Handle, damage: str) -> None:
    """resume: of what a killed run left behind, whole chunks are kept and others computed, with the same result."""
    total, expected = 3 * 300, read_logits(labelled)
    assert labelled.metrics == {"rows": total, "rows_computed": total}
    left = Path(labelled.path).rename(Path(labelled.path).with_suffix(".part"))
    DAMAGE[damage](left / "logits.zarr" / "c" / "2" / "1" / "0")
    again = cache_logits(chain.members[0], "transfer", chain.data, CHUNKS, store, views=VIEWS)
    assert again.metrics == {"rows": total, "rows_computed": 60}
    assert np.array_equal(read_logits(again), expected)


def test_a_run_killed_between_chunks_goes_on(chain: Chain, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """resume: two chunks written before the interrupt are not asked for again."""
    asked: list[np.ndarray] = []

    class Interrupted:
        def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
            asked.append(rows)
            if len(asked) == 3:
                raise KeyboardInterrupt
            return np.stack([rows] * 3, axis=1).astype(np.float32)

    monkeypatch.setattr(stage, "load_member", lambda *_: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        cache_logits(chain.members[0], "test", chain.data, CHUNKS, store)
    handle = cache_logits(chain.members[0], "test", chain.data, CHUNKS, store)
    assert handle.metrics["rows_computed"] == 300 - 2 * 60
    rows = chain.dataset.splits["test"]
    assert np.array_equal(read_logits(handle), np.stack([rows] * 3, axis=1))
    assert np.array_equal(np.concatenate([*asked[:2], *asked[3:]]), rows)


def test_logits_that_are_no_numbers_are_told(chain: Chain, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: the error names the member and the row of the source."""
    broken = int(chain.dataset.splits["test"][7])

    class Broken:
        def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
            return np.where(rows[:, None] == broken, np.nan, np.zeros((len(rows), 3)))

    monkeypatch.setattr(stage, "load_member", lambda *_: Broken())
    with pytest.raises(FloatingPointError, match=f"member 'mlp-00': logits of row {broken} are not finite"):
        cache_logits(chain.members[0], "test", chain.data, CHUNKS, store)
