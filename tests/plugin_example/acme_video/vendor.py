"""What vidgen has to know of Acme; pure, as vidgen may import it in every process."""

from vidgen.catalog import Interface, Model, Vendor, per_second

INTERFACE = Interface(
    name="acme",
    title="the Acme API",
    operator="Acme",
    account="acme",
    key_name="acme key",
    base_url="https://api.acme.example/v1",
    base_url_variable="ACME_BASE_URL",
    keys=("ACME_API_KEY",),
)

VENDOR = Vendor(
    name="acme",
    title="Acme",
    wire="acme_video.provider:build",
    simulator="acme_video.simulator:SIMULATED",
    interfaces=(INTERFACE,),
    models=(
        Model(
            provider="acme",
            name="reel-1",
            api="acme",
            seconds=range(2, 11),
            default_seconds=4,
            aspect_ratios=("16:9", "9:16", "1:1"),
            resolutions=("720p", "1080p"),
            prices=per_second({"720p": 20_000, "1080p": 50_000}),
            prompt_chars=2000,
            images={"first_frame": (0, 1)},
            takes=frozenset({"seed"}),
            silent=True,
        ),
    ),
    default_models=("reel-1",),
    reserved=frozenset({"model", "text", "length", "shape", "lines", "start", "number"}),
)
