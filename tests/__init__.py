"""The tests mirror the package: `tests/store` is about `vidgen/store`."""
