"""Every wire format, for the conformance suite: one line for each provider."""

from tests.providers.formats import sora, veo

FORMATS = {
    each.name: each
    for module in (
        sora,
        veo,
    )
    for each in module.FORMATS
}
