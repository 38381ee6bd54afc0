"""The checks of ``lineside doctor``: each reports a state and a remedy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lineside.bus.auth.key_file import KeyFile
from lineside.bus.broker.storage import sqlite_errors
from lineside.bus.client.reader import Reader
from lineside.bus.errors import (
    JournalDamaged,
    KeyRefused,
    LinesideError,
    MissingExtra,
    ReaderDenied,
)
from lineside.bus.filesystem import network_filesystem_type
from lineside.bus.local_stack import read_status
from lineside.bus.protocol import addresses
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import LIVE
from lineside.bus.settings import DASHBOARD_PORT, Settings
from lineside.bus.wording import agree, plural
from lineside.cli.health import subscriber
from lineside.cli.run_lookup import has_store
from lineside.cli.stack.home_lock import is_held
from lineside.cli.stack.http_probe import http_problem
from lineside.cli.stack.packages import REQUIRED_PACKAGES
from lineside.cli.stack.supervisor import times_text
from lineside.dashboard.formatting import size
from lineside.emitter.spool import backlog
from lineside.emitter.spool.backlog import StreamBacklog
from lineside.emitter.spool.sidecar_process import LOG_NAME, ShipperStatus
from lineside.subscribers.uploader.dead_letters import refused_batches

OK, WARN, FAIL = "ok", "warn", "fail"
BROKER_TIMEOUT_SECONDS = 2.0
CATCH_UP_SECONDS = 3.0
LOW_DISK_BYTES, CRITICAL_DISK_BYTES = 2 << 30, 256 << 20  # bytes free on a disk
MAX_CLOCK_SKEW_SECONDS = 5.0
_NO_STREAMS = ("_none/control/_",)  # roles that may read any run may read it; no event matches


@dataclass(frozen=True)
class Check:
    """The ``state`` of a ``subject``: ok, warn or fail. ``hint`` is the remedy if it is not ok."""

    subject: str
    state: str
    detail: str
    hint: str = ""


def run_checks(settings: Settings) -> Iterator[Check]:
    """Every check in turn; takes some seconds where a process does not answer."""
    yield _python()
    yield from _packages()
    yield _home(settings.home)
    yield from _file_systems(settings)
    yield from _disks(settings)
    yield _clock(settings.home)
    yield from _bus(settings)
    yield from _spool(settings)
    if not _is_remote(settings):
        yield _dashboard(settings)
        yield from _process(settings, "callback-host")
        yield from _process(settings, "archiver")
    yield from _uploads(settings.home)


def _python() -> Check:
    detail = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if platform.system() != "Linux":
        return Check("python", WARN, detail, "Lineside supports Linux only")
    return Check("python", OK, detail)


def _packages() -> Iterator[Check]:
    detail = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("lineside", "pyzmq", "msgpack")
    )
    yield Check("packages", OK, detail)
    missing = [name for name in REQUIRED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        yield Check(
            "server packages",
            WARN,
            f"{', '.join(missing)} not installed: enough for training, not for `lineside up`",
            "pip install 'lineside[server]' where the stack is to run",
        )
    try:
        found = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        return
    major, minor = (int(part) for part in found.split(".")[:2])
    if (4, 56) <= (major, minor) < (6, 0):
        yield Check("transformers", OK, f"transformers {found}")
    else:
        yield Check(
            "transformers",
            WARN,
            f"transformers {found} is not supported",
            "install transformers 4.56 or newer, below 6",
        )


def _home(home: Path) -> Check:
    existing = _nearest_existing(home)
    if not os.access(existing, os.W_OK | os.X_OK) or not existing.is_dir():
        hint = "set LINESIDE_HOME to a folder you may write"
        return Check("home", FAIL, f"{existing} is not writable", hint)
    if existing != home:
        return Check("home", OK, f"{home} will be made on first use")
    if stat.S_IMODE(home.stat().st_mode) & 0o077:
        return Check(
            "home", WARN, f"{home} is open to other users of this machine", f"chmod 700 {home}"
        )
    return Check("home", OK, f"{home} is writable and private")


def _file_systems(settings: Settings) -> Iterator[Check]:
    for subject, path in (("home", settings.home), ("spool", settings.spool)):
        kind = network_filesystem_type(_nearest_existing(path))
        if kind:
            yield Check(
                f"{subject} file system",
                WARN,
                f"{path} is on {kind}, where sockets, locks and SQLite are not reliable",
                f"set LINESIDE_{subject.upper()} to a local disk",
            )


def _disks(settings: Settings) -> Iterator[Check]:
    seen = set()
    for path in (settings.home, settings.spool):
        existing = _nearest_existing(path)
        device = existing.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(existing).free
        state = FAIL if free < CRITICAL_DISK_BYTES else WARN if free < LOW_DISK_BYTES else OK
        hint = "free some space: a full disk costs events" if state != OK else ""
        yield Check("disk", state, f"{size(free)} free under {path}", hint)


def _clock(home: Path) -> Check:
    """Compare the clock with the file system's, on a shared one another machine's."""
    try:
        with tempfile.NamedTemporaryFile(dir=_nearest_existing(home)) as file:
            file.write(b"x")
            file.flush()
            skew = os.fstat(file.fileno()).st_mtime - time.time()
    except OSError as error:
        return Check("clock", WARN, f"could not be compared: {error.strerror}")
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if abs(skew) > MAX_CLOCK_SKEW_SECONDS:
        hint = "synchronise the clocks (NTP): times of events will not fit together"
        return Check("clock", WARN, f"{now}, {skew:+.0f} s off the file server's", hint)
    return Check("clock", OK, now)


def _bus(settings: Settings) -> Iterator[Check]:
    try:
        key = addresses.parse(settings.broker).key
        name = KeyFile.read(key).name if key else ""
    except LinesideError as error:
        yield Check("broker", FAIL, str(error))
        return
    journal, head = "", 0
    with_key = f", with key {name!r}" if name else ""
    try:
        with Reader(settings.broker, start=LIVE, streams=_NO_STREAMS) as reader:
            reader.wait_connected(BROKER_TIMEOUT_SECONDS)
            journal, head = reader.journal or "", reader.head
    except ReaderDenied as error:
        detail = f"answers at {settings.broker}{with_key}, which may not read: {error}"
        yield Check("broker", OK, detail)
    except KeyRefused as error:
        hint = "get a key from its administrator (`lineside keys new`), and set LINESIDE_KEY to it"
        yield Check("broker", FAIL, str(error), hint)
    except LinesideError as error:
        yield Check(
            "broker",
            FAIL,
            f"none answers at {settings.broker} ({type(error).__name__})",
            "start it with `lineside up`; until then events wait in the spool"
            if not name
            else "check that it runs there with --listen and that no firewall is in between",
        )
        yield from _journal(settings.journal)
    else:
        detail = f"answers at {settings.broker}{with_key}, its journal is at {head:,}"
        yield Check("broker", OK, detail)
    yield from _store(settings, journal, head)


def _journal(path: Path) -> Iterator[Check]:
    """A damaged journal, which keeps a broker from starting."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as journal:
            journal.execute("SELECT count(*), max(offset) FROM entries").fetchall()
            journal.execute("SELECT count(*) FROM streams").fetchall()
    except sqlite3.Error as error:
        translated = sqlite_errors.translate(error, path)
        if isinstance(translated, JournalDamaged):
            hint = f"mv {path} {path}.damaged, then start `lineside up` again"
            yield Check("journal", FAIL, str(translated), hint)


def _is_remote(settings: Settings) -> bool:
    """Whether broker, store and page run on another machine."""
    return settings.broker.startswith("tcp://") and not has_store(settings)


def _store(settings: Settings, journal: str, head: int) -> Iterator[Check]:
    if _is_remote(settings):
        yield Check("store", OK, "on the broker's machine, and so is the page")
        return
    try:
        from lineside.store.database import sqlite
        from lineside.store.database.engine import open_store, sqlite_path
        from lineside.store.history.history import History
        from lineside.store.history.unclaimed import EXPLANATION, unclaimed_runs
        from lineside.store.recording.writer import Writer

        file = sqlite_path(settings.store)
        for aside in sqlite.files_set_aside(file) if file else ():
            detail = (
                f"a damaged one was set aside as {aside}; what the journal held is in a new one"
            )
            hint = "delete that file once you need nothing of it"
            yield Check("damaged store", WARN, detail, hint)
        engine = open_store(settings.store)
        newest = History(engine).runs(limit=1).items
        unclaimed = unclaimed_runs(engine)
    except LinesideError as error:
        # Without its packages this environment only trains, and the stack runs in another.
        is_broken = journal and not isinstance(error, MissingExtra)
        yield Check("store", FAIL if is_broken else WARN, str(error))
        return
    detail = f"readable, newest run {newest[0].id}" if newest else "readable, no runs yet"
    yield Check("store", OK, detail)
    for run, producers in unclaimed.items():
        detail = f"its events come from {', '.join(producers)}"
        yield Check(f"run {run}", WARN, detail, EXPLANATION)
    if not journal:
        return
    writer, until = Writer(engine), time.monotonic() + CATCH_UP_SECONDS
    while (lag := head - writer.offset(journal)) > 0 and time.monotonic() < until:
        time.sleep(0.1)
    if lag > 0:
        from lineside.dashboard.backend.transit_reader import read_recorder_lag

        recorder_lag = read_recorder_lag(writer, settings.broker)
        amount = recorder_lag.amount if recorder_lag.is_known else plural(lag, "journal entry")
        yield Check(
            "recorder",
            FAIL,
            f"{amount} behind the broker",
            f"check that it runs (`lineside up`, `lineside recorder`), and its log in "
            f"{settings.home / 'logs'}",
        )
    else:
        yield Check("recorder", OK, "has every journal entry of the broker")


def _spool(settings: Settings) -> Iterator[Check]:
    spool = settings.spool
    try:
        shipper, before = ShipperStatus.read(spool), _waiting(spool)
        waiting, until = before, time.monotonic() + CATCH_UP_SECONDS
        while shipper and _none_confirmed(before, waiting) and time.monotonic() < until:
            time.sleep(0.2)
            waiting = _waiting(spool)
        shipper = ShipperStatus.read(spool)
    except OSError as error:
        yield Check("spool", FAIL, f"{spool} cannot be read: {error.strerror}")
        return
    log = spool / LOG_NAME
    if shipper is not None:
        broker = f" to {shipper.broker.partition('?')[0]}" if shipper.broker else ""
        who = f"process {shipper.pid}" if shipper.pid > 0 else "one of another container or machine"
        detail = f"{who} ships {spool}{broker}"
        if shipper.problem:
            yield Check("shipper", WARN, f"{detail}: {shipper.problem}", f"its log is {log}")
        else:
            yield Check("shipper", OK, detail)
    left = sum(one.left for one in waiting.values())
    streams = plural(len(waiting), "stream")
    detail = f"{plural(left, 'event')} of {streams} {agree(left, 'waits')} in {spool}"
    if not waiting:
        yield Check("spool", OK, "no event waits")
    elif shipper is None:
        hint = f"lineside ship --spool {spool}"
        yield Check("spool", WARN, f"{detail}, and no shipper runs", hint)
    elif _none_confirmed(before, waiting):
        detail = f"{detail}, and none was confirmed in {CATCH_UP_SECONDS:g} s"
        yield Check("spool", WARN, detail, f"see the broker above, and {log}")
    else:
        yield Check("spool", OK, detail)


def _waiting(spool: Path) -> dict[Stream, StreamBacklog]:
    return {stream: one for stream, one in backlog.unconfirmed(spool).items() if one.left}


def _none_confirmed(before: dict[Stream, StreamBacklog], now: dict[Stream, StreamBacklog]) -> bool:
    """Whether events waited ``before`` and of no stream one was confirmed since."""
    return bool(before) and all(
        stream in now and now[stream].acked == one.acked for stream, one in before.items()
    )


def _dashboard(settings: Settings) -> Check:
    up_status = read_status(settings.home) if is_held(settings.home) else None
    if up_status and "dashboard" not in up_status:
        return Check("dashboard", OK, "disabled in the configuration of `lineside up`")
    url = up_status["dashboard"] if up_status else f"http://127.0.0.1:{DASHBOARD_PORT}"
    problem = http_problem(f"{url}/readyz")
    if problem:
        return Check("dashboard", WARN, problem, "start it with `lineside up`")
    restarts = {name: n for name, n in (up_status or {}).get("restarts", {}).items() if n}
    if restarts:
        detail = ", ".join(f"the {name} {times_text(n)}" for name, n in restarts.items())
        hint = f"see the logs in {settings.home / 'logs'}"
        return Check("dashboard", WARN, f"{url} is ready, but `up` restarted {detail}", hint)
    remark = "" if up_status else ", though not by an `up` on this home"
    return Check("dashboard", OK, f"{url} is ready{remark}")


def _uploads(home: Path) -> Iterator[Check]:
    """Batches that the receivers of uploads refused."""
    for name, files in refused_batches(home).items():
        yield Check(
            f"upload {name}",
            WARN,
            f"its receiver refused {plural(len(files), 'batch')}, put aside in {files[0].parent}",
            f"mend what the page of the run names, then `lineside uploader {name} --resend`",
        )


def _process(settings: Settings, name: str) -> Iterator[Check]:
    """How a process is that the stack may have."""
    status = read_status(settings.home) if is_held(settings.home) else None
    if status and name in status.get("restarts", {}):
        health = subscriber(settings, name)
        hint = "" if health.is_good else f"see {settings.home / 'logs' / name}.log"
        state = OK if health.is_good else WARN
        yield Check(name.replace("-", " "), state, health.sentence, hint)


def _nearest_existing(path: Path) -> Path:
    """``path``, or its nearest parent that exists."""
    return next(p for p in (path, *path.parents) if p.exists())
