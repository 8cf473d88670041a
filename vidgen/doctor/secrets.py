"""What signs webhooks, seals stored keys, and opens the HTTP API."""

from vidgen.doctor.finding import Finding, ok, problem, warning
from vidgen.errors import DatabaseError
from vidgen.settings import Settings, tokens_of
from vidgen.store import deliveries
from vidgen.store.pool import connect

WEBHOOKS, SEALING, TOKENS = "webhook secrets", "encryption keys", "admin tokens"

_KINDS = {"v1": "HMAC", "v1a": "ed25519"}


async def webhooks(settings: Settings) -> Finding:
    """Whether webhooks can be signed, and whether some wait for that."""
    signers = settings.webhook_signers
    if signers:
        kinds = ", ".join(_KINDS[signer.scheme] for signer in signers)
        return ok(WEBHOOKS, f"{len(signers)} set ({kinds})")
    remedy = "set VIDGEN_WEBHOOK_SECRETS; the README says how one is made"
    if waiting := await _waiting(settings):
        return problem(WEBHOOKS, f"none is set, and webhooks wait for one: {waiting}", remedy)
    return warning(WEBHOOKS, "none is set: webhooks of jobs will wait for one", remedy)


async def sealing(settings: Settings) -> Finding:
    """Whether the keys that seal are ones."""
    keys = settings.encryption_key_bytes
    remedy = "make one: openssl rand -base64 32"
    if not keys:
        return ok(SEALING, "none is set: keys of customers cannot be stored")
    if any(len(set(key)) < len(key) // 4 for key in keys):
        # Of 32 random bytes some 30 differ; fewer than 8 never come by chance.
        return problem(SEALING, "one of them is no random key: it repeats itself", remedy)
    if len(set(keys)) < len(keys):
        return warning(SEALING, "one of them is there twice", "leave each in ENCRYPTION_KEYS once")
    return ok(SEALING, f"{len(keys)} well-formed; the first one seals")


async def tokens(settings: Settings) -> Finding:
    """Whether the HTTP API can be reached from elsewhere, and by whom."""
    if settings.http_port == 0:
        return ok(TOKENS, "the HTTP server is off (VIDGEN_HTTP_PORT=0)")
    count = int(settings.admin_token is not None)
    if settings.admin_tokens is not None:
        count += len(tokens_of(settings.admin_tokens.get_secret_value()))
    if count == 0:
        return warning(
            TOKENS,
            "none is set: the server answers on this machine only, and there everybody",
            "set ADMIN_TOKEN, e.g. to what `openssl rand -hex 24` gives",
        )
    return ok(TOKENS, f"{count} set")


async def _waiting(settings: Settings) -> int:
    """How many webhooks are on their way; 0 if PostgreSQL does not say, which its check tells."""
    try:
        async with connect(settings.database_url) as connection:
            return (await deliveries.counts(connection)).pending
    except DatabaseError:
        return 0
