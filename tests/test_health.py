"""What a process of a live flow answers when it is asked how it is, over real HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dataflows import health_server, probe
from dataflows.dependencies import StandsStill
from dataflows.health import Limits, liveness, readiness
from dataflows.health_server import HealthServer, listen_address
from dataflows.observed import Observed
from dataflows.settings import SettingsError
from feature_repo.market import market
from operators.batch import NO_CLOCK_NS
from operators.engine import Engine
from operators.plan import compile_plan

ROOT = Path(__file__).parents[1]
LIMITS = Limits(interval_s=5.0, ready_lag_s=30.0)
SECOND_NS = 10**9


class Clock:
    """Both clocks of a process, moved by hand."""

    def __init__(self) -> None:
        self.s = 1000.0

    def now_s(self) -> float:
        return self.s

    def wall_ns(self) -> int:
        return int(self.s * SECOND_NS)


@dataclass
class Part:
    stream: str = "bars"
    topic: str = "bars"
    partition: int = 0
    position: int = 10
    end_offset: int | None = 10
    clock_ns: int = 1000 * SECOND_NS
    counts: dict[str, int] = field(default_factory=dict)
    dead: dict[str, int] = field(default_factory=dict)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def observed(clock: Clock) -> Observed:
    return Observed("riffle", now_s=clock.now_s, wall_ns=clock.wall_ns)


@pytest.fixture
def port(observed: Observed) -> Iterator[int]:
    server = HealthServer(observed, LIMITS, ("127.0.0.1", 0))
    server.start()
    yield server.port
    server.close()


def end_epoch(observed: Observed) -> None:
    """What the flow says when Bytewax asks a part of the source for its snapshot."""
    if not observed.parts:
        observed.watch_part(Part())
    observed.part_snapshot("bars/0")


def ask(port: int, path: str, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


# -- liveness ------------------------------------------------------------------------------------


def test_a_process_is_live_while_epochs_end(observed, clock, port):
    for _ in range(20):
        end_epoch(observed)
        clock.s += 29
        response, body = ask(port, "/health")
        assert response.status == 200
        assert json.loads(body)["status"] == "ok"
    assert observed.epochs == 19


def test_a_stalled_epoch_is_told_within_a_minute(observed, clock, port):
    end_epoch(observed)
    clock.s += 49.9
    assert ask(port, "/health")[0].status == 200
    clock.s += 0.2
    response, body = ask(port, "/health")
    assert response.status == 503
    (reason,) = json.loads(body)["reasons"]
    assert reason.startswith("no epoch has ended for 50 s, at most 50 s are normal: a worker")
    assert ask(port, "/ready")[0].status == 503
    end_epoch(observed)
    assert ask(port, "/health")[0].status == 200


@pytest.mark.parametrize(("interval_s", "bound_s"), [(1, 30), (3, 30), (5, 50), (60, 600)])
def test_the_bound_is_ten_intervals_and_at_least_half_a_minute(interval_s, bound_s):
    assert Limits(interval_s, 30.0).bound_s == bound_s


def test_a_process_without_partitions_is_live_by_its_engines(observed, clock):
    engine = observed.watch_engine(Engine(compile_plan(market), [("bars", "0"), ("news", "0")]))
    engine.written_down(0.01, 100)
    clock.s += 49
    assert readiness(observed, LIMITS).well
    clock.s += 2
    assert not liveness(observed, LIMITS).well
    engine.written_down(0.01, 100)
    assert readiness(observed, LIMITS).well


def test_a_process_with_nothing_to_do_is_well(observed, clock):
    assert not readiness(observed, LIMITS).well
    clock.s += 1000
    assert liveness(observed, LIMITS).well
    assert readiness(observed, LIMITS).well


def test_the_start_may_take_longer_but_not_for_ever(observed, clock):
    observed.watch_part(Part())
    clock.s += 299
    assert liveness(observed, LIMITS).well
    clock.s += 2
    assert not liveness(observed, LIMITS).well


def test_an_outage_that_is_retried_is_told_and_no_reason_to_restart(observed, clock, port):
    end_epoch(observed)
    kafka = observed.dependency("kafka")
    for _ in range(60):
        clock.s += 10
        kafka.report("no broker answers")
    response, body = ask(port, "/health")
    assert response.status == 200
    assert json.loads(body)["waiting_for"] == {"kafka": "no broker answers (for 590 s)"}
    assert kafka.failures == 60
    response, body = ask(port, "/ready")
    assert response.status == 503
    assert json.loads(body)["reasons"] == ["kafka can't be used: no broker answers (for 590 s)"]


def test_after_an_outage_the_next_epoch_has_the_whole_time_again(observed, clock):
    end_epoch(observed)
    clock.s += 600
    observed.dependency("kafka").report("no broker answers")
    observed.dependency("kafka").report(None)
    clock.s += 49
    assert liveness(observed, LIMITS).well
    clock.s += 2
    assert not liveness(observed, LIMITS).well


def test_one_that_has_stopped_trying_is_not_excused(observed, clock):
    end_epoch(observed)
    observed.dependency("kafka").report("no broker answers")
    clock.s += 51
    verdict = liveness(observed, LIMITS)
    assert not verdict.well
    assert verdict.facts["waiting_for"] == {"kafka": "no broker answers (for 51 s)"}


def test_a_flow_that_says_that_it_waits_is_live_and_after_a_while_not_ready(observed, clock):
    end_epoch(observed)
    kafka = observed.dependency("kafka")
    for _ in range(150):
        clock.s += 0.1
        kafka.beat()
    assert readiness(observed, LIMITS).well
    for _ in range(1000):
        clock.s += 0.1
        kafka.beat()
    assert liveness(observed, LIMITS).well
    words = ("kafka can't be used: the flow waits for it, for 115 s",)
    assert readiness(observed, LIMITS).reasons == words
    end_epoch(observed)
    assert readiness(observed, LIMITS).well
    # One that waits often, and gets what it waits for, is in no trouble.
    for i in range(1000):
        clock.s += 0.1
        kafka.beat()
        if i % 50 == 0:
            end_epoch(observed)
    assert readiness(observed, LIMITS).well
    clock.s += 51
    assert not liveness(observed, LIMITS).well


def test_what_can_be_asked_how_it_is_is_asked(observed):
    observed.recovered()
    trouble: str | None = None
    observed.dependency("kafka", lambda: trouble)
    assert readiness(observed, LIMITS).well
    trouble = "the broker's clock stands still"
    words = ("kafka can't be used: the broker's clock stands still",)
    assert readiness(observed, LIMITS).reasons == words


def test_what_must_change_and_does_not_is_trouble(observed, clock):
    observed.recovered()
    ticks = 0
    observed.dependency("kafka", StandsStill("the clock", lambda: ticks, clock.now_s))
    clock.s += 100
    assert readiness(observed, LIMITS).well
    for _ in range(10):
        clock.s += 10
        ticks += 1
        assert readiness(observed, LIMITS).well
    clock.s += 20
    words = ("kafka can't be used: the clock stands still, for 20 s",)
    assert readiness(observed, LIMITS).reasons == words
    assert liveness(observed, LIMITS).well
    ticks += 1
    assert readiness(observed, LIMITS).well


def test_that_all_is_well_with_what_it_needs_excuses_no_hang(observed, clock):
    end_epoch(observed)
    clock.s += 51
    observed.dependency("kafka").report(None)
    assert not liveness(observed, LIMITS).well


# -- readiness -----------------------------------------------------------------------------------


def test_a_process_is_ready_when_it_has_recovered_and_keeps_up(observed, clock, port):
    response, body = ask(port, "/ready")
    assert response.status == 503
    assert json.loads(body)["reasons"] == ["recovering its state"]
    observed.recovered()
    observed.watch_part(Part())
    response, body = ask(port, "/ready")
    assert response.status == 200
    assert json.loads(body)["lag_s"] == 0.0


def test_a_process_that_lags_is_not_ready(observed, clock):
    observed.recovered()
    observed.watch_part(Part(partition=1, end_offset=11))
    observed.watch_part(Part(partition=2, end_offset=None))
    clock.s += 30
    assert readiness(observed, LIMITS).well
    clock.s += 1
    verdict = readiness(observed, LIMITS)
    assert verdict.reasons == ("bars/1 lags 31 s behind, at most 30 s are ready",)
    observed.watch_part(Part("news", "news", 3, end_offset=11, clock_ns=NO_CLOCK_NS))
    verdict = readiness(observed, LIMITS)
    assert verdict.reasons == ("nothing of news/3 has been read yet",)
    assert json.dumps(verdict.document(), allow_nan=False)


def test_a_process_that_drains_is_live_and_not_ready(observed):
    observed.recovered()
    observed.draining = True
    assert liveness(observed, LIMITS).well
    assert readiness(observed, LIMITS).reasons == ("draining, because it was asked to stop",)


# -- HTTP ----------------------------------------------------------------------------------------


def test_only_three_paths_are_served_and_only_read(port):
    assert ask(port, "/health?full=1")[0].status == 200
    for path in ("/", "/healthz", "/health/", "/../etc/passwd", "//health", "/metrics/x"):
        assert ask(port, path)[0].status == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "get", "TRACE"):
        response, _ = ask(port, "/health", method)
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD"


def test_head_has_the_headers_and_no_body(port):
    told, body = ask(port, "/health")
    response, nothing = ask(port, "/health", "HEAD")
    assert (response.status, nothing) == (200, b"")
    assert response.headers["Content-Length"] == told.headers["Content-Length"] == str(len(body))
    assert told.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "sent",
    [b"", b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x00\xff\r\n\r\n", b"x" * 100_000,
     b"GET /health HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"],
    ids=["nothing", "empty", "no path", "TLS", "no line", "long head"],
)  # fmt: skip
def test_nonsense_does_not_end_the_server(port, sent):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while client.recv(65536):
                pass
    assert ask(port, "/health")[0].status == 200


def test_slow_clients_hold_up_nobody_and_are_let_go(port, monkeypatch):
    monkeypatch.setattr(health_server, "REQUEST_S", 0.5)
    slow = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(20)]
    for client in slow:
        client.sendall(b"GET /health HTTP/1.1\r\n")
    begun_s = time.monotonic()
    assert ask(port, "/health")[0].status == 200
    for client in slow:
        with suppress(ConnectionResetError):
            assert client.recv(100) == b""
        client.close()
    assert time.monotonic() - begun_s < 5


def test_more_clients_than_can_be_served_are_turned_away(port, monkeypatch):
    monkeypatch.setattr(health_server, "MOST_CLIENTS", 0)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(port, "/health")
    monkeypatch.undo()
    assert ask(port, "/health")[0].status == 200


def test_an_error_of_ours_is_an_answer_and_in_the_log(observed, port, caplog):
    observed.watch_part(Part())
    observed.parts[0].part = None
    assert ask(port, "/metrics")[0].status == 500
    assert "can't answer /metrics" in caplog.text
    assert ask(port, "/health")[0].status == 200


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "process", "address"),
    [
        ("127.0.0.1:9464", 0, ("127.0.0.1", 9464)),
        ("0.0.0.0:9464", 3, ("0.0.0.0", 9467)),
        ("[::1]:9464", 1, ("::1", 9465)),
        ("localhost:0", 5, ("localhost", 0)),
    ],
)
def test_each_process_has_an_address_of_its_own(listen, process, address):
    assert listen_address(listen, process) == address


@pytest.mark.parametrize("listen", ["9464", "localhost", "::1:9464", "a b:1", "h:65535", "h:-1"])
def test_what_is_no_address_is_refused(listen):
    with pytest.raises(SettingsError, match=r"listen: must be host:port such as 127.0.0.1:9464"):
        listen_address(listen, 1)


def test_an_address_that_is_taken_is_refused(port, observed):
    server = HealthServer(observed, LIMITS, ("127.0.0.1", port))
    with pytest.raises(SettingsError, match=f"must be an address that is free.*:{port}"):
        server.start()


# -- processes -----------------------------------------------------------------------------------

BUSY = """
import numpy as np
from dataflows.health import Limits
from dataflows.health_server import HealthServer
from dataflows.observed import Observed
from operators.kernels import kernel

@kernel
def long(n):
    x = 0.0
    for i in range(n):
        x += np.sqrt(x + i)
    return x


observed = Observed("riffle")
observed.part_snapshot("bars/0")
server = HealthServer(observed, Limits(5.0, 30.0), ("127.0.0.1", 0))
server.start()
long(1)
print(server.port, flush=True)
while True:
    long(10**12)
"""


def test_a_process_in_a_long_native_call_answers_and_a_stopped_one_does_not(tmp_path):
    script = tmp_path / "busy.py"
    script.write_text(BUSY, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for _ in range(5):
            assert ask(port, "/health")[0].status == 200
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        # The kernel still takes the connection, but nobody answers: a probe runs into its timeout.
        probe = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        probe.request("GET", "/health")
        with pytest.raises(TimeoutError, match="timed out"):
            probe.getresponse()
        probe.close()
        process.send_signal(signal.SIGCONT)
        assert ask(port, "/health")[0].status == 200
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


# -- the probe -----------------------------------------------------------------------------------


def test_a_probe_asks_every_process(observed, clock, port, capsys):
    listen = f"0.0.0.0:{port}"
    assert probe.main(["--listen", listen]) == 0
    assert probe.main(["ready", "--listen", listen]) == 1
    assert capsys.readouterr().err == "process 0: recovering its state\n"
    observed.watch_part(Part())
    observed.recovered()
    assert probe.main(["ready", "--listen", listen, "--processes", "2"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"process 1: no answer from 127.0.0.1:{port + 1}: ConnectionRefused")
    clock.s += 301
    assert probe.main(["--listen", listen]) == 1
    assert "no epoch has ended for 301 s" in capsys.readouterr().err


def test_a_probe_is_quick_because_it_imports_little(port):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RIFFLE_LISTEN": f"127.0.0.1:{port}"}
    code = (
        "import sys; from dataflows import probe; code = probe.main(['health'])\n"
        "print(code, *{'numpy', 'numba', 'pydantic', 'typer'} & set(sys.modules))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout == "0\n"
