"""
What each provider's models take, what they cost and until when they live; asked before money is
spent. Pure.

    vendor.py    the words: Vendor, Interface, Model, Price, Endpoints
    vendors.py   the list of all providers
    plugins.py   those that other packages bring
    check.py     quote(): refuse, fill in, price
    NAME.py      one provider each, as `VENDOR`

Sources and doubts stand in the README's section on providers. Prices are micro-dollars.
"""

from vidgen.catalog.check import Quote, check_image, is_retired, quote
from vidgen.catalog.vendor import (
    MAX_REFERENCES,
    SEED_MAX,
    Endpoints,
    Interface,
    Model,
    Price,
    Vendor,
    per_second,
)
from vidgen.catalog.vendors import (
    broken_plugins,
    find,
    is_ours,
    is_provider,
    key_variables,
    models,
    names,
    plugins,
    vendor,
    vendors,
)

__all__ = [
    "MAX_REFERENCES",
    "SEED_MAX",
    "Endpoints",
    "Interface",
    "Model",
    "Price",
    "Quote",
    "Vendor",
    "broken_plugins",
    "check_image",
    "find",
    "is_ours",
    "is_provider",
    "is_retired",
    "key_variables",
    "models",
    "names",
    "per_second",
    "plugins",
    "quote",
    "vendor",
    "vendors",
]
