"""What is shipped for containers, read as Docker reads it, as far as that goes without Docker."""

from __future__ import annotations

import re
import runpy
import shlex
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pytest
import typer
import yaml
from confluent_kafka import KafkaException

from dataflows import probe
from dataflows.cli import app
from dataflows.live_settings import LiveSettings, live_settings
from dataflows.topics import wanted_topics
from feature_repo.store import open_store
from feature_repo.streams import bars, news
from operators.decode import decode
from sources.kafka_client import Connection
from tests.services import versions

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
COMMANDS = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]

services = pytest.mark.parametrize("name", SERVICES)
ours = pytest.mark.parametrize("name", OURS)


def chosen(text: str) -> str:
    """A value with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


# -- docker-compose.yml --------------------------------------------------------------------------


def test_each_profile_starts_what_it_needs():
    profiles: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for profile in service["profiles"]:
            profiles.setdefault(profile, set()).add(name)
    assert profiles == {
        "kafka": {"kafka"},
        "stores": {"timescale", "redis"},
        "live": {"kafka", "timescale", "redis", "apply", "live"},
        "demo": {"kafka", "timescale", "redis", "apply", "live", "feeder"},
    }
    for started in profiles.values():
        for name in started:
            assert set(SERVICES[name].get("depends_on", {})) <= started


def test_what_must_be_there_first_is_waited_for():
    places = {name: {"condition": "service_healthy"} for name in ("kafka", "timescale", "redis")}
    assert SERVICES["apply"]["depends_on"] == places
    done = {"condition": "service_completed_successfully"}
    assert SERVICES["live"]["depends_on"] == {**places, "apply": done}


@services
def test_services_are_checked_and_jobs_are_not(name):
    check = SERVICES[name]["healthcheck"]
    assert ("test" in check) == (name not in {"apply", "feeder"})
    assert check.get("disable", False) == (name in {"apply", "feeder"})


def test_a_flow_that_is_stopped_or_hangs_is_noticed_within_a_minute():
    """The probe answers at once or not at all; a stalled epoch is told after 30 s and 10 epochs."""
    check = SERVICES["live"]["healthcheck"]
    seconds = {name: int(check[name].removesuffix("s")) for name in ("interval", "timeout")}
    assert check["retries"] == 1
    assert max(30, 10 * 5) + seconds["interval"] <= 60
    assert seconds["timeout"] > probe.TIMEOUT_S


@services
def test_containers_have_few_rights_and_limits(name):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["logging"]["options"]["max-size"]
    assert not {"privileged", "network_mode", "pid", "ipc", "cap_add"} & set(service)


@ours
def test_our_containers_are_nobody_and_write_only_where_they_must(name):
    service = SERVICES[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp:mode=1777,size=256m"]
    written = [each["target"] for each in service["volumes"] if not each.get("read_only")]
    assert written == (["/var/lib/riffle"] if name in {"apply", "live"} else [])


@services
def test_images_are_pinned(name):
    tag = chosen(SERVICES[name]["image"]).partition(":")[2]
    assert re.fullmatch(r"\d+\.\d+\.\d+(-pg\d+)?", tag)


def test_kafka_and_timescaledb_are_those_that_the_tests_run():
    assert chosen(SERVICES["kafka"]["image"]) == f"apache/kafka:{versions.KAFKA}"
    assert chosen(SERVICES["timescale"]["image"]).partition(":")[2].startswith("2.23.")


@services
def test_ports_are_open_to_this_machine_alone(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


def test_there_is_no_secret_in_it():
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert not re.search(r"(?i)password|secret|token|credential|jaas", text)


@ours
def test_every_command_exists(name):
    service = SERVICES[name]
    if "entrypoint" in service:
        assert service["entrypoint"] == ["python", "/feeder.py"]
        return
    command, *rest = [chosen(part) for part in service["command"]]
    assert command in COMMANDS
    known = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    options = {option for parameter in known for option in parameter.opts}
    assert {part for part in rest if part.startswith("-")} <= options


@ours
def test_variables_are_settings(name):
    fields = {"RIFFLE_" + field.upper() for field in LiveSettings.model_fields}
    fields |= {"RIFFLE_KAFKA__BOOTSTRAP", "RIFFLE_LOG_LEVEL", "RIFFLE_DATABASE__URL"}
    assert set(SERVICES[name]["environment"]) <= fields


@ours
def test_files_that_are_mounted_are_there(name):
    for each in SERVICES[name]["volumes"]:
        if each["type"] == "bind":
            assert (ROOT / each["source"]).is_file()
        else:
            assert each["source"] in COMPOSE["volumes"]


# -- the image -----------------------------------------------------------------------------------


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage of the image."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    found: list[list[tuple[str, str]]] = [[]]
    for line in text.splitlines():
        if line and not line.startswith("#"):
            instruction, _, rest = line.partition(" ")
            if instruction == "FROM":
                found.append([])
            found[-1].append((instruction, " ".join(rest.split())))
    return found


def of(stage: list[tuple[str, str]], wanted: str) -> list[str]:
    return [rest for instruction, rest in stage if instruction == wanted]


def environment(stage: list[tuple[str, str]]) -> dict[str, str]:
    """Its variables, with the defaults of the build's arguments."""
    told = dict(part.split("=", 1) for line in of(stage, "ENV") for part in shlex.split(line))
    arguments = dict(line.split("=", 1) for line in of(stage, "ARG"))
    return {
        name: re.sub(r"\$\{(\w+)\}", lambda found: arguments.get(found[1], found[0]), value)
        for name, value in told.items()
    }


def test_the_base_is_pinned_and_used_by_both_stages():
    first, build, final = stages()
    assert re.fullmatch(r"PYTHON=python:3\.11\.\d+-slim-[a-z]+", of(first, "ARG")[0])
    assert of(build, "FROM") == ["${PYTHON} AS build"]
    assert of(final, "FROM") == ["${PYTHON}"]


def test_the_image_runs_as_nobody_and_holds_no_tools():
    _, build, final = stages()
    assert of(final, "USER") == ["10001:10001"]
    assert of(final, "ENTRYPOINT") == ['["riffle"]']
    assert of(final, "CMD") == ['["live"]']
    assert of(final, "HEALTHCHECK")[0].endswith('CMD ["python", "-m", "dataflows.probe"]')
    assert of(final, "COPY") == ["--from=build /opt/riffle /opt/riffle"]
    assert not re.search(r"pip|curl|apt", " ".join(of(final, "RUN")))
    assert "pip uninstall --yes setuptools pip" in of(build, "RUN")[-1]


def test_kernels_are_compiled_for_the_processor_that_the_flow_is_told_of():
    _, build, final = stages()
    assert "python -m operators.warm" in of(build, "RUN")[-1]
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        assert environment(build)[name] == environment(final)[name]
    assert environment(build)["NUMBA_CPU_NAME"] == "x86-64-v3"


def test_the_images_variables_are_settings():
    _, _, final = stages()
    told = {name for name in environment(final) if name.startswith("RIFFLE_")}
    fields = {"RIFFLE_" + field.upper() for field in LiveSettings.model_fields}
    assert told <= fields | {"RIFFLE_CONFIG", "RIFFLE_LOG"}


def test_only_what_the_image_is_made_of_goes_to_the_builder():
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = [rule[1:] for rule in rules if rule.startswith("!")]
    assert all((ROOT / path).exists() for path in let_in)
    for secret in (".env", "deploy/riffle-with-secrets.toml", ".git/config", "tests/x.py"):
        assert not any(fnmatch(secret, rule) or secret.startswith(f"{rule}/") for rule in let_in)


def pins(lock: Path) -> dict[str, str]:
    """Name and version with hashes of what a lock file holds."""
    text = lock.read_text("utf-8").replace("\\\n", " ")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)(?: ;.*?)?((?:\s+--hash=\S+)+)", line)
             for line in lines if line]  # fmt: skip
    assert all(found)
    return {each[1]: f"{each[2]} {' '.join(sorted(each[3].split()))}" for each in found if each}


def test_the_image_has_the_versions_that_the_tests_have_and_none_for_developers():
    tested, shipped = pins(ROOT / "requirements.lock"), pins(DEPLOY / "requirements.lock")
    assert shipped.items() <= tested.items()
    assert not {"pytest", "hypothesis", "ruff", "duckdb-engine", "ta-lib", "tsflex"} & set(shipped)
    assert {"bytewax", "confluent-kafka", "numba", "prometheus-client"} <= set(shipped)


# -- settings and the feeder ---------------------------------------------------------------------


def test_the_flow_of_the_compose_file_is_one():
    settings = live_settings(DEPLOY / "riffle.toml")
    assert settings.kafka.bootstrap == "kafka:19092"
    assert {topic.name for topic in wanted_topics(settings, None)} >= {"bars", "news"}
    assert settings.sets["market"].sinks == ["kafka", "table", "online"]


def test_the_store_of_the_compose_file_is_one_that_feast_reads(tmp_path):
    text = (DEPLOY / "feature_store.yaml").read_text("utf-8")
    store = tmp_path / "feature_store.yaml"
    store.write_text(text.replace("/var/lib/riffle", str(tmp_path)))
    config = open_store(tmp_path).config
    assert config.online_store.connection_string == "redis:6379"
    assert config.online_store.skip_dedup


def test_the_flow_writes_as_a_writer_and_apply_makes_as_the_owner():
    """What each of these roles may do: test_table_roles.py."""
    apply = urlsplit(SERVICES["apply"]["environment"]["RIFFLE_DATABASE__URL"])
    live = urlsplit(live_settings(DEPLOY / "riffle.toml").database_url())
    assert apply._replace(netloc="") == live._replace(netloc="")
    assert apply.username == "riffle_owner"
    users = (DEPLOY / "sql" / "users.sql").read_text("utf-8")
    assert f"CREATE ROLE {live.username} LOGIN IN ROLE riffle_writer;" in users


def test_the_sample_with_secrets_shows_none(tmp_path, monkeypatch):
    path = tmp_path / "flow.toml"
    text = (DEPLOY / "riffle-with-secrets.toml").read_text("utf-8")
    secret = tmp_path / "kafka-password"
    secret.write_text("hunter2\n")
    path.write_text(text.replace("/run/secrets/kafka-password", str(secret)))
    settings = live_settings(path)
    assert settings.client_properties()["sasl.password"] == "hunter2"
    assert "hunter2" not in repr(settings)
    # librdkafka knows these settings; the file of the authority is not here.
    properties = {k: v for k, v in settings.client_properties().items() if "location" not in k}
    try:
        Connection("127.0.0.1:1", properties).admin()
    except KafkaException as error:
        pytest.fail(str(error))


def test_what_the_feeder_makes_up_can_be_read():
    feeder = runpy.run_path(str(DEPLOY / "feeder.py"), run_name="feeder")
    happened = [each for second in islice(feeder["market"](50, 1), 40) for each in second]
    assert {topic for topic, _, _ in happened} == {"bars", "news"}
    for stream in (bars, news):
        rows = [value for topic, _, value in happened if topic == stream.name]
        assert all(value["instrument_id"] == key for _, key, value in happened)
        frame = pl.DataFrame(rows).with_columns(ts=pl.lit("2026-01-01T00:00:00Z"))
        if stream is news:
            frame = frame.with_columns(arrival_ts=pl.lit("2026-01-01T00:00:00Z"))
        batch, dead = decode(stream, frame)
        assert dead.messages == ()
        assert len(batch) == len(rows)
