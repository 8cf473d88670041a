"""`sora`: OpenAI's Sora 2, and whatever else speaks the OpenAI Videos protocol. Pure."""

from datetime import date

from vidgen.catalog.vendor import Interface, Model, Vendor, per_second

OFF_ON = date(2026, 9, 24)
ORIGIN = "https://api.openai.com"
PROMPT_CHARS = 32_000

_720P = {"720x1280": ("9:16", "720p"), "1280x720": ("16:9", "720p")}
_PRO = _720P | {
    "1024x1792": ("4:7", "1024p"),
    "1792x1024": ("7:4", "1024p"),
    "1080x1920": ("9:16", "1080p"),
    "1920x1080": ("16:9", "1080p"),
}


def _model(name: str) -> Model:
    is_pro = name.startswith("sora-2-pro")
    return Model(
        provider="sora",
        name=name,
        api="openai",
        seconds=(4, 8, 12, 16, 20),
        default_seconds=4,
        sizes=_PRO if is_pro else _720P,
        prices=per_second(
            {"720p": 300_000, "1024p": 500_000, "1080p": 700_000} if is_pro else {"720p": 100_000}
        ),
        prompt_chars=PROMPT_CHARS,
        images={"first_frame": (0, 1)},
        exact_frames=True,
        extra=frozenset({"characters"}),
        retires_on=OFF_ON,
    )


VENDOR = Vendor(
    name="sora",
    title="Sora",
    wire="vidgen.providers.sora:build",
    simulator="vidgen.simulator.sora:SIMULATED",
    interfaces=(
        Interface(
            name="openai",
            title="the OpenAI Videos protocol",
            operator="OpenAI",
            account="sora",
            key_name="sora key",
            base_url=f"{ORIGIN}/v1",
            base_url_variable="OPENAI_BASE_URL",
            keys=("OPENAI_API_KEY",),
            further=("OPENAI_AUTH_STYLE",),
            free_extra_elsewhere=True,
        ),
    ),
    models=tuple(
        _model(name)
        for name in (
            "sora-2",
            "sora-2-2025-12-08",
            "sora-2-2025-10-06",
            "sora-2-pro",
            "sora-2-pro-2025-10-06",
        )
    ),
    default_models=("sora-2",),
    reserved=frozenset({"prompt", "model", "seconds", "size", "input_reference", "n"}),
)
