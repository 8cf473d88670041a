"""Providers of other packages, as they are found: sound ones, broken ones, ones of our name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vidgen.catalog import Endpoints, Interface, Vendor
from vidgen.catalog.plugins import GROUP, OWN_VARIABLES, Plugins, installed
from vidgen.errors import PluginBrokenError, ProviderNotConfiguredError
from vidgen.job import VideoRequest
from vidgen.providers.protocol import Provider
from vidgen.providers.registry import ProvidersConfig, Surroundings, build
from vidgen.settings import Settings

DECLARATION = """
from vidgen.catalog import Interface, Model, Vendor

VENDOR = Vendor(
    name={name!r},
    title="One",
    wire="nowhere_at_all:build",
    interfaces=(
        Interface(
            name="one",
            title="the one API",
            operator="One",
            account={account!r},
            key_name="{name} key",
            base_url="https://one.example",
            base_url_variable="ONE_BASE_URL",
            keys=({key!r},),
        ),
    ),
    models=(Model(provider={name!r}, name="one-1", api="one"),),
    default_models=({model!r},),
    reserved=frozenset(),
)
"""


def changed(change: str) -> str:
    """The declaration with *change*, as nobody wrote it who checks types."""
    sound = DECLARATION.format(name="one", account="one", key="ONE_API_KEY", model="one-1")
    return f"""{sound}
from dataclasses import replace


def raising(name):
    raise RuntimeError("no such luck")


VENDOR = replace(VENDOR, {change})
"""


def a_package(
    folder: Path,
    package: str,
    *,
    provider: str = "one",
    text: str | None = None,
    name: str = "one",
    account: str = "one",
    key: str = "ONE_API_KEY",
    model: str = "one-1",
) -> None:
    """A package that is installed in *folder*, and brings *provider*."""
    source = text if text is not None else DECLARATION
    if text is None:
        source = source.format(name=name, account=account, key=key, model=model)
    (folder / f"{package}.py").write_text(source)
    about = folder / f"{package}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\n{provider} = {package}:VENDOR\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def found() -> Plugins:
    return installed(_built_in().values())


def test_a_sound_provider_is_found(folder: Path) -> None:
    a_package(folder, "plugin_sound")

    plugins = found()

    assert [*plugins.vendors] == ["one"]
    assert not plugins.broken


@pytest.mark.parametrize(
    ("package", "changes", "sentence"),
    [
        ("plugin_raises", {"text": "raise RuntimeError('no licence')"}, "RuntimeError: no licence"),
        ("plugin_no_import", {"text": "import no_such_module_at_all"}, "ModuleNotFoundError"),
        ("plugin_syntax", {"text": "VENDOR = ("}, "SyntaxError"),
        ("plugin_wrong_type", {"text": "VENDOR = 'one'"}, "wanted a vidgen.catalog.Vendor"),
        ("plugin_exits", {"text": "raise SystemExit(3)"}, "SystemExit: 3"),
        (
            "plugin_interfaces",
            {"text": changed("interfaces=('a',)")},
            "one of its interfaces is a str, wanted Interface",
        ),
        (
            "plugin_no_models",
            {"text": changed("models=None")},
            "its models are a NoneType, wanted a tuple",
        ),
        (
            "plugin_open_model",
            {"text": changed("models=(), open_model=raising")},
            "RuntimeError: no such luck",
        ),
        ("plugin_other_name", {"name": "two"}, "its name is 'two', wanted 'one'"),
        ("plugin_account", {"account": "sora"}, "account 'sora' is taken"),
        ("plugin_variable", {"key": "VIDGEN_ONE_KEY"}, "begins with VIDGEN_"),
        ("plugin_own", {"key": "DATABASE_URL"}, "'DATABASE_URL' is not in [A-Z0-9_], begins"),
        (
            "plugin_openai",
            {"key": "OPENAI_API_KEY"},
            "OPENAI_API_KEY holds the key of the OpenAI Videos protocol",
        ),
        (
            "plugin_further",
            {"text": changed("interfaces=(replace(VENDOR.interfaces[0], further=('FAL_KEY',)),)")},
            "the variable FAL_KEY holds the key of the queue of fal.ai",
        ),
        (
            "plugin_two_homes",
            {"text": changed("interfaces=(replace(VENDOR.interfaces[0], locate=raising),)")},
            "has a base_url and locates another",
        ),
        ("plugin_model", {"model": "one-2"}, "default model 'one-2' is none of its models"),
    ],
)
def test_a_broken_one_is_told_in_a_sentence_and_stops_no_other(
    folder: Path, package: str, changes: dict[str, str], sentence: str
) -> None:
    a_package(folder, package, **changes)
    a_package(
        folder, f"{package}_beside", provider="three", name="three", account="3", key="THREE_KEY"
    )

    plugins = found()

    assert [*plugins.vendors] == ["three"]
    assert sentence in plugins.broken["one"]
    assert package in plugins.broken["one"]


def test_nobody_takes_the_name_of_one_of_ours(folder: Path) -> None:
    a_package(folder, "plugin_sora", provider="sora", name="sora", account="other")

    plugins = found()

    assert not plugins.vendors
    assert "vidgen's own" in plugins.broken["sora of plugin_sora"]


def test_two_of_one_name_are_both_refused(folder: Path) -> None:
    a_package(folder, "plugin_first")
    a_package(folder, "plugin_second", account="second")

    plugins = found()

    assert not plugins.vendors
    assert "another package brings one of that name" in plugins.broken["one"]


def test_more_of_a_vendor_s_may_be_opened_with_its_key(folder: Path) -> None:
    at_home = """interfaces=(
        replace(
            VENDOR.interfaces[0],
            base_url="https://api.openai.com/v1",
            base_url_variable="OPENAI_BASE_URL",
            keys=("OPENAI_API_KEY",),
        ),
    )"""
    a_package(folder, "plugin_more", text=changed(at_home))

    assert not found().broken


def test_every_variable_of_vidgen_itself_is_kept_from_packages() -> None:
    theirs = {variable for vendor in _built_in().values() for variable in vendor.variables}
    all_of_them = {str(info.validation_alias) for info in Settings.model_fields.values()}

    ours = {name for name in all_of_them - theirs if not name.startswith("VIDGEN_")}
    assert ours == OWN_VARIABLES


WISH = VideoRequest(provider="one", prompt="a tram")


def elsewhere(locate: str) -> str:
    return f"interfaces=(replace(VENDOR.interfaces[0], base_url=None, locate={locate}),)"


def model_with(change: str) -> str:
    return f"models=(replace(VENDOR.models[0], {change}),)"


USES: dict[str, Callable[[Vendor], object]] = {
    "locate": lambda vendor: vendor.interfaces[0].address(Endpoints.of({})),
    "open_model": lambda vendor: vendor.model("one-2"),
    "check": lambda vendor: vendor.models[0].check and vendor.models[0].check(WISH),
    "cost": lambda vendor: vendor.models[0].cost_of(WISH),
}
WHEN_USED = [
    ("locate", elsewhere("raising")),
    ("locate", elsewhere("lambda _: None")),
    ("locate", elsewhere("lambda _: 'one.example'")),
    ("open_model", "open_model=raising"),
    ("open_model", "open_model=lambda name: name"),
    ("open_model", "open_model=lambda name: VENDOR.models[0]"),
    ("check", model_with("check=raising")),
    ("cost", model_with("cost=raising")),
    ("cost", model_with("cost=lambda _: -1")),
    ("cost", model_with("cost=lambda _: float('nan')")),
]


@pytest.mark.parametrize(
    ("number", "deed", "change"), [(n, *each) for n, each in enumerate(WHEN_USED)]
)
def test_a_declaration_that_fails_when_used_is_a_broken_plug_in(
    folder: Path, number: int, deed: str, change: str
) -> None:
    a_package(folder, f"plugin_used_{number}", text=changed(change))
    vendor = found().vendors["one"]

    with pytest.raises(PluginBrokenError, match=f"'one' of the package .* fails in {deed}: "):
        USES[deed](vendor)


INTERFACE = Interface(
    name="one",
    title="the one API",
    operator="One",
    account="one",
    key_name="one key",
    base_url="https://one.example",
    base_url_variable="ONE_BASE_URL",
    keys=("ONE_ID", "ONE_SECRET"),
    key_form="pair",
)


def a_vendor(wire: str | Callable[[Surroundings], Provider]) -> Vendor:
    return Vendor(
        name="one",
        title="One",
        wire=wire,
        interfaces=(INTERFACE,),
        models=(),
        default_models=("one-1",),
        reserved=frozenset(),
    )


def test_the_variables_of_a_plug_in_are_read_with_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("ONE_SECRET=hidden-in-the-file\n")
    monkeypatch.setenv("ONE_ID", "me")

    settings = Settings.load(needs=frozenset(), env_file=tmp_path / ".env")

    endpoints = Endpoints(settings.variable)
    assert INTERFACE.secret(endpoints) == "me:hidden-in-the-file"
    assert INTERFACE.address(endpoints) == "https://one.example"
    assert "hidden-in-the-file" not in repr(settings)
    assert settings.variable("ONE_BASE_URL") == ""


def test_settings_of_code_take_the_variables_of_a_plug_in() -> None:
    settings = Settings(concurrency=7).with_variables({"ONE_ID": "me", "FAL_KEY": "k"})

    assert (settings.variable("ONE_ID"), settings.variable("FAL_KEY")) == ("me", "k")
    assert settings.concurrency == 7
    assert settings.with_variables({}).variable("ONE_ID") == "me"
    assert Settings().variable("ONE_ID") == ""


def test_a_wire_that_cannot_be_imported_is_a_broken_plug_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    providers = build(ProvidersConfig.of(ONE_BASE_URL="no address"))
    monkeypatch.setitem(_built_in(), "one", a_vendor("no_such_module_at_all:build"))

    with pytest.raises(ProviderNotConfiguredError, match="ONE_BASE_URL holds no http"):
        providers.get("one")
    with pytest.raises(PluginBrokenError, match="no_such_module_at_all:build"):
        build(ProvidersConfig()).get("one")


@pytest.mark.parametrize("error", [RuntimeError("no licence"), SystemExit(3)], ids=repr)
def test_a_wire_that_raises_is_a_broken_plug_in(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def wire(_: Surroundings) -> Provider:
        raise error

    monkeypatch.setitem(_built_in(), "one", a_vendor(wire))

    with pytest.raises(PluginBrokenError, match=f"'one' cannot be built: {type(error).__name__}"):
        build(ProvidersConfig()).get("one")


def _built_in() -> dict[str, Vendor]:
    from vidgen.catalog.vendors import _BUILT_IN

    assert isinstance(_BUILT_IN, dict)
    return _BUILT_IN
