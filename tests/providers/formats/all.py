"""Every wire format, for the conformance suite: one line for each provider."""

from tests.providers.formats import luma, replicate, runway, sora, veo, xai

FORMATS = {
    each.name: each
    for module in (
        sora,
        veo,
        runway,
        replicate,
        luma,
        xai,
    )
    for each in module.FORMATS
}
