"""Every wire format, for the conformance suite: one line for each provider."""

from tests.providers.formats import luma, replicate, runway, sora, veo

FORMATS = {
    each.name: each
    for module in (
        sora,
        veo,
        runway,
        replicate,
        luma,
    )
    for each in module.FORMATS
}
