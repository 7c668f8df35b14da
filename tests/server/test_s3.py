"""Stages shared over the S3 protocol: with a server of moto's, which asks for a login, and s3fs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machine import ROOT, free_port

from distillery.errors import InputError
from distillery.store import Handle, Store
from distillery.store.remote import Remote

pytestmark = pytest.mark.server
pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[s3]'")
pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")

RIGHTS = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


@pytest.fixture(scope="module")
def login() -> Iterator[dict[str, str]]:
    """The environment of a user of an S3 server, with one bucket, `stages`."""
    import boto3

    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    given = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "4"}
    server = subprocess.Popen(command, env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(address, server)
        first = {"endpoint_url": address, "aws_access_key_id": "x", "aws_secret_access_key": "x"}
        iam = boto3.client("iam", region_name="us-east-1", **first)
        iam.create_user(UserName="distillery")
        key = iam.create_access_key(UserName="distillery")["AccessKey"]
        iam.put_user_policy(UserName="distillery", PolicyName="all", PolicyDocument=json.dumps(RIGHTS))
        boto3.client("s3", region_name="us-east-1", **first).create_bucket(Bucket="stages")
        yield {
            "AWS_ENDPOINT_URL": address,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        }
    finally:
        server.kill()
        server.wait()


def _wait(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert server.poll() is None, "the S3 server did not start"
        try:
            with urllib.request.urlopen(f"{address}/moto-api/", timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    raise AssertionError("the S3 server did not answer")


@pytest.fixture
def storage(login: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The login, which a test may change; fsspec's connections are made anew."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for name, value in login.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def build(work: Path) -> dict[str, Any]:
    """A stage of 20 MB, which S3 takes in one part, in a folder, an empty file and many small ones."""
    (work / "deep" / "er").mkdir(parents=True, exist_ok=True)
    (work / "deep" / "er" / "large file").write_bytes(os.urandom(1 << 20) * 20)
    (work / "empty").touch()
    for number in range(40):
        (work / f"{number}.json").write_text(str(number))
    return {"files": 42}


def never(work: Path) -> dict[str, Any]:
    """A build that must not be."""
    raise AssertionError("built although it was there")


def content(handle: Handle) -> dict[str, bytes]:
    """Every file of a stage."""
    return {str(p.relative_to(handle.path)): p.read_bytes() for p in Path(handle.path).rglob("*") if p.is_file()}


def test_machines_share_stages_over_s3(storage: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """property: what one built the other fetches, byte for byte; damage is replaced."""
    import s3fs

    remote = Remote("s3://stages/team one")
    remote.check()
    one, other, third = (Store(tmp_path / name, remote=remote) for name in ("one", "other", "third"))
    made = one.stage("part", "mine", 1, build)
    found = other.stage("part", "theirs", 1, never)
    files = [
        {p.relative_to(h.path): p.read_bytes() for p in Path(h.path).rglob("*") if p.is_file()} for h in (made, found)
    ]
    assert files[0] == files[1] and len(files[0]) == 43 and found.metrics == {"files": 42}

    fs = s3fs.S3FileSystem()
    lying = fs.find("stages/team one/part")
    assert len(lying) == 43 and not fs.exists("stages/team one/.check")
    fs.pipe_file(next(path for path in lying if path.endswith("large file")), b"short")
    again = third.stage("part", "n", 1, build)
    assert not again.cached and Store(tmp_path / "last", remote=remote).stage("part", "n", 1, never).cached


SENDER = """
import sys
from pathlib import Path
from distillery.store.remote import Remote
Remote(sys.argv[1]).send("part", Path(sys.argv[2]))
"""


def test_a_manifest_is_seen_at_once(storage: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """contract: a process that was told that a stage is not there sees it as soon as another one has sent it."""
    remote = Remote("s3://stages/later")
    made = Store(tmp_path).stage("part", "n", 1, build)
    assert not remote.holds("part", made.fingerprint)
    subprocess.run([sys.executable, "-c", SENDER, remote.address, made.path], check=True, cwd=ROOT)
    assert remote.holds("part", made.fingerprint)
    remote.discard("part", made.fingerprint)
    assert not remote.holds("part", made.fingerprint)


WRONG = {
    "a login that is refused": ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "s3://stages/x", "signature"),
    "a user that is not known": ({"AWS_ACCESS_KEY_ID": "AKIANOBODY"}, "s3://stages/x", "Access Key Id"),
    "no login": ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "s3://stages/x", "credentials"),
    "a bucket that is not there": ({}, "s3://nowhere/x", "bucket"),
    "nobody who answers": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "s3://stages/x", "http://127.0.0.1:1"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_in_one_line(wrong: str, storage: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """contract: the line names the setting and the reason."""
    changes, address, reason = WRONG[wrong]
    for name, value in changes.items():
        storage.setenv(name, value)
    storage.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=f"^DISTILLERY_REMOTE: .*{reason}") as caught:
        Remote(address).check()
    assert "\n" not in str(caught.value)
