"""`omni`: Google's Gemini Omni, on Vertex AI and on the Gemini API. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date

from vidgen.catalog import veo
from vidgen.catalog.vendor import Model, Vendor, per_second

# ai.google.dev/gemini-api/docs/deprecations, as LiteLLM 1.109.1 has it.
OFF_ON: Mapping[str, date] = {"gemini-omni-1.1-flash": date(2026, 12, 3)}
LOCATION = "global"  # the only one that has Omni
# Nobody publishes a limit but that of all input, 131072 tokens; a prompt longer than Veo's is none.
PROMPT_CHARS = veo.PROMPT_CHARS
MAX_IMAGES = 6  # references

_SIZES = {
    "640x360": ("16:9", "360p"),
    "360x640": ("9:16", "360p"),
    "1280x720": ("16:9", "720p"),
    "720x1280": ("9:16", "720p"),
    "1920x1080": ("16:9", "1080p"),
    "1080x1920": ("9:16", "1080p"),
    "3840x2160": ("16:9", "4k"),
    "2160x3840": ("9:16", "4k"),
}
# 5792 tokens a second at 720p, for 17.50 or 12 dollars a million; what resellers ask for the other
# resolutions of 1.1 is a third, 1.5 times and 3 times that.
_PRICES = {
    "1.1": {"720p": 101_360, "360p": 33_787, "1080p": 152_040, "4k": 304_080},
    "1.2": {"720p": 69_504, "360p": 23_168, "1080p": 104_256, "4k": 208_512},
}


def _model(name: str, api: str, also: tuple[str, ...] = ()) -> Model:
    version = "1.2" if "1.2" in name else "1.1"
    prices = _PRICES[version]
    is_newer = version == "1.2"
    return Model(
        provider="omni",
        name=name,
        api=api,
        also=also,
        seconds=range(3, 16 if is_newer else 11),
        default_seconds=8,
        sizes=_SIZES,
        aspect_ratios=("16:9", "9:16"),
        resolutions=tuple(prices),
        prices=per_second(prices),
        prompt_chars=PROMPT_CHARS,
        images={"first_frame": (0, 1), "reference": (0, MAX_IMAGES)},
        takes=frozenset({"seed"} if is_newer else ()),
        seed_max=2**31 - 1,
        default_audio=True,
        extra=frozenset({"labels"} if api == "vertex" else ()),
        retires_on=OFF_ON.get(name),
    )


VERTEX = replace(
    veo.VERTEX,
    account="omni-vertex",
    key_name="omni vertex credential",
    further=("GCS_BASE_URL", "VIDGEN_VEO_STORAGE_URI"),
    owners=("GOOGLE_CLOUD_PROJECT_ID",),
    # Interactions are in the beta version only.
    locate=lambda _: veo.vertex_home(LOCATION).removesuffix("/v1") + "/v1beta1",
)
GEMINI = replace(veo.GEMINI, account="omni-gemini", key_name="omni gemini key")

VENDOR = Vendor(
    name="omni",
    title="Gemini Omni",
    wire="vidgen.providers.omni:build",
    simulator="vidgen.simulator.omni:SIMULATED",
    interfaces=(VERTEX, GEMINI),
    models=(
        _model("gemini-omni-1.2-flash", "vertex", also=("gemini",)),
        _model("gemini-omni-1.1-flash-preview", "vertex"),
        _model("gemini-omni-1.1-flash", "gemini"),
    ),
    default_models=("gemini-omni-1.2-flash",),
    reserved=frozenset(
        {"prompt", "model", "input", "response_format", "generation_config", "video_config"}
        | {"background", "store", "stream", "seed", "task", "previous_interaction_id"}
    ),
)
