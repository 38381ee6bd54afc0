"""Archives in object stores that refuse, are away, hang, or are full."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from lineside.bus.errors import MissingExtra
from lineside.store.archive.archive import Progress
from lineside.store.archive.errors import (
    ArchiveDenied,
    ArchiveLocationError,
    ArchiveStopped,
    ArchiveUnavailable,
)
from lineside.store.archive.location import ArchiveLocation, open_archive
from lineside.store.archive.objects import remote
from lineside.store.archive.objects.pace import Pace
from lineside.store.archive.objects.paced_proxy import PacedProxy
from lineside.store.archive.source_file import of_folder
from tests.store.archive.conftest import (
    PART,
    RUN,
    contents,
    facts_of,
    make_checkpoint,
    write,
)
from tests.support.http_receiver import DROP, HANG, http_receiver
from tests.support.object_stores import (
    BUCKET,
    KEY_ID,
    SECRET,
    ObjectServer,
    SlowLink,
    rclone_server,
)
from tests.support.ports import free_port
from tests.support.waiting import DEADLINE

URL = f"s3://{BUCKET}/errors"


def _error(code: str) -> bytes:
    # AWS repeats the key id in its answers.
    return f"<Error><Code>{code}</Code><AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId></Error>".encode()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((403, {}, _error("AccessDenied")), ArchiveDenied, "denies access (403 AccessDenied)"),
        ((403, {}, _error("InvalidAccessKeyId")), ArchiveDenied, "InvalidAccessKeyId"),
        ((401, {}, b""), ArchiveDenied, "denies access (401)"),
        ((400, {}, _error("ExpiredToken")), ArchiveDenied, "have expired (400 ExpiredToken)"),
        ((404, {}, _error("NoSuchBucket")), ArchiveDenied, f"container '{BUCKET}'"),
        ((404, {}, b"not here"), ArchiveDenied, "does not exist"),
        ((301, {}, _error("PermanentRedirect")), ArchiveDenied, "set the option region"),
        ((405, {}, b""), ArchiveDenied, "refuses the request (405)"),
        ((200, {}, b"It works!"), ArchiveDenied, "not as an object store"),
        ((507, {}, b""), ArchiveUnavailable, "is full (507)"),
        ((503, {}, _error("SlowDown")), ArchiveUnavailable, "has trouble (503 SlowDown)"),
        ((429, {}, b""), ArchiveUnavailable, "has trouble (429)"),
        (DROP, ArchiveUnavailable, "cannot be reached"),
    ],
)
def test_an_answer_of_the_server_becomes_an_error_that_names_the_remedy_and_no_key(
    answer: Any, error: type[Exception], message: str, options: dict[str, str], tmp_path: Path
) -> None:
    with http_receiver(*[answer] * 20) as server:
        options["endpoint"] = server.url
        archive = open_archive(ArchiveLocation(URL, options))
        for use in (lambda: archive.entries(RUN), lambda: write(archive, _small(tmp_path))):
            with pytest.raises(error) as raised:
                use()
            shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
            assert message in str(raised.value), raised.value
            assert URL in str(raised.value)
            assert KEY_ID not in shown
            assert SECRET not in shown


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        (f"http://127.0.0.1:{free_port()}", "the connection was refused"),
        ("http://no-such-host.invalid", "its host name has no address"),
    ],
    ids=("no server", "no host"),  # the port differs
)
@pytest.mark.parametrize("limit", [0, PART])
def test_a_server_that_cannot_be_reached_is_named(
    endpoint: str, message: str, options: dict[str, str], limit: int
) -> None:
    given = endpoint.replace("://", "://user:secret@")
    location = ArchiveLocation(URL, {**options, "endpoint": given})
    archive = open_archive(location, bytes_per_second=limit)
    with pytest.raises(ArchiveUnavailable, match=f"{URL} at {endpoint} .*{message}"):
        archive.runs()


def test_an_endpoint_without_tls_that_is_named_with_it_is_explained(rclone: ObjectServer) -> None:
    options = rclone.options(f"https://127.0.0.1:{rclone.port}")
    with pytest.raises(ArchiveUnavailable, match="see whether its endpoint is http://"):
        open_archive(ArchiveLocation(URL, options)).runs()


def test_a_wrong_secret_and_an_unknown_bucket_are_denied(
    rclone: ObjectServer, tmp_path: Path
) -> None:
    wrong = {**rclone.options(), "secret_access_key": "another-secret"}
    with pytest.raises(ArchiveDenied, match=r"denies access \(403 SignatureDoesNotMatch\)"):
        write(open_archive(ArchiveLocation(URL, wrong)), _small(tmp_path))
    missing = open_archive(ArchiveLocation("s3://unknown/x", rclone.options()))
    for use in (
        missing.runs,
        lambda: missing.entries(RUN),
        lambda: write(missing, _small(tmp_path)),
    ):
        with pytest.raises(ArchiveDenied, match="there is no bucket or container 'unknown'"):
            use()


def test_without_credentials_the_error_names_the_variables(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with http_receiver(*[(403, {}, b"")] * 20) as server:
        # Where a machine of the cloud would ask for them.
        given = {"endpoint": server.url, "metadata_endpoint": "http://169.254.169.254"}
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name, raising=False)
        archive = open_archive(
            ArchiveLocation(URL, {**given, "region": "x", "proxy_url": server.url})
        )
        with pytest.raises(ArchiveDenied, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
            archive.runs()


def test_the_secrets_are_in_no_repr_and_no_manifest(moto: ObjectServer, tmp_path: Path) -> None:
    location = ArchiveLocation(f"s3://{BUCKET}/secrets", moto.options())
    archive = open_archive(location)
    key, manifest, _ = write(archive, _small(tmp_path))
    shown = f"{location!r} {archive!r} {key!r} {manifest!r} {manifest.to_json()!r}"
    assert SECRET not in shown
    assert KEY_ID not in shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/x", "scheme 'ftp'"),
        ("relative/folder", "expected a folder"),
        ("s3://", "expected a folder"),
        ("s3://bucket/../other", "expected a folder"),
        ("s3://AKIA:secret@bucket/x", "holds no credentials"),
        ("az://container?sig=secret", "holds no credentials"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, message: str) -> None:
    with pytest.raises(ArchiveLocationError, match=message) as raised:
        ArchiveLocation(url)
    assert "secret" not in str(raised.value)
    assert raised.value.exit_code == 2


def test_an_unknown_option_is_refused_by_its_name_and_not_its_value() -> None:
    with pytest.raises(ArchiveLocationError, match="know: secret_acess_key; exp") as raised:
        open_archive(ArchiveLocation(URL, {"secret_acess_key": SECRET}))
    assert SECRET not in str(raised.value)
    with pytest.raises(ArchiveLocationError, match="has no options, found region"):
        open_archive(ArchiveLocation("/archive", {"region": "x"}))


def test_an_object_store_without_its_extra_is_refused_and_a_folder_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(MissingExtra, match=r"pip install 'lineside\[archive\]'"):
        open_archive(ArchiveLocation(URL))
    write(open_archive(ArchiveLocation(str(tmp_path / "archive"))), _small(tmp_path))


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_other_stores_open_with_their_options(scheme: str) -> None:
    own: dict[str, dict[str, str]] = {
        "gs": {"skip_signature": "true"},
        "az": {"account_name": "someone", "account_key": "c2VjcmV0"},
    }
    archive = open_archive(ArchiveLocation(f"{scheme}://bucket/prefix", own[scheme]))
    assert archive.url == f"{scheme}://bucket/prefix"


@pytest.mark.parametrize("kind", ["rclone", "moto"])
def test_a_store_that_cannot_refuse_what_exists_is_used_all_the_same(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: ObjectServer = request.getfixturevalue(kind)
    options = {**server.options(), "conditional_put": "disabled"}
    archive = open_archive(ArchiveLocation(f"s3://{BUCKET}/disabled-{kind}", options))
    _, manifest, _ = write(archive, _small(tmp_path))
    assert archive.find_faults(manifest) == []


def test_a_limit_of_bytes_a_second_holds_finely_over_the_network(
    rclone: ObjectServer, small_parts: None, tmp_path: Path
) -> None:
    limit = 4 * PART
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5", size=6 * PART)
    seen: list[tuple[float, int]] = []
    with SlowLink(rclone.port) as link:
        archive = open_archive(
            ArchiveLocation(f"s3://{BUCKET}/paced", rclone.options(link.endpoint)),
            bytes_per_second=limit,
        )
        archive.write_checkpoint(
            facts_of(checkpoint),
            of_folder(checkpoint),
            lambda progress: seen.append((time.monotonic(), link.passed)),
            threading.Event(),
        )
    # The last progress is reported at once.
    pairs = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(seen[:-1])]
    assert len(pairs) >= 2
    assert all(sent <= limit * (seconds + 0.6) for seconds, sent in pairs), pairs
    total, took = seen[-1][1] - seen[0][1], seen[-1][0] - seen[0][0]
    assert total <= limit * (took + 0.6)


@contextmanager
def _next_proxy() -> Iterator[tuple[PacedProxy, str]]:
    """An HTTP proxy that others go through, and its URL."""
    proxy = PacedProxy(Pace(0))
    ready: Queue[tuple[str, Callable[[], object]]] = Queue()

    async def serve() -> None:
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with proxy.serve() as url:
            ready.put((url, lambda: loop.call_soon_threadsafe(end.set)))
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    url, end = ready.get(timeout=DEADLINE)
    try:
        yield proxy, url
    finally:
        end()
        thread.join()


@pytest.mark.parametrize("tls", [False, True])
def test_a_limit_holds_under_tls_and_through_another_proxy(
    tls: bool, small_parts: None, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5", size=4 * PART)
    with rclone_server(tmp_path, tls=tls) as rclone, _next_proxy() as (proxy, url):
        options = {**rclone.server.options(), "proxy_url": url}
        options["allow_invalid_certificates"] = "true"
        archive = open_archive(ArchiveLocation(URL, options), bytes_per_second=8 * PART)
        started = time.monotonic()
        _, manifest, written = write(archive, checkpoint)
        assert time.monotonic() - started > 0.9 * written.sent / (8 * PART) - 0.2
        assert proxy.bytes_sent > written.sent
        assert archive.find_faults(manifest) == []


def test_the_proxy_of_the_limit_serves_no_other_process(rclone: ObjectServer) -> None:
    with _next_proxy() as (proxy, url):
        for wrong in (url.partition("@")[2], url.partition("//")[2][1:]):
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({"http": f"http://{wrong}"})
            )
            with pytest.raises(urllib.error.HTTPError, match="407"):
                opener.open(rclone.endpoint, timeout=DEADLINE)
        assert proxy.bytes_sent == 0


def test_progress_grows_while_a_part_is_under_way(
    rclone: ObjectServer, tmp_path: Path, small_parts: None
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5", size=2 * PART)
    seen: list[Progress] = []
    archive = open_archive(
        ArchiveLocation(f"s3://{BUCKET}/progress", rclone.options()),
        bytes_per_second=2 * PART,
        parallel=1,
    )
    archive.write_checkpoint(
        facts_of(checkpoint), of_folder(checkpoint), seen.append, threading.Event()
    )
    sent = [progress.sent for progress in seen]
    assert sent == sorted(sent)
    assert any(0 < value % PART < PART - 1000 for value in sent)
    assert sent[-1] == sum(map(len, contents(checkpoint).values()))


def test_a_stop_ends_a_write_over_a_slow_network_at_once(
    rclone: ObjectServer, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5", size=32 << 20)
    stop = threading.Event()
    with SlowLink(rclone.port, bytes_per_second=100_000) as link:
        archive = open_archive(
            ArchiveLocation(f"s3://{BUCKET}/stopped", rclone.options(link.endpoint))
        )
        stopped_at: list[float] = []

        def stop_once_sent(progress: Progress) -> None:
            if link.passed and not stopped_at:
                stopped_at.append(time.monotonic())
                stop.set()

        with pytest.raises(ArchiveStopped):
            archive.write_checkpoint(
                facts_of(checkpoint), of_folder(checkpoint), stop_once_sent, stop
            )
        # The rest would take five minutes.
        assert time.monotonic() - stopped_at[0] < DEADLINE / 10
    archive = open_archive(ArchiveLocation(f"s3://{BUCKET}/stopped", rclone.options()))
    assert archive.entries(RUN) == []


def test_a_server_that_hangs_is_given_up_and_waited_for_longer_the_next_time(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_FIRST_PATIENCE", 0.2)
    with http_receiver(HANG, HANG) as server:
        archive = open_archive(ArchiveLocation(URL, {**options, "endpoint": server.url}))
        for seconds in ("0.2", "0.4"):
            with pytest.raises(ArchiveUnavailable, match=rf"did not answer within {seconds} s"):
                archive.runs()


def test_a_network_that_was_cut_lets_the_next_write_send_only_the_rest(
    rclone: ObjectServer, small_parts: None, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5", size=20 * PART)
    with SlowLink(rclone.port, bytes_per_second=6 * PART) as link:
        location = ArchiveLocation(f"s3://{BUCKET}/cut", rclone.options(link.endpoint))
        sent: list[int] = []

        def cut_half_way(progress: Progress) -> None:
            sent.append(progress.sent)
            if progress.done > progress.total // 3:
                link.cut()

        with pytest.raises(ArchiveUnavailable):
            open_archive(location).write_checkpoint(
                facts_of(checkpoint), of_folder(checkpoint), cut_half_way, threading.Event()
            )
        assert open_archive(ArchiveLocation(location.url, rclone.options())).entries(RUN) == []
        link.bytes_per_second = 0
        link.restore()
        _, manifest, written = write(open_archive(location), checkpoint)
        assert written.sent <= written.bytes - sent[-1]
        assert open_archive(location).find_faults(manifest) == []


def test_a_full_disk_under_the_object_store_is_an_outage_and_leaves_no_checkpoint(
    small_disk: Callable[[str, int], Path], small_parts: None, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5", size=4 << 20)
    with rclone_server(small_disk("server", 2 << 20)) as rclone:
        archive = open_archive(ArchiveLocation(URL, rclone.server.options()))
        with pytest.raises(ArchiveUnavailable, match=re.escape(URL)):
            write(archive, checkpoint)
        assert archive.entries(RUN) == []


def _small(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does not ask again by itself, which takes it a second."""
    monkeypatch.setitem(remote._RETRY, "max_retries", 0)


@pytest.fixture
def options(no_retries: None) -> dict[str, str]:
    return {"region": "x", "access_key_id": KEY_ID, "secret_access_key": SECRET}
