"""Every wire format, for the conformance suite: one line for each provider."""

from tests.providers.formats import (
    fal,
    kling,
    luma,
    minimax,
    omni,
    replicate,
    runway,
    seedance,
    sora,
    veo,
    wan,
    xai,
)

FORMATS = {
    each.name: each
    for module in (
        sora,
        veo,
        omni,
        runway,
        replicate,
        luma,
        fal,
        xai,
        kling,
        minimax,
        seedance,
        wan,
    )
    for each in module.FORMATS
}
