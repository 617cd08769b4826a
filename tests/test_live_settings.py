"""What a live flow is told: a file, the environment over it, and clear words about mistakes."""

from pathlib import Path

import pytest

from dataflows.live_settings import LiveSettings, live_settings
from dataflows.settings import SettingsError

NS = 10**9


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "flow.toml"
    path.write_text(text)
    return path


SMALL = """
[kafka]
bootstrap = "broker:9092"
[sets.market]
"""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIFFLE_CONFIG", raising=False)


def read(tmp_path: Path, text: str, **given: object) -> LiveSettings:
    return live_settings(written(tmp_path, text), **given)


def test_two_tables_are_enough_and_the_rest_has_defaults(tmp_path: Path) -> None:
    settings = read(tmp_path, SMALL)
    assert settings.sets["market"].topic == "extracted-features"
    assert settings.sets["market"].transaction == NS // 10
    assert settings.snapshot_every == 5 * NS
    assert settings.start == "earliest"


def test_streams_have_their_usual_topics_unless_told_otherwise(tmp_path: Path) -> None:
    settings = read(tmp_path, SMALL + '[inputs.news]\ntopic = "headlines"\n')
    streams = ["bars", "trades", "news", "readings", "windows", "mine"]
    assert [settings.topic_of(stream) for stream in streams] == [
        "bars", "trades", "headlines", "preprocessed-data", "windowed-data", "mine",
    ]  # fmt: skip


def test_the_environment_wins_over_the_file_and_the_caller_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIFFLE_KAFKA__BOOTSTRAP", "other:9092")
    monkeypatch.setenv("RIFFLE_SETS__MARKET__TRANSACTION", "20ms")
    monkeypatch.setenv("RIFFLE_SHARDS", "3")
    settings = read(tmp_path, SMALL, shards=2)
    assert settings.kafka.bootstrap == "other:9092"
    assert settings.sets["market"].transaction == 20 * 10**6
    assert settings.shards == 2


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIFFLE_CONFIG", str(written(tmp_path, SMALL)))
    assert live_settings().kafka.bootstrap == "broker:9092"


def test_the_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIFFLE_KAFKA__BOOTSTRAP", "broker:9092")
    monkeypatch.setenv("RIFFLE_SETS", '{"market": {}}')
    assert list(live_settings().sets) == ["market"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[sets.market]\n", r"kafka: must be set, found none; .*RIFFLE_KAFKA"),
        (
            SMALL.replace("bootstrap", "bootstrp"),
            r"kafka\.bootstrp: is no setting; did you mean `b",
        ),
        ("snapshot_every = 3\n" + SMALL, r"snapshot_every: must be a duration .*found 3"),
        ('snapshot_every = "1500ms"\n' + SMALL, r"snapshot_every must be whole seconds"),
        ("shards = 2\nshard = 2\n" + SMALL, r"shard must be below shards, 2, found 2"),
        ('[kafka]\nbootstrap = "b:1"\n', r"sets: must be set, found none"),
        (SMALL + 'topic = "a b"\n', r"sets\.market\.topic: must be made of letters"),
        ('[kafka]\nbootstrap = "b:1"\npartitioner = "md5"\n[sets.market]\n', r"partitioner.*'md5'"),
        (
            'shards = 2\n[kafka]\nbootstrap = "b:1"\npartitioner = "none"\n[sets.market]\n',
            r"partitioner must be 'murmur2' or 'crc32' with several shards",
        ),
        ("[kafka\n", r"flow\.toml: must be TOML"),
        (SMALL + 'sinks = ["kafka", "table"]\n', r"database must be set, as sets\.market\.sinks"),
        (SMALL + 'sinks = ["online"]\n', r"online must be set, as sets\.market\.sinks"),
        (SMALL + 'sinks = ["redis"]\n', r"sinks\.0: .*'table' or 'online'.*found 'redis'"),
        (SMALL + 'sinks = ["kafka", "kafka"]\n', r"sinks must be different places"),
        (SMALL + 'early = ["table"]\n', r"sinks must have \['table'\]"),
        (SMALL + 'sinks = ["table"]\nprovisional_topic = "p"\n', r"sinks must have \['kafka'\]"),
        (SMALL + "[database]\n", r"database: must have one of url and url_file, found none"),
        (SMALL + '[online]\nstore = "."\nwait = "1m"\n', r"wait must be between '10ms' and '10s'"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_must_be(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(SettingsError, match=words) as told:
        read(tmp_path, text)
    assert "flow.toml" in str(told.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: must be a TOML file"):
        live_settings(tmp_path / "none.toml")


SECRETS = """
[kafka]
bootstrap = "broker:9092"
[kafka.properties]
"security.protocol" = "SASL_SSL"
"sasl.password" = "canary-7c1"
[sets.market]
"""


def test_secrets_are_handed_on_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("canary-file\n")
    text = SECRETS + f'[kafka.property_files]\n"ssl.key.password" = "{tmp_path}/secret"\n'
    settings = read(tmp_path, text)
    properties = settings.client_properties()
    assert properties["sasl.password"] == "canary-7c1"
    assert properties["ssl.key.password"] == "canary-file"
    assert properties["security.protocol"] == "SASL_SSL"
    assert "canary" not in repr(settings)
    assert "canary" not in settings.model_dump_json()


def test_a_mistake_beside_a_secret_does_not_show_it(tmp_path: Path) -> None:
    text = SECRETS.replace('"canary-7c1"', '["canary-7c1"]')
    with pytest.raises(SettingsError, match=r"kafka\.properties\.sasl\.password") as told:
        read(tmp_path, text)
    assert "canary" not in str(told.value)


def test_the_url_of_the_database_is_handed_on_and_never_shown(tmp_path: Path) -> None:
    url = "postgresql://writer:canary@host/db"
    settings = read(tmp_path, SMALL + f'[database]\nurl = "{url}"\n')
    assert settings.database_url() == url
    assert "canary" not in repr(settings)
    (tmp_path / "url").write_text(f"{url}\n")
    settings = read(tmp_path, SMALL + f'[database]\nurl_file = "{tmp_path}/url"\n')
    assert settings.database_url() == url
    twice = f'[database]\nurl = "{url}"\nurl_file = "{tmp_path}/url"\n'
    with pytest.raises(SettingsError, match="found both") as told:
        read(tmp_path, SMALL + twice)
    assert "canary" not in str(told.value)


def test_without_a_database_its_url_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="RIFFLE_DATABASE__URL"):
        read(tmp_path, SMALL).database_url()


def test_the_file_of_a_secret_must_be_there(tmp_path: Path) -> None:
    text = SMALL + '[kafka.property_files]\n"sasl.password" = "/nowhere/secret"\n'
    with pytest.raises(SettingsError, match=r"sasl\.password.*must be a readable file"):
        read(tmp_path, text).client_properties()
