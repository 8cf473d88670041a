"""
What the environment says, read once, checked as a whole, frozen. Nothing else reads it.

`Settings.load()` is for programs: it looks at `.env`, at the files of VIDGEN_SECRETS_DIR, which win
over it, and at the environment, which wins over both, and tells every problem at once.
`Settings(...)` is for code and tests: values given are all there is.
"""

import base64
import binascii
import difflib
import ipaddress
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import SplitResult, parse_qsl, urlsplit

from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from vidgen import webhook
from vidgen.errors import SettingsError
from vidgen.route import Route, routes_of

Need = Literal["database", "redis"]
LogLevel = Literal["trace", "debug", "info", "warning", "error", "critical"]
LogFormat = Literal["auto", "json", "pretty"]
Role = Literal["read", "operate"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

EVERYTHING: frozenset[Need] = frozenset({"database", "redis"})
OWN_PREFIX = "VIDGEN_"
POOLER_PORT = 6543  # where Supabase and its like offer PostgreSQL in transaction mode
KEY_BYTES = 32  # of XChaCha20-Poly1305
MIN_TOKEN_CHARS = 16

_DATABASE_WANTED = "postgresql://user:password@host:5432/name, special characters as %XX"
_REDIS_WANTED = (
    "redis://, rediss:// or unix:// with an address, "
    "or redis+sentinel://host1:26379,host2:26379/service/0"
)
_ENV_FILE = Path(".env")
_SECRETS_DIR = "VIDGEN_SECRETS_DIR"
_PATH = re.compile(r"(?:[/.~]|[A-Za-z]:[\\/])[^\r\n]{0,127}")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")  # of ours, or of a plug-in
_MAX_SECRET_BYTES = 65_536  # the JSON of a service account has 2,400

_PAIRS = (
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    ("KLING_ACCESS_KEY", "KLING_SECRET_KEY"),
)
_SSL_MODES = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
# Said by other clients (Prisma, libpq, Neon, Supabase); asyncpg would send them to the server as
# settings, and the server refuses the connection.
_NOT_FOR_ASYNCPG = {
    "pgbouncer",
    "connection_limit",
    "pool_timeout",
    "connect_timeout",
    "channel_binding",
    "gssencmode",
    "supa",
}


def _wanted(sentence: str) -> PydanticCustomError:
    # `{` has a meaning in the template, so the sentence goes in as context.
    return PydanticCustomError("wanted", "{wanted}", {"wanted": sentence})


def _http_url(text: str) -> str:
    wanted = _wanted("http://host or https://host, without user, query or fragment")
    parts = _split(text, wanted)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise wanted
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise wanted
    return text.rstrip("/")


def _split(text: str, wanted: PydanticCustomError) -> SplitResult:
    """Parse *text*, with a port that is a number if there is one host only."""
    try:
        parts = urlsplit(text)
        if "," not in parts.netloc:
            _ = parts.port  # raises on a port that is none
    except ValueError:
        raise wanted from None  # the message would repeat the password
    return parts


HttpUrl = Annotated[str, AfterValidator(_http_url)]


class Settings(BaseSettings):
    """
    Every setting of vidgen, by the name the environment has for it, with its default.

    A text that is empty here is not set. Secrets never show in a repr, a log or an error.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        case_sensitive=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )

    # --- servers ---
    database_url: str = Field(
        "",
        validation_alias="DATABASE_URL",
        repr=False,
        description="PostgreSQL, the truth: postgresql://user:password@host:5432/name?sslmode=require.",
    )
    database_pool_size: int = Field(
        10,
        validation_alias="VIDGEN_DATABASE_POOL_SIZE",
        ge=1,
        le=500,
        description="Connections to PostgreSQL a process opens at most.",
    )
    prepared_statements_mode: Literal["auto", "on", "off"] = Field(
        "auto",
        validation_alias="VIDGEN_PREPARED_STATEMENTS",
        description="auto: off behind a transaction pooler (port 6543, pgbouncer=true), else on.",
    )
    redis_url: str = Field(
        "",
        validation_alias="REDIS_URL",
        repr=False,
        description="Redis, disposable: redis://, rediss://, unix:// or "
        "redis+sentinel://h1:26379,h2:26379/service/0.",
    )
    queue_name: str = Field(
        "vidgen:queue",
        validation_alias="VIDGEN_QUEUE_NAME",
        min_length=1,
        max_length=200,
        description="Key of the dispatches in Redis; one per installation that shares a Redis.",
    )

    # --- keys of our own ---
    encryption_key: SecretStr | None = Field(
        None,
        validation_alias="ENCRYPTION_KEY",
        description="Seals provider keys and prompts: base64 of 32 random bytes.",
    )
    encryption_keys: SecretStr | None = Field(
        None,
        validation_alias="ENCRYPTION_KEYS",
        description="The same for rotation, comma separated: the first seals, all of them open.",
    )
    encrypt_prompts: bool = Field(
        False,
        validation_alias="VIDGEN_ENCRYPT_PROMPTS",
        description="Store prompts and input images sealed; needs ENCRYPTION_KEY(S).",
    )
    admin_token: SecretStr | None = Field(
        None,
        validation_alias="ADMIN_TOKEN",
        description="Opens the admin endpoints as a Bearer token; at least 16 characters.",
    )
    admin_tokens: SecretStr | None = Field(
        None,
        validation_alias="VIDGEN_ADMIN_TOKENS",
        description="More of them: NAME:ROLE:TOKEN, comma separated; ROLE is read or operate.",
    )

    # --- webhooks ---
    webhook_secrets: SecretStr | None = Field(
        None,
        validation_alias="VIDGEN_WEBHOOK_SECRETS",
        description="Sign webhooks: whsec_… or whsk_…, comma separated; each of them signs.",
    )
    openai_webhook_secret: SecretStr | None = Field(
        None,
        validation_alias="OPENAI_WEBHOOK_SECRET",
        description="Opens POST /api/webhooks/openai: the whsec_… secret of OpenAI's webhook.",
    )
    gemini_webhook_secret: SecretStr | None = Field(
        None,
        validation_alias="GEMINI_WEBHOOK_SECRET",
        description="Opens POST /api/webhooks/gemini: the secret of a static Gemini API webhook.",
    )

    # --- logs ---
    log_level: Annotated[LogLevel, BeforeValidator(lambda text: str(text).lower())] = Field(
        "info", validation_alias="LOG_LEVEL", description="The least important level written."
    )
    log_format: LogFormat = Field(
        "auto",
        validation_alias="LOG_FORMAT",
        description="json or pretty; auto is json, but pretty on a terminal.",
    )

    # --- providers ---
    openai_api_key: SecretStr | None = Field(
        None, validation_alias="OPENAI_API_KEY", description="Key for the provider sora."
    )
    openai_base_url: HttpUrl = Field(
        "https://api.openai.com/v1",
        validation_alias="OPENAI_BASE_URL",
        description="Where the OpenAI Videos protocol is spoken; a gateway or compatible server.",
    )
    openai_auth_style: Literal["bearer", "api-key"] = Field(
        "bearer",
        validation_alias="OPENAI_AUTH_STYLE",
        description="Header of the key: bearer (Authorization) or api-key (Azure).",
    )
    gemini_api_key: SecretStr | None = Field(
        None,
        validation_alias="GEMINI_API_KEY",
        description="Key for veo and omni on the Gemini API.",
    )
    gemini_base_url: HttpUrl = Field(
        "https://generativelanguage.googleapis.com/v1beta",
        validation_alias="GEMINI_BASE_URL",
        description="Where the Gemini API is spoken.",
    )
    google_cloud_project_id: str = Field(
        "",
        validation_alias="GOOGLE_CLOUD_PROJECT_ID",
        description="Project for veo on Vertex AI; set, it turns Vertex AI on.",
    )
    google_cloud_location: str = Field(
        "us-central1",
        validation_alias="GOOGLE_CLOUD_LOCATION",
        pattern=r"^[a-z0-9-]+$",
        description="Region of Vertex AI, or global.",
    )
    google_application_credentials: SecretStr | None = Field(
        None,
        validation_alias="GOOGLE_APPLICATION_CREDENTIALS",
        description="Path or JSON of a service account; empty: what the machine itself offers.",
    )
    vertex_base_url: HttpUrl | None = Field(
        None,
        validation_alias="VERTEX_BASE_URL",
        description="Where Vertex AI is spoken, with its version; empty: the location's own host.",
    )
    gcs_base_url: HttpUrl = Field(
        "https://storage.googleapis.com",
        validation_alias="GCS_BASE_URL",
        description="Where videos that Vertex AI writes to Cloud Storage are read.",
    )
    veo_storage_uri: str = Field(
        "",
        validation_alias="VIDGEN_VEO_STORAGE_URI",
        description="gs://bucket/prefix Vertex AI writes to; empty: it answers inline.",
    )
    fal_key: SecretStr | None = Field(
        None, validation_alias="FAL_KEY", description="Key for the provider fal."
    )
    fal_base_url: HttpUrl = Field(
        "https://queue.fal.run",
        validation_alias="FAL_BASE_URL",
        description="Where the queue of fal is.",
    )
    runwayml_api_secret: SecretStr | None = Field(
        None, validation_alias="RUNWAYML_API_SECRET", description="Key for the provider runway."
    )
    runwayml_base_url: HttpUrl = Field(
        "https://api.dev.runwayml.com/v1",
        validation_alias="RUNWAYML_BASE_URL",
        description="Where the Runway API is spoken.",
    )
    replicate_api_token: SecretStr | None = Field(
        None,
        validation_alias="REPLICATE_API_TOKEN",
        description="Token for the provider replicate.",
    )
    replicate_base_url: HttpUrl = Field(
        "https://api.replicate.com/v1",
        validation_alias="REPLICATE_BASE_URL",
        description="Where the Replicate API is spoken.",
    )
    lumaai_api_key: SecretStr | None = Field(
        None, validation_alias="LUMAAI_API_KEY", description="Key for the provider luma."
    )
    lumaai_base_url: HttpUrl = Field(
        "https://api.lumalabs.ai/dream-machine/v1",
        validation_alias="LUMAAI_BASE_URL",
        description="Where the Luma API is spoken.",
    )
    kling_access_key: SecretStr | None = Field(
        None,
        validation_alias="KLING_ACCESS_KEY",
        description="Access key for the provider kling; signs with its secret.",
    )
    kling_secret_key: SecretStr | None = Field(
        None, validation_alias="KLING_SECRET_KEY", description="The secret of that access key."
    )
    kling_base_url: HttpUrl = Field(
        "https://api-singapore.klingai.com/v1",
        validation_alias="KLING_BASE_URL",
        description="Where the Kling API is spoken.",
    )
    minimax_api_key: SecretStr | None = Field(
        None, validation_alias="MINIMAX_API_KEY", description="Key for the provider minimax."
    )
    minimax_base_url: HttpUrl = Field(
        "https://api.minimax.io",
        validation_alias="MINIMAX_BASE_URL",
        description="Where the MiniMax API is spoken, before its version.",
    )
    ark_api_key: SecretStr | None = Field(
        None,
        validation_alias="ARK_API_KEY",
        description="Key for the provider seedance; of one region.",
    )
    ark_base_url: HttpUrl = Field(
        "https://ark.ap-southeast.bytepluses.com/api/v3",
        validation_alias="ARK_BASE_URL",
        description="Where ModelArk is spoken, in the region of the key.",
    )
    xai_api_key: SecretStr | None = Field(
        None, validation_alias="XAI_API_KEY", description="Key for the provider xai."
    )
    xai_base_url: HttpUrl = Field(
        "https://api.x.ai/v1",
        validation_alias="XAI_BASE_URL",
        description="Where the xAI API is spoken.",
    )
    dashscope_api_key: SecretStr | None = Field(
        None,
        validation_alias="DASHSCOPE_API_KEY",
        description="Key for the provider wan; of one region.",
    )
    dashscope_base_url: HttpUrl = Field(
        "https://dashscope-intl.aliyuncs.com/api/v1",
        validation_alias="DASHSCOPE_BASE_URL",
        description="Where DashScope is spoken, in the region of the key.",
    )

    allow_server_keys: bool = Field(
        True,
        validation_alias="VIDGEN_ALLOW_SERVER_KEYS",
        description="Jobs of users who have no key of their own may use the server's.",
    )

    # --- storage ---
    s3_bucket: str = Field(
        "videos", validation_alias="S3_BUCKET", min_length=1, description="Bucket of the results."
    )
    s3_endpoint_url: HttpUrl | None = Field(
        None, validation_alias="S3_ENDPOINT_URL", description="S3 endpoint; empty: AWS itself."
    )
    s3_public_url: HttpUrl | None = Field(
        None,
        validation_alias="S3_PUBLIC_URL",
        description="Address under which the bucket's keys are public; empty: presigned URLs.",
    )
    s3_addressing_style: Literal["auto", "path", "virtual"] = Field(
        "auto",
        validation_alias="S3_ADDRESSING_STYLE",
        description="Bucket in the path or in the host name.",
    )
    blob_read_write_token: SecretStr | None = Field(
        None,
        validation_alias="BLOB_READ_WRITE_TOKEN",
        description="Vercel Blob keeps the results, unless S3_BUCKET or S3_ENDPOINT_URL is set.",
    )
    blob_access: Literal["public", "private"] = Field(
        "public",
        validation_alias="VIDGEN_BLOB_ACCESS",
        description="What the Blob store was made as; private: presigned URLs.",
    )
    blob_api_url: HttpUrl = Field(
        "https://vercel.com/api/blob",
        validation_alias="VERCEL_BLOB_API_URL",
        description="Where the API of Vercel Blob is spoken.",
    )
    blob_object_url: HttpUrl | None = Field(
        None,
        validation_alias="VIDGEN_BLOB_OBJECT_URL",
        description="What keys are appended to; empty: the Blob store's own address.",
    )
    aws_access_key_id: str = Field(
        "",
        validation_alias="AWS_ACCESS_KEY_ID",
        description="S3 access key; empty: what the machine itself offers.",
    )
    aws_secret_access_key: SecretStr | None = Field(
        None, validation_alias="AWS_SECRET_ACCESS_KEY", description="Secret of the access key."
    )
    aws_session_token: SecretStr | None = Field(
        None, validation_alias="AWS_SESSION_TOKEN", description="Goes with temporary access keys."
    )
    aws_region: str = Field(
        "us-east-1",
        validation_alias="AWS_REGION",
        min_length=1,
        description="Region requests are signed for; auto for R2.",
    )
    presigned_url_expires_s: int = Field(
        900,
        validation_alias="VIDGEN_PRESIGNED_URL_EXPIRES_S",
        ge=1,
        le=604_800,  # what S3 signs for at most
        description="How long a presigned URL of a result works.",
    )
    part_size_mb: int = Field(
        8,
        validation_alias="VIDGEN_PART_SIZE_MB",
        ge=5,  # S3 refuses smaller parts
        le=512,
        description="Part of a multipart upload, held in memory.",
    )
    parts_in_flight: int = Field(
        3,
        validation_alias="VIDGEN_PARTS_IN_FLIGHT",
        ge=1,
        le=32,
        description="Parts one transfer uploads at once.",
    )

    # --- the way of a video ---
    concurrency: int = Field(
        2,
        validation_alias="VIDGEN_CONCURRENCY",
        ge=1,
        le=20_000,
        description="Videos one worker process has in flight.",
    )
    rate_limit_per_min: int = Field(
        10,
        validation_alias="VIDGEN_RATE_LIMIT_PER_MIN",
        ge=1,
        le=1_000_000,
        description="Submits a minute over all workers, per provider and credential.",
    )
    user_concurrency: int = Field(
        0,
        validation_alias="VIDGEN_USER_CONCURRENCY",
        ge=0,
        le=1_000_000,
        description="Videos of one user under way at once, over all workers; 0 is no limit.",
    )
    max_attempts: int = Field(
        3,
        validation_alias="VIDGEN_MAX_ATTEMPTS",
        ge=1,
        le=20,
        description="Paid submits one job may cost.",
    )
    on_submit_unknown: Literal["fail", "resubmit"] = Field(
        "fail",
        validation_alias="VIDGEN_ON_SUBMIT_UNKNOWN",
        description="When nobody can know whether a paid submit arrived: fail, or spend again.",
    )
    routes_file: str = Field(
        "",
        validation_alias="VIDGEN_ROUTES_FILE",
        description="TOML file with routes: who makes a video, and who instead, by a name.",
    )
    settle_s: float = Field(
        60,
        validation_alias="VIDGEN_SETTLE_S",
        ge=0,
        le=3600,
        description="How long a submit may take to show in the provider's list.",
    )
    submit_timeout_s: float = Field(
        120,
        validation_alias="VIDGEN_SUBMIT_TIMEOUT_S",
        ge=1,
        le=900,
        description="How long the answer to a submit may take; a server may hold one as long.",
    )
    backoff_s: float = Field(
        2,
        validation_alias="VIDGEN_BACKOFF_S",
        ge=0,
        le=600,
        description="First wait after an error; doubles, with jitter.",
    )
    poll_interval_s: float = Field(
        5,
        validation_alias="VIDGEN_POLL_INTERVAL_S",
        ge=0.01,
        le=600,
        description=(
            "Least time between two looks at one video; the provider may say when, lists come"
            " closer."
        ),
    )
    poll_max_attempts: int = Field(
        120,
        validation_alias="VIDGEN_POLL_MAX_ATTEMPTS",
        ge=1,
        le=100_000,
        description="Looks of one polling round.",
    )
    deadline_s: int = Field(
        1800,
        validation_alias="VIDGEN_DEADLINE_S",
        ge=1,
        le=604_800,
        description="The one deadline of a job over all stages; waiting for a turn does not count.",
    )
    transfer_concurrency: int = Field(
        4,
        validation_alias="VIDGEN_TRANSFER_CONCURRENCY",
        ge=1,
        le=1000,
        description="Videos one worker process moves into storage at once.",
    )
    lease_ttl_s: float = Field(
        15,
        validation_alias="VIDGEN_LEASE_TTL_S",
        ge=3,
        le=3600,
        description="A worker silent for so long is dead; its jobs go to others.",
    )
    shutdown_grace_s: float = Field(
        20,
        validation_alias="VIDGEN_SHUTDOWN_GRACE_S",
        ge=0,
        le=3600,
        description="How long transfers may finish after SIGTERM.",
    )
    progress_interval_s: float = Field(
        2,
        validation_alias="VIDGEN_PROGRESS_INTERVAL_S",
        ge=0.01,
        le=300,
        description="Between two writes of progress to PostgreSQL, for all jobs of a process.",
    )
    sweep_interval_s: float = Field(
        5,
        validation_alias="VIDGEN_SWEEP_INTERVAL_S",
        ge=0.05,
        le=3600,
        description="Between two searches for jobs that nobody carries on.",
    )
    retention_hours: float = Field(
        24,
        validation_alias="VIDGEN_RETENTION_HOURS",
        ge=0.01,
        le=87_600,
        description="How long failed and cancelled jobs are kept.",
    )
    result_retention_days: int = Field(
        0,
        validation_alias="VIDGEN_RESULT_RETENTION_DAYS",
        ge=0,
        le=36_500,
        description="How long completed videos are kept; then their files go, too. 0: for ever.",
    )
    allow_unknown_models: bool = Field(
        False,
        validation_alias="VIDGEN_ALLOW_UNKNOWN_MODELS",
        description="Accept models the catalog does not know; they carry no price.",
    )
    budget_usd_per_day: Decimal | None = Field(
        None,
        validation_alias="VIDGEN_BUDGET_USD_PER_DAY",
        ge=0,
        le=1_000_000_000,
        decimal_places=6,
        description="What all videos together may cost a day (UTC), until somebody sets another.",
    )
    budget_usd_per_month: Decimal | None = Field(
        None,
        validation_alias="VIDGEN_BUDGET_USD_PER_MONTH",
        ge=0,
        le=1_000_000_000,
        decimal_places=6,
        description="What they may cost a month (UTC), until somebody sets another budget.",
    )
    allow_unknown_prices: bool = Field(
        False,
        validation_alias="VIDGEN_ALLOW_UNKNOWN_PRICES",
        description="Accept what nobody can price: jobs under budgets, fallbacks with no ceiling.",
    )
    allow_private_addresses: bool = Field(
        False,
        validation_alias="VIDGEN_ALLOW_PRIVATE_ADDRESSES",
        description="Fetch images and results, and call webhooks, in private networks, too.",
    )

    otlp_endpoint: HttpUrl | None = Field(
        None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="Where traces go, by OTLP over HTTP; empty: nowhere. Needs vidgen[otel].",
    )

    # --- doors ---
    http_host: str = Field(
        "0.0.0.0",  # noqa: S104  health checks of an orchestrator come from outside
        validation_alias="VIDGEN_HTTP_HOST",
        min_length=1,
        description="Address the worker's server listens on.",
    )
    http_port: int = Field(
        3000,
        validation_alias="VIDGEN_HTTP_PORT",
        ge=0,
        le=65_535,
        description="Port of the worker's server; 0 turns it off.",
    )
    http_requests_per_min: int = Field(
        12_000,
        validation_alias="VIDGEN_HTTP_REQUESTS_PER_MIN",
        ge=0,
        le=100_000_000,
        description="Requests a minute a server process takes from one token; 0: no limit.",
    )
    http_requests_per_min_per_address: int = Field(
        3000,
        validation_alias="VIDGEN_HTTP_REQUESTS_PER_MIN_PER_ADDRESS",
        ge=0,
        le=100_000_000,
        description="The same from one address without a valid token, probes apart; 0: no limit.",
    )
    http_connections: int = Field(
        2000,
        validation_alias="VIDGEN_HTTP_CONNECTIONS",
        ge=1,
        le=1_000_000,
        description="Connections a server process has at once, streams of events apart.",
    )
    http_connections_per_address: int = Field(
        500,
        validation_alias="VIDGEN_HTTP_CONNECTIONS_PER_ADDRESS",
        ge=1,
        le=1_000_000,
        description="The same from one address; trusted proxies have no such limit.",
    )
    trusted_proxies: str = Field(
        "",
        validation_alias="VIDGEN_TRUSTED_PROXIES",
        description="Addresses or networks, comma separated, whose X-Forwarded-For is believed.",
    )
    secrets_dir: str = Field(
        "",
        validation_alias=_SECRETS_DIR,
        description="Folder with a file per setting, named as the setting, holding its value.",
    )
    # What the variables say that are none of ours: a plug-in may ask for its own.
    _others: dict[str, SecretStr] = PrivateAttr(default_factory=dict)

    pg_bin: str = Field(
        "",
        validation_alias="VIDGEN_PG_BIN",
        description="Folder of the PostgreSQL programs for dev mode and tests; empty: found.",
    )

    @classmethod
    def load(
        cls, *, needs: frozenset[Need] = EVERYTHING, env_file: Path | None = _ENV_FILE
    ) -> Self:
        """
        Read `.env`, the files of VIDGEN_SECRETS_DIR and the environment; the later one wins.

        Raises:
            SettingsError: One line per problem: name, what came (secrets masked), what is wanted.
        """
        given = _given(env_file)
        problems = [_unknown(name) for name in sorted(given) if _is_typo(name)]
        known = {name: text for name, text in given.items() if name in _FIELDS}
        settings: Self | None = None
        try:
            settings = cls.model_validate(known)
        except ValidationError as error:
            problems += [_problem(detail, known) for detail in error.errors()]
        problems += [
            f"{name}: nothing came; wanted: {wanted}"
            for need, name, wanted in (
                ("database", "DATABASE_URL", _DATABASE_WANTED),
                ("redis", "REDIS_URL", _REDIS_WANTED),
            )
            if need in needs and name not in known
        ]
        problems += _disagreements(known)
        if settings is None or problems:
            raise SettingsError("The settings are not usable:\n  " + "\n  ".join(problems))
        settings._others = {name: SecretStr(given[name]) for name in given.keys() - known.keys()}
        return settings

    @classmethod
    def load_or_exit(cls, *, needs: frozenset[Need] = EVERYTHING) -> Self:
        """The settings, or the end of the process: every problem on stderr, exit code 2."""
        try:
            return cls.load(needs=needs)
        except SettingsError as error:
            sys.stderr.write(f"{error.message}\n")
            raise SystemExit(2) from None

    def variable(self, name: str) -> str:
        """
        What *name* is set to, in the spelling of the environment, or its default; empty if neither.

        One that is no setting of ours is a plug-in's: of those all that was there is kept, as it is
        not known before a provider is asked for which of them mean anything. Secrets come as they
        are: what asks must not show them.
        """
        attribute = _ATTRIBUTES.get(name)
        value = self._others.get(name) if attribute is None else getattr(self, attribute)
        if value is None:
            return ""
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

    def with_variables(self, values: Mapping[str, str]) -> Self:
        """
        The same with *values* by their names in the environment: of ours, and of plug-ins.

        Raises:
            ValidationError: One of ours does not fit.
        """
        ours = {name: text for name, text in values.items() if name in _ATTRIBUTES}
        mine = {name: getattr(self, name) for name in self.model_fields_set}
        mine |= {_ATTRIBUTES[name]: text for name, text in ours.items()}
        changed = type(self).model_validate(mine)
        others = {name: SecretStr(text) for name, text in values.items() if name not in ours}
        changed._others = self._others | others
        return changed

    @staticmethod
    def of_variables(variables: Collection[str]) -> tuple[str, ...]:
        """The fields that have *variables* as their names in the environment."""
        return tuple(field for name, field in _ATTRIBUTES.items() if name in variables)

    @property
    def prepared_statements(self) -> bool:
        """Whether a connection keeps its prepared statements: not behind a transaction pooler."""
        if self.prepared_statements_mode == "auto":
            hosts = urlsplit(self.database_url).netloc.rpartition("@")[2].split(",")
            return not any(host.endswith(f":{POOLER_PORT}") for host in hosts)
        return self.prepared_statements_mode == "on"

    @property
    def encryption_key_bytes(self) -> tuple[bytes, ...]:
        """The keys that open what is sealed; the first one seals. Empty if none is set."""
        secret = self.encryption_keys or self.encryption_key
        return _keys(secret.get_secret_value()) if secret else ()

    @property
    def budgets_micros(self) -> "tuple[tuple[Literal['day', 'month'], int], ...]":
        """The budgets over all videos, by period, in micro-dollars; empty if none is set."""
        limits: tuple[tuple[Literal["day", "month"], Decimal | None], ...] = (
            ("day", self.budget_usd_per_day),
            ("month", self.budget_usd_per_month),
        )
        return tuple(
            (period, int(dollars * 1_000_000)) for period, dollars in limits if dollars is not None
        )

    @property
    def webhook_signers(self) -> tuple[webhook.Secret, ...]:
        """What signs every webhook we send; empty if none is set."""
        secret = self.webhook_secrets
        return webhook.secrets_of(secret.get_secret_value()) if secret else ()

    @property
    def routes(self) -> dict[str, Route]:
        """
        Who makes a video, and who instead, by the names that requests use; read now.

        Raises:
            SettingsError: The file was changed since, and is no good now.
        """
        try:
            return _routes(self.routes_file)
        except PydanticCustomError as error:
            raise SettingsError(f"VIDGEN_ROUTES_FILE: wanted {error.message()}") from None

    @property
    def trusted_networks(self) -> tuple[Network, ...]:
        """Where our reverse proxies are; empty if there are none."""
        return _networks(self.trusted_proxies)

    @property
    def uses_blob(self) -> bool:
        """Whether results go to Vercel Blob: its token is there, and no bucket is named."""
        named = {"s3_bucket", "s3_endpoint_url"} & self.model_fields_set
        return self.blob_read_write_token is not None and not named

    @property
    def part_size_bytes(self) -> int:
        """Bytes of one part of a multipart upload."""
        return self.part_size_mb * 1024 * 1024

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Values given in code only: `load` is the one place that looks around."""
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _heed_pgbouncer_flag(cls, given: Any) -> Any:
        # The flag is taken out of the URL below, so its meaning is kept here.
        names = ("VIDGEN_PREPARED_STATEMENTS", "prepared_statements_mode")
        url = given.get("DATABASE_URL", given.get("database_url", ""))
        if not any(name in given for name in names) and "pgbouncer=true" in str(url):
            return {**given, names[1]: "off"}
        return given

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, text: str) -> str:
        return _database_url(text)

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, text: str) -> str:
        return _redis_url(text)

    @field_validator("encryption_key", "encryption_keys")
    @classmethod
    def _check_keys(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            _keys(secret.get_secret_value())
        return secret

    @field_validator("encrypt_prompts")
    @classmethod
    def _check_encrypt_prompts(cls, wanted: bool, info: ValidationInfo) -> bool:
        names = ("encryption_key", "encryption_keys")
        # One that is there and wrong is told already.
        if wanted and all(info.data.get(name, ...) is None for name in names):
            raise _wanted("false, or an ENCRYPTION_KEY to seal with (openssl rand -base64 32)")
        return wanted

    @field_validator("admin_token")
    @classmethod
    def _check_token(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < MIN_TOKEN_CHARS:
            raise _wanted(f"at least {MIN_TOKEN_CHARS} characters")
        return secret

    @field_validator("admin_tokens")
    @classmethod
    def _check_tokens(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            tokens_of(secret.get_secret_value())
        return secret

    @field_validator("webhook_secrets", "openai_webhook_secret", "gemini_webhook_secret")
    @classmethod
    def _check_webhook_secrets(
        cls, secret: SecretStr | None, field: ValidationInfo
    ) -> SecretStr | None:
        if secret is None:
            return secret
        try:
            found = webhook.secrets_of(secret.get_secret_value())
        except ValueError:
            found = ()
        if field.field_name == "webhook_secrets":
            if not found:
                raise _wanted(webhook.SECRETS_WANTED)
        elif {each.scheme for each in found} != {"v1"}:
            raise _wanted(webhook.HMAC_SECRETS_WANTED)
        return secret

    @field_validator("blob_read_write_token")
    @classmethod
    def _check_blob_token(cls, secret: SecretStr | None) -> SecretStr | None:
        form = r"vercel_blob_rw_[A-Za-z0-9]+_\w+"
        if secret is not None and not re.fullmatch(form, secret.get_secret_value(), re.ASCII):
            raise _wanted("vercel_blob_rw_STORE_SECRET, as the Blob store's page shows it")
        return secret

    @field_validator("google_application_credentials")
    @classmethod
    def _check_credentials(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            text = secret.get_secret_value()
            if not text.startswith("{") and not _is_file(text):
                raise _wanted("the path of a file that exists, or the JSON of a service account")
        return secret

    @field_validator("routes_file")
    @classmethod
    def _check_routes_file(cls, text: str) -> str:
        _routes(text)
        return text

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, text: str) -> str:
        try:
            _networks(text)
        except ValueError:
            raise _wanted("addresses or networks as 10.0.0.0/8, with commas between") from None
        return text

    @field_validator("veo_storage_uri")
    @classmethod
    def _check_storage_uri(cls, text: str) -> str:
        if text and not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]+(/\S*)?", text):
            raise _wanted("gs://bucket or gs://bucket/prefix")
        return text.rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminToken:
    """
    What opens the HTTP API.

    Attributes:
        name: Whose it is, for the record of actions.
    """

    name: str
    role: Role
    token: str = field(repr=False)


def tokens_of(text: str) -> tuple[AdminToken, ...]:
    """The tokens in VIDGEN_ADMIN_TOKENS; names and tokens are each used once."""
    tokens = tuple(_token(part.strip()) for part in text.split(","))
    if len({token.name for token in tokens}) + len({token.token for token in tokens}) < 2 * len(
        tokens
    ):
        raise _wanted("each name and each token once")
    return tokens


def _token(text: str) -> AdminToken:
    name, _, rest = text.partition(":")
    role, _, token = rest.partition(":")
    if not re.fullmatch(r"[\w.@-]{1,64}", name) or len(token) < MIN_TOKEN_CHARS:
        raise _wanted(f"NAME:ROLE:TOKEN with a token of at least {MIN_TOKEN_CHARS} characters")
    if role == "read":
        return AdminToken(name=name, role="read", token=token)
    if role == "operate":
        return AdminToken(name=name, role="operate", token=token)
    raise _wanted("NAME:ROLE:TOKEN with the role read or operate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting as documentation tells it; *default* is the text one would write, `` if none."""

    name: str
    default: str
    sentence: str


def describe() -> tuple[Setting, ...]:
    """Every setting with its name in the environment, its default and its sentence, in order."""
    return tuple(
        Setting(
            name=name,
            default=_default(field.default),
            sentence=field.description or "",
        )
        for name, field in _FIELDS.items()
    )


def postgres_bin() -> Path | None:
    """The folder of the PostgreSQL programs if VIDGEN_PG_BIN names one; needs no other setting."""
    text = _given(_ENV_FILE).get("VIDGEN_PG_BIN")
    return Path(text) if text else None


def mask_url(text: str) -> str:
    """*text* without what opens a door: user and password before the host, secrets in the query."""
    text = re.sub(r"(?is)^([a-z0-9+.-]*://)?.*@", r"\1***@", text)
    return re.sub(r"(?i)((?:password|secret|token|key|sig\w*)=)[^&\s]*", r"\1***", text)


def _default(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _given(env_file: Path | None) -> dict[str, str]:
    """What is set and not empty, by name, without the white space that copying brings along."""
    try:
        in_file = DotEnvSettingsSource(Settings, env_file=env_file).env_vars
    except (OSError, ValueError) as error:  # no right to read it; no UTF-8
        raise SettingsError(
            f"{env_file}: cannot be read ({type(error).__name__}); wanted a text in UTF-8"
        ) from error
    environment = EnvSettingsSource(Settings).env_vars
    folder = environment.get(_SECRETS_DIR, in_file.get(_SECRETS_DIR))
    secrets = _in_folder(Path(folder)) if folder else {}
    # An empty variable hides a `.env` that lies around, but no secret that somebody mounted.
    hidden = {name for name, text in environment.items() if (text or "").strip()}
    sources: tuple[Mapping[str, str | None], ...] = (
        in_file,
        environment,
        {name: text for name, text in secrets.items() if name not in hidden},
    )
    stripped = {
        name: text.strip()
        for source in sources
        for name, text in source.items()
        if text is not None
    }
    return {name: text for name, text in stripped.items() if text}


def _in_folder(folder: Path) -> dict[str, str]:
    """What the files of *folder* say, as Docker, Kubernetes and systemd lay secrets out."""
    try:
        # What is named otherwise is nobody's variable, and may be closed to us.
        files = [path for path in folder.iterdir() if _VARIABLE.fullmatch(path.name)]
        return {path.name: _secret(path) for path in files}
    except (OSError, ValueError) as error:  # no such folder, no right to read it; no UTF-8
        raise SettingsError(
            f"{_SECRETS_DIR}: {folder} cannot be read ({type(error).__name__}); "
            "wanted a folder with small files in UTF-8"
        ) from error


def _secret(path: Path) -> str:
    with path.open("rb") as file:
        text = file.read(_MAX_SECRET_BYTES + 1)
    if len(text) > _MAX_SECRET_BYTES:
        raise ValueError  # a device, a dump
    return text.decode()


def _is_typo(name: str) -> bool:
    return name.startswith(OWN_PREFIX) and name not in _FIELDS


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0)
    return f"{name}: vidgen has no such setting; did you mean {nearest[0]}?"


def _problem(detail: ErrorDetails, given: Mapping[str, str]) -> str:
    name = str(detail["loc"][0])
    came = _shown(_FIELDS[name], given.get(name, ""))
    return f"{name}: came {came}; wanted: {_expectation(detail, _FIELDS[name])}"


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long, a NUL: no path at all, and the error would repeat it
        return False


def _shown(field: FieldInfo, text: str) -> str:
    """What came, in a form that may stand in a log."""
    # Whoever gives the key itself where a path belongs must not read it in the log.
    is_path = field.validation_alias == "GOOGLE_APPLICATION_CREDENTIALS" and _PATH.fullmatch(text)
    if SecretStr in get_args(field.annotation) and not is_path:
        return f"a secret of {len(text)} characters"
    return repr(mask_url(text))


def _expectation(detail: ErrorDetails, field: FieldInfo) -> str:
    """What would have been right, from the field rather than from the one bound that was missed."""
    if detail["type"] == "wanted":
        return str(detail["ctx"]["wanted"])
    if field.annotation is bool:
        return "true or false"
    if field.annotation in {int, float}:
        low, high = (
            next(getattr(bound, word) for bound in field.metadata if isinstance(bound, kind))
            for kind, word in ((Ge, "ge"), (Le, "le"))
        )
        kind = "a whole number" if field.annotation is int else "a number"
        return f"{kind} from {low} to {high}"
    if choices := get_args(field.annotation):
        return "one of " + ", ".join(str(choice) for choice in choices)
    return detail["msg"]


def _disagreements(given: Mapping[str, str]) -> list[str]:
    """Settings that are right one by one, but not together."""
    problems = []
    for pair in _PAIRS:
        missing = [name for name in pair if name not in given]
        if len(missing) == 1:
            problems.append(
                f"{missing[0]}: nothing came; wanted: both {pair[0]} and {pair[1]}, or none"
            )
    if "ENCRYPTION_KEY" in given and "ENCRYPTION_KEYS" in given:
        problems.append("ENCRYPTION_KEY: came beside ENCRYPTION_KEYS; wanted: one of the two")
    if "VIDGEN_VEO_STORAGE_URI" in given and "GOOGLE_CLOUD_PROJECT_ID" not in given:
        problems.append(
            "GOOGLE_CLOUD_PROJECT_ID: nothing came; wanted: a project, as VIDGEN_VEO_STORAGE_URI "
            "is for Vertex AI"
        )
    return problems


def _database_url(text: str) -> str:
    """*text* as asyncpg understands it."""
    if not text:
        return text
    parts = _split(text, _wanted(_DATABASE_WANTED))
    query = dict(parse_qsl(parts.query))
    host = parts.netloc.rpartition("@")[2] or query.get("host")
    name = parts.path.strip("/") or query.get("dbname") or query.get("database")
    if parts.scheme not in {"postgres", "postgresql"} or not host or not name:
        raise _wanted(_DATABASE_WANTED)
    if "@" in parts.path + parts.query + parts.fragment or parts.fragment:
        # An unescaped / ? or # in the password ends the address too early.
        raise _wanted(_DATABASE_WANTED)
    if query.get("sslmode", "disable") not in _SSL_MODES:
        raise _wanted("sslmode as one of " + ", ".join(sorted(_SSL_MODES)))
    words = parts.query.split("&")
    kept = "&".join(word for word in words if word.partition("=")[0] not in _NOT_FOR_ASYNCPG)
    return text.partition("?")[0] + (f"?{kept}" if kept else "")


def _redis_url(text: str) -> str:
    if not text:
        return text
    wanted = _wanted(_REDIS_WANTED)
    parts = _split(text, wanted)
    hosts = parts.netloc.rpartition("@")[2]
    path = parts.path.strip("/")
    check: Callable[[], bool] | None = {
        "redis": lambda: bool(parts.hostname) and (not path or path.isdigit()),
        "rediss": lambda: bool(parts.hostname) and (not path or path.isdigit()),
        "unix": lambda: bool(path),
        "redis+sentinel": lambda: (
            all(re.fullmatch(r"\[?[^\s,\[\]]+?\]?(:\d{1,5})?", host) for host in hosts.split(","))
            and re.fullmatch(r"[^/\s]+(/\d+)?", path) is not None
        ),
    }.get(parts.scheme)
    if check is None or not check() or parts.fragment:
        raise wanted
    return text


def _routes(path: str) -> dict[str, Route]:
    if not path:
        return {}
    try:
        return routes_of(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise _wanted(f"a TOML file that can be read ({type(error).__name__})") from None
    except ValueError as error:
        raise _wanted(f"routes as the README has them; {path}, {error}") from None


def _networks(text: str) -> tuple[Network, ...]:
    parts = [part.strip() for part in text.split(",")] if text else []
    return tuple(ipaddress.ip_network(part, strict=False) for part in parts)


def _keys(text: str) -> tuple[bytes, ...]:
    return tuple(_key(part.strip()) for part in text.split(","))


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise _wanted(f"base64 of {KEY_BYTES} random bytes (openssl rand -base64 {KEY_BYTES})")
    return key


_ATTRIBUTES: dict[str, str] = {
    str(field.validation_alias): name for name, field in Settings.model_fields.items()
}
_FIELDS: dict[str, FieldInfo] = {
    str(field.validation_alias): field for field in Settings.model_fields.values()
}
