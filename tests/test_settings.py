"""What the environment may say, and what one is told when it says something else."""

import base64
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from vidgen import settings as module
from vidgen.errors import SettingsError
from vidgen.settings import Settings, describe, mask_url

ROOT = Path(__file__).parents[1]
DATABASE_URL = "postgresql://me:word@db.example:5432/videos"
REDIS_URL = "redis://:word@redis.example:6379/0"
KEY = base64.b64encode(bytes(range(32))).decode()

Load = Callable[..., Settings]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Loads from exactly the variables given, beside the two that are always needed."""
    for setting in describe():
        monkeypatch.delenv(setting.name, raising=False)
    monkeypatch.chdir(tmp_path)

    def load(**variables: str | None) -> Settings:
        given = {"DATABASE_URL": DATABASE_URL, "REDIS_URL": REDIS_URL, **variables}
        for name, text in given.items():
            if text is not None:
                monkeypatch.setenv(name, text)
        return Settings.load()

    return load


def _problems(error: pytest.ExceptionInfo[SettingsError]) -> list[str]:
    return [line.strip() for line in error.value.message.splitlines()[1:]]


def test_two_addresses_are_enough(load: Load) -> None:
    settings = load()

    assert settings.database_url == DATABASE_URL
    assert settings.redis_url == REDIS_URL
    assert settings.concurrency == 2
    assert settings.openai_base_url == "https://api.openai.com/v1"


def test_every_problem_is_told_at_once_on_a_line_of_its_own(load: Load) -> None:
    with pytest.raises(SettingsError) as error:
        load(
            DATABASE_URL="mysql://me:hunter2@host/db",
            REDIS_URL=None,
            VIDGEN_CONCURRENCY="0",
            VIDGEN_BACKOFF_S="soon",
            VIDGEN_ALLOW_UNKNOWN_MODELS="perhaps",
            LOG_LEVEL="loud",
            ADMIN_TOKEN="short",
            AWS_ACCESS_KEY_ID="id",
            VIDGEN_CONCURENCY="3",
        )

    assert _problems(error) == [
        "VIDGEN_CONCURENCY: vidgen has no such setting; did you mean VIDGEN_CONCURRENCY?",
        "DATABASE_URL: came 'mysql://***@host/db'; wanted: "
        "postgresql://user:password@host:5432/name, special characters as %XX",
        "ADMIN_TOKEN: came a secret of 5 characters; wanted: at least 16 characters",
        "LOG_LEVEL: came 'loud'; wanted: one of trace, debug, info, warning, error, critical",
        "VIDGEN_CONCURRENCY: came '0'; wanted: a whole number from 1 to 20000",
        "VIDGEN_BACKOFF_S: came 'soon'; wanted: a number from 0 to 600",
        "VIDGEN_ALLOW_UNKNOWN_MODELS: came 'perhaps'; wanted: true or false",
        "REDIS_URL: nothing came; wanted: redis://, rediss:// or unix:// with an address, "
        "or redis+sentinel://host1:26379,host2:26379/service/0",
        "AWS_SECRET_ACCESS_KEY: nothing came; wanted: both AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or none",
    ]


def test_a_wrong_setting_ends_the_process_with_code_2(
    load: Load, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDGEN_HTTP_PORT", "99999")

    with pytest.raises(SystemExit) as exit_info:
        Settings.load_or_exit()

    told = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert "VIDGEN_HTTP_PORT: came '99999'; wanted: a whole number from 0 to 65535" in told
    assert "DATABASE_URL: nothing came" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DATABASE_URL", "postgres://me:hunter2/x@host/db"),
        ("DATABASE_URL", "postgres://me:hunter2?@host/db"),
        ("DATABASE_URL", "postgres://me:hunter2@host:port/db"),
        ("DATABASE_URL", "me:hunter2@host/db"),
        ("DATABASE_URL", "host=h password=hunter2 dbname=d"),
        ("REDIS_URL", "http://:hunter2@host"),
        ("REDIS_URL", "redis://:hunter2#@host"),
        ("OPENAI_BASE_URL", "https://me:hunter2@host/v1"),
        ("OPENAI_BASE_URL", "https://host/v1?key=hunter2"),
        ("ENCRYPTION_KEY", "hunter2"),
        ("ADMIN_TOKEN", "hunter2"),
        ("GOOGLE_APPLICATION_CREDENTIALS", ' {"private_key": "hunter2"'),
    ],
)
def test_no_secret_is_repeated(load: Load, name: str, text: str) -> None:
    try:
        said = repr(load(**{name: text}))
    except SettingsError as error:
        said = str(error)

    assert "hunter2" not in said


def test_the_environment_wins_over_the_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("VIDGEN_CONCURRENCY=7\nVIDGEN_MAX_ATTEMPTS=8\nOTHER=x\n")

    settings = load(VIDGEN_CONCURRENCY="9")

    assert (settings.concurrency, settings.max_attempts) == (9, 8)


def test_a_folder_of_secrets_is_read_and_stands_between_the_file_and_the_environment(
    load: Load, tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "OPENAI_API_KEY").write_text("sk-of-the-folder\n")
    (folder / "VIDGEN_CONCURRENCY").write_text("7")
    (folder / "VIDGEN_MAX_ATTEMPTS").write_text("7")
    (folder / "GEMINI_API_KEY").write_text("\n")
    (folder / "redis_password").write_text("of somebody else")
    (tmp_path / ".env").write_text("VIDGEN_MAX_ATTEMPTS=6\nVIDGEN_CONCURRENCY=6\n")

    settings = load(VIDGEN_SECRETS_DIR=str(folder), VIDGEN_CONCURRENCY="8", OPENAI_API_KEY="")

    assert settings.openai_api_key == SecretStr("sk-of-the-folder")
    assert settings.gemini_api_key is None
    assert (settings.concurrency, settings.max_attempts) == (8, 7)


def test_a_wrong_name_in_the_folder_of_secrets_is_told(load: Load, tmp_path: Path) -> None:
    (tmp_path / "VIDGEN_CONCURENCY").write_text("7")

    with pytest.raises(SettingsError, match="VIDGEN_CONCURENCY: vidgen has no such setting"):
        load(VIDGEN_SECRETS_DIR=str(tmp_path))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: folder.rmdir(),
        lambda folder: (folder / "ADMIN_TOKEN").mkdir(),
        lambda folder: (folder / "ADMIN_TOKEN").write_bytes(b"hunter2\xff"),
        lambda folder: (folder / "ADMIN_TOKEN").write_text("hunter2" * 10_000),
        lambda folder: (folder / "ADMIN_TOKEN").symlink_to("/dev/zero"),
    ],
    ids=["missing", "folder", "bytes", "large", "endless"],
)
def test_a_folder_of_secrets_that_cannot_be_read_is_told_without_what_is_in_it(
    load: Load, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    spoil(folder)

    with pytest.raises(SettingsError, match=r"VIDGEN_SECRETS_DIR: .* cannot be read") as error:
        load(VIDGEN_SECRETS_DIR=str(folder))

    assert "hunter2" not in str(error.value)


def test_empty_is_not_set_and_white_space_is_cut(load: Load) -> None:
    settings = load(VIDGEN_CONCURRENCY="", OPENAI_API_KEY=" sk-1\n")

    assert settings.concurrency == 2
    assert settings.openai_api_key == SecretStr("sk-1")


def test_a_program_asks_only_for_what_it_needs(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", DATABASE_URL)

    assert Settings.load(needs=frozenset({"database"})).redis_url == ""
    with pytest.raises(SettingsError, match="REDIS_URL"):
        Settings.load(needs=frozenset({"database", "redis"}))


def test_values_given_in_code_are_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDGEN_CONCURRENCY", "9")

    assert Settings(max_attempts=1).concurrency == 2


def test_settings_do_not_change() -> None:
    settings = Settings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.concurrency = 3  # type: ignore[misc]  # that it is refused is the point


@pytest.mark.parametrize(
    ("url", "mode", "kept"),
    [
        ("postgres://u:p@h/d", None, True),
        ("postgres://u:p@h:5432/d", None, True),
        ("postgres://u:p@h:6543/d", None, False),
        ("postgres://u:p@h1:5432,h2:6543/d", None, False),
        ("postgres://u:p@h:5432/d?pgbouncer=true", None, False),
        ("postgres://u:p@h:6543/d", "on", True),
        ("postgres://u:p@h/d?pgbouncer=true", "on", True),
        ("postgres://u:p@h:5432/d", "off", False),
    ],
)
def test_prepared_statements_are_off_behind_a_transaction_pooler(
    load: Load, url: str, mode: str | None, kept: bool
) -> None:
    settings = load(DATABASE_URL=url, VIDGEN_PREPARED_STATEMENTS=mode)

    assert settings.prepared_statements is kept


def test_words_of_other_clients_are_taken_out_of_the_database_url(load: Load) -> None:
    url = "postgres://u:p@h/d?sslmode=require&pgbouncer=true&connection_limit=1"

    settings = load(DATABASE_URL=url)

    assert settings.database_url == "postgres://u:p@h/d?sslmode=require"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h/d",
        "postgresql://u@[::1]:5432/d",
        "postgresql://u:p@h1,h2:5433/d?sslmode=verify-full",
        "postgresql:///d?host=/var/run/postgresql",
        "postgresql://u:p%40ss%2Fword@h/d",
    ],
)
def test_addresses_of_postgres(load: Load, url: str) -> None:
    assert load(DATABASE_URL=url).database_url == url


@pytest.mark.parametrize(
    "url",
    ["postgresql://h", "postgresql:///d", "https://h/d", "h/d", "postgresql://h/d?sslmode=on"],
)
def test_what_is_no_address_of_postgres(load: Load, url: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL: came"):
        load(DATABASE_URL=url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://user:p@h:6380/3",
        "rediss://h:6380",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://h1:26379,h2/main",
        "redis+sentinel://:p@h1:26379,h2:26379,h3:26379/main/2",
        "redis+sentinel://[::1]:26379/main/0",
    ],
)
def test_addresses_of_redis(load: Load, url: str) -> None:
    assert load(REDIS_URL=url).redis_url == url


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://h/name",
        "redis://h:port",
        "unix://",
        "redis+sentinel://h:26379",
        "redis+sentinel:///main/0",
        "redis+sentinel://h/main/zero",
        "h:6379",
    ],
)
def test_what_is_no_address_of_redis(load: Load, url: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL: came"):
        load(REDIS_URL=url)


def test_base_urls_lose_their_last_slash(load: Load) -> None:
    settings = load(OPENAI_BASE_URL="http://gateway:8080/openai/v1/")

    assert settings.openai_base_url == "http://gateway:8080/openai/v1"


@pytest.mark.parametrize(
    "url", ["gateway/v1", "ftp://h", "https://", "https://h:x", "https://h/#a"]
)
def test_what_is_no_base_url(load: Load, url: str) -> None:
    with pytest.raises(SettingsError, match="S3_ENDPOINT_URL: came"):
        load(S3_ENDPOINT_URL=url)


def test_the_first_of_several_keys_seals(load: Load) -> None:
    older = base64.urlsafe_b64encode(b"\xff" * 32).decode()

    settings = load(ENCRYPTION_KEYS=f"{KEY}, {older}")

    assert settings.encryption_key_bytes == (bytes(range(32)), b"\xff" * 32)


def test_one_key_is_a_list_of_one_and_none_is_empty(load: Load) -> None:
    assert load().encryption_key_bytes == ()
    assert load(ENCRYPTION_KEY=KEY).encryption_key_bytes == (bytes(range(32)),)


def test_only_one_of_the_two_names_for_keys_may_be_used(load: Load) -> None:
    with pytest.raises(SettingsError, match="ENCRYPTION_KEY: came beside ENCRYPTION_KEYS"):
        load(ENCRYPTION_KEY=KEY, ENCRYPTION_KEYS=KEY)


def test_prompts_are_sealed_only_where_there_is_a_key_to_seal_with(load: Load) -> None:
    with pytest.raises(SettingsError) as error:
        load(VIDGEN_ENCRYPT_PROMPTS="true")

    assert _problems(error) == [
        "VIDGEN_ENCRYPT_PROMPTS: came 'true'; wanted: false, or an ENCRYPTION_KEY to seal with"
        " (openssl rand -base64 32)"
    ]
    assert load(VIDGEN_ENCRYPT_PROMPTS="true", ENCRYPTION_KEYS=KEY).encrypt_prompts


def test_a_key_that_is_wrong_is_told_once(load: Load) -> None:
    with pytest.raises(SettingsError) as error:
        load(VIDGEN_ENCRYPT_PROMPTS="true", ENCRYPTION_KEY="short")

    assert [problem.partition(":")[0] for problem in _problems(error)] == ["ENCRYPTION_KEY"]


def test_what_is_wrong_with_routes_is_told_with_file_line_and_key(
    load: Load, tmp_path: Path
) -> None:
    file = tmp_path / "routes.toml"
    file.write_text("# ours\n[routes.cheap]\ntargets = ['sora']\non = ['never']\n")
    missing = tmp_path / "none.toml"

    with pytest.raises(SettingsError) as error:
        load(VIDGEN_ROUTES_FILE=str(file))
    with pytest.raises(SettingsError, match="a TOML file that can be read"):
        load(VIDGEN_ROUTES_FILE=str(missing))

    [problem] = _problems(error)
    assert f"{file}, line 2: routes.cheap.on: has 'never'; known are refused, " in problem

    file.write_text("[routes.cheap]\ntargets = ['sora', 'veo']\n")
    assert [
        each.provider for each in load(VIDGEN_ROUTES_FILE=str(file)).routes["cheap"].targets
    ] == [
        "sora",
        "veo",
    ]


def test_a_service_account_is_a_file_that_exists_or_json(load: Load, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"came '/nowhere\.json'; wanted: the path"):
        load(GOOGLE_APPLICATION_CREDENTIALS="/nowhere.json")

    (tmp_path / "account.json").write_text("{}")
    for text in (str(tmp_path / "account.json"), '{"type": "service_account"}'):
        assert load(GOOGLE_APPLICATION_CREDENTIALS=text).google_application_credentials


@pytest.mark.parametrize("size", [30, 2048])
@pytest.mark.parametrize("in_folder", [False, True], ids=["environment", "folder"])
def test_a_service_account_that_is_no_path_and_no_json_is_not_repeated(
    load: Load, tmp_path: Path, size: int, in_folder: bool
) -> None:
    key = base64.b64encode(b'{"type": "service_account", "private_key": "'.ljust(size, b"k"))
    given = {"GOOGLE_APPLICATION_CREDENTIALS": key.decode()}
    if in_folder:
        (tmp_path / "GOOGLE_APPLICATION_CREDENTIALS").write_bytes(key)
        given = {"VIDGEN_SECRETS_DIR": str(tmp_path)}

    with pytest.raises(SettingsError) as caught:
        load(**given)

    said = "".join(traceback.format_exception(caught.value))
    assert f"came a secret of {len(key)} characters; wanted: the path of a file" in said
    assert key.decode()[:16] not in said


def test_a_place_in_cloud_storage_needs_a_project(load: Load) -> None:
    with pytest.raises(SettingsError, match="GOOGLE_CLOUD_PROJECT_ID: nothing came"):
        load(VIDGEN_VEO_STORAGE_URI="gs://bucket/videos/")

    settings = load(VIDGEN_VEO_STORAGE_URI="gs://bucket/videos/", GOOGLE_CLOUD_PROJECT_ID="p")
    assert settings.veo_storage_uri == "gs://bucket/videos"


@pytest.mark.parametrize("token", ["secret", "vercel_blob_rw__x", "vercel_blob_rw_store"])
def test_a_blob_token_that_names_no_store_is_told_without_it(load: Load, token: str) -> None:
    with pytest.raises(SettingsError, match="wanted: vercel_blob_rw_STORE_SECRET") as caught:
        load(BLOB_READ_WRITE_TOKEN=token)

    assert f"came a secret of {len(token)} characters;" in caught.value.message
    assert load(BLOB_READ_WRITE_TOKEN="vercel_blob_rw_aB3_x9Y_z").uses_blob


def test_masking_keeps_what_helps_to_find_the_mistake() -> None:
    assert mask_url("redis://u:p@h:6379/0") == "redis://***@h:6379/0"
    assert mask_url("http://h/x?token=abc&region=eu") == "http://h/x?token=***&region=eu"


def test_every_setting_has_a_sentence_and_a_default_that_is_accepted(load: Load) -> None:
    settings = describe()

    load(**{setting.name: setting.default for setting in settings if setting.default})
    assert len({setting.name for setting in settings}) == len(Settings.model_fields)
    assert all(setting.sentence.endswith(".") for setting in settings)


def test_the_example_names_every_setting_as_the_code_does() -> None:
    expected = "\n".join(
        f"# {setting.sentence}\n{'' if needed else '#'}{setting.name}={setting.default}\n"
        for setting in describe()
        for needed in [setting.name in {"DATABASE_URL", "REDIS_URL"}]
    )

    assert (ROOT / "deploy" / "env.example").read_text().partition("\n\n")[2] == expected


def test_only_the_settings_know_where_postgres_is_named(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.postgres_bin() is None

    monkeypatch.setenv("VIDGEN_PG_BIN", "/opt/pg/bin")

    assert module.postgres_bin() == Path("/opt/pg/bin")
