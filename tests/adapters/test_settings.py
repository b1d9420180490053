"""Settings come from the right place, and nothing wrong or unsafe gets in."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from deepseek_nb.adapters.settings import KINDS, Settings, load_settings, parse_duration_s
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.secret import Secret

KEY = "sk-canary-0123456789abcdef"
OFF = {"DEEPSEEK_NB_PYPROJECT": "off"}


@pytest.fixture
def project(tmp_path: Path) -> Any:
    """A repository whose pyproject.toml has the given lines in [tool.deepseek_nb]."""

    def write(*lines: str) -> Path:
        (tmp_path / "pyproject.toml").write_text("\n".join(["[tool.deepseek_nb]", *lines]), encoding="utf-8")
        deep = tmp_path / "notebooks" / "deep"
        deep.mkdir(parents=True, exist_ok=True)
        return deep

    return write


# --- where values come from ------------------------------------------------------------------------------


def test_the_defaults_are_the_documented_ones() -> None:
    """Without anything given, the real service, a folder of the user's and no limit on money."""
    settings = load_settings(environ=OFF)
    assert settings == Settings()
    assert settings.base_url == "https://api.deepseek.com"
    assert settings.model == "deepseek-flash"
    assert settings.route_name == "api.deepseek.com"
    assert settings.data_dir == Path(platformdirs.user_data_dir("deepseek_nb", appauthor=False))
    assert (settings.api_key, settings.budget_usd, settings.ttl_s, settings.thinking) == (None,) * 4


def test_arguments_go_before_the_environment_and_that_before_the_file(project: Any) -> None:
    """Each source fills what the one before it left open."""
    start = project("priority = 1", "max_faults = 1", "max_repairs = 1")
    environ = {"DEEPSEEK_NB_PRIORITY": "2", "DEEPSEEK_NB_MAX_FAULTS": "2"}
    settings = load_settings(start_dir=start, environ=environ, priority=5)
    assert (settings.priority, settings.max_faults, settings.max_repairs) == (5, 2, 1)
    rows = {name: (value, source) for name, value, source in settings.describe()}
    assert rows["priority"] == ("5", "argument")
    assert rows["max_faults"] == ("2", "DEEPSEEK_NB_MAX_FAULTS")
    assert rows["max_repairs"][1].endswith("pyproject.toml")
    assert rows["cache"] == ("True", "default")


def test_the_machines_own_environment_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without arguments, ``os.environ`` and the current folder are where it looks."""
    (tmp_path / "pyproject.toml").write_text("[tool.deepseek_nb]\nmodel = 'from-file'\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPSEEK_NB_PYPROJECT", raising=False)
    monkeypatch.setenv("DEEPSEEK_NB_PRIORITY", "4")
    settings = load_settings()
    assert (settings.model, settings.priority) == ("from-file", 4)


def test_the_nearest_file_counts(project: Any, tmp_path: Path) -> None:
    """A pyproject.toml nearer by hides the one above, even if it does not speak of us."""
    start = project("priority = 1")
    assert load_settings(start_dir=start, environ={}).priority == 1
    (tmp_path / "notebooks" / "pyproject.toml").write_text("[project]\nname = 'x'\n", encoding="utf-8")
    assert load_settings(start_dir=start, environ={}).priority == 3


def test_a_variable_names_the_file_or_turns_it_off(project: Any, tmp_path: Path) -> None:
    """DEEPSEEK_NB_PYPROJECT is a path, which has to exist, or ``off``."""
    start = project("priority = 1")
    other = tmp_path / "other.toml"
    other.write_text("[tool.deepseek_nb]\npriority = 2\n", encoding="utf-8")
    assert load_settings(start_dir=start, environ={"DEEPSEEK_NB_PYPROJECT": str(other)}).priority == 2
    assert load_settings(start_dir=start, environ=OFF).priority == 3
    with pytest.raises(ConfigError, match=r"DEEPSEEK_NB_PYPROJECT names '.*none\.toml'"):
        load_settings(environ={"DEEPSEEK_NB_PYPROJECT": str(tmp_path / "none.toml")})


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("DEEPSEEK_API_KEY", f" {KEY}\n", "api_key", Secret(KEY)),
        ("DEEPSEEK_NB_API_KEY", KEY, "api_key", Secret(KEY)),
        ("DEEPSEEK_API_KEY", "", "api_key", None),
        ("DEEPSEEK_NB_STREAM", "0", "stream_display", False),
        ("DEEPSEEK_NB_STREAM_DISPLAY", "no", "stream_display", False),
        ("DEEPSEEK_NB_CACHE", "False", "cache", False),
        ("DEEPSEEK_NB_THINKING", "on", "thinking", True),
        ("DEEPSEEK_NB_THINKING", "none", "thinking", None),
        ("DEEPSEEK_NB_TTL_S", "30min", "ttl_s", 1800.0),
        ("DEEPSEEK_NB_TTL_S", "None", "ttl_s", None),
        ("DEEPSEEK_NB_PATIENCE_S", "0", "patience_s", 0.0),
        ("DEEPSEEK_NB_BUDGET_USD", "2.50", "budget_usd", 2.5),
        ("DEEPSEEK_NB_CONCURRENCY_MAX", "64", "concurrency_max", 64),
        ("DEEPSEEK_NB_BASE_URL", "http://127.0.0.1:8000/v1/", "base_url", "http://127.0.0.1:8000/v1"),
        ("DEEPSEEK_NB_PRIORITY", "", "priority", 3),
    ],
)
def test_the_environment_is_read_by_type(variable: str, text: str, name: str, value: Any) -> None:
    """Text becomes what the setting takes; an empty variable is as good as none."""
    assert getattr(load_settings(environ={**OFF, variable: text}), name) == value


def test_our_own_variable_goes_before_the_general_one() -> None:
    """DEEPSEEK_NB_API_KEY was set for us; DEEPSEEK_API_KEY may be another program's."""
    environ = {**OFF, "DEEPSEEK_API_KEY": "sk-general", "DEEPSEEK_NB_API_KEY": KEY}
    settings = load_settings(environ=environ)
    assert settings.api_key == Secret(KEY)
    assert settings.sources["api_key"] == "DEEPSEEK_NB_API_KEY"


@pytest.mark.parametrize(
    ("environ", "arguments", "message"),
    [
        ({"DEEPSEEK_NB_PRIORTY": "1"}, {}, "DEEPSEEK_NB_PRIORTY.*Did you mean DEEPSEEK_NB_PRIORITY"),
        ({"DEEPSEEK_NB_": "1"}, {}, "no setting for the environment variable DEEPSEEK_NB_"),
        ({}, {"pryority": 1}, "no setting 'pryority' .given as an argument.*Did you mean priority"),
        ({}, {"zzz": 1}, "There are: api_key, base_url, "),
        ({"DEEPSEEK_NB_PRIORITY": "high"}, {}, "priority 'high' .from DEEPSEEK_NB_PRIORITY.*from 1 to 5"),
        ({"DEEPSEEK_NB_PRIORITY": "6"}, {}, "priority 6 .from DEEPSEEK_NB_PRIORITY.*from 1 to 5"),
        ({"DEEPSEEK_NB_CACHE": "maybe"}, {}, "cache 'maybe'.*True or False"),
    ],
)
def test_unknown_names_and_wrong_values_say_where_they_came_from(
    environ: dict[str, str], arguments: dict[str, Any], message: str
) -> None:
    """A typing slip fails at once, with the nearest name or what the setting takes."""
    with pytest.raises(ConfigError, match=message):
        load_settings(environ={**OFF, **environ}, **arguments)


def test_a_slip_in_the_file_names_the_file(project: Any) -> None:
    """Unknown keys and wrong types in pyproject.toml are told with the file's path."""
    with pytest.raises(ConfigError, match=r"'modle' \(from .*pyproject\.toml\).*Did you mean model"):
        load_settings(start_dir=project("modle = 'x'"), environ={})
    with pytest.raises(ConfigError, match=r"priority '5' \(from .*pyproject\.toml\)"):
        load_settings(start_dir=project("priority = '5'"), environ={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.deepseek_nb", r"pyproject\.toml cannot be read.*DEEPSEEK_NB_PYPROJECT=off"),
        ("[tool]\ndeepseek_nb = 1", r"is not a table.*\[tool\.deepseek_nb\]"),
    ],
)
def test_a_broken_file_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    """It is not passed over in silence."""
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_settings(start_dir=tmp_path, environ={})


def test_a_file_of_others_is_no_concern_of_ours(tmp_path: Path) -> None:
    """A pyproject.toml without our table changes nothing."""
    (tmp_path / "pyproject.toml").write_text("tool = 1\n", encoding="utf-8")
    assert load_settings(start_dir=tmp_path, environ={}) == Settings()


@pytest.mark.parametrize(
    "name", ["api_key", "base_url", "data_dir", "jwt_client_secret", "redis_url", "route"]
)
def test_a_repositorys_file_carries_no_key_and_sends_none_elsewhere(project: Any, name: str) -> None:
    """Keys and addresses in pyproject.toml are refused, without showing them."""
    with pytest.raises(ConfigError, match=rf"{name} stands in .*DEEPSEEK_NB_{name.upper()}") as caught:
        load_settings(start_dir=project(f"{name} = '{KEY}'"), environ={})
    assert KEY not in str(caught.value)


# --- what is taken ---------------------------------------------------------------------------------------


def test_every_field_is_checked() -> None:
    """No setting without a kind, and no kind without a setting."""
    assert [field.name for field in dataclasses.fields(Settings)] == [*KINDS, "sources"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("priority", 0),
        ("priority", 2.0),
        ("priority", True),
        ("priority", "3"),
        ("priority", None),
        ("concurrency_max", 0),
        ("concurrency_start", -1),
        ("max_repairs", 3),
        ("max_faults", -1),
        ("patience_s", -1),
        ("patience_s", float("nan")),
        ("patience_s", "soon"),
        ("patience_s", True),
        ("total_timeout_s", 0),
        ("ttl_s", 0),
        ("ttl_s", "7 days and a bit"),
        ("ttl_s", [1]),
        ("budget_usd", -0.01),
        ("budget_usd", "2"),
        ("budget_usd", float("inf")),
        ("cache", 1),
        ("thinking", "yes"),
        ("model", ""),
        ("model", "deepseek flash"),
        ("model", None),
        ("base_url", 5),
        ("route", "a/b"),
        ("route", ""),
        ("jwt_client_id", 5),
        ("data_dir", 5),
        ("data_dir", b"bytes"),
        ("data_dir", ""),
    ],
)
def test_a_wrong_type_or_a_value_out_of_bounds_is_refused(name: str, value: Any) -> None:
    """However the setting is made, the error names it and what it has to be."""
    for make in (lambda: Settings(**{name: value}), lambda: Settings().replace(**{name: value})):
        with pytest.raises(ConfigError, match=rf"^{name} .*given as an argument.*It has to be"):
            make()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "redis.example.org",
            "http://redis.example.org",
            "redis://",
            "unix://",
            "redis:///0",
            "redis://h:port",
        ),
        *("redis://h:0", f"unix:///s?password={KEY}", "redis://a b", 6379),
    ],
)
def test_an_address_of_redis_that_is_none_is_refused_without_being_shown(url: Any) -> None:
    for make in (lambda: Settings(redis_url=url), lambda: load_settings(environ=OFF, redis_url=url)):
        with pytest.raises(ConfigError, match=r"^redis_url .*It has to be the address of a Redis") as caught:
            make()
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://:p@h:6380/1", "unix:///run/redis.sock?db=1", "redis://[::1]:1"]
)
def test_an_address_of_redis_is_a_secret(url: str) -> None:
    settings = load_settings(environ={**OFF, "DEEPSEEK_NB_REDIS_URL": url, "DEEPSEEK_NB_REDIS_KEEP_S": "7d"})
    assert settings.redis_url == Secret(url)
    assert settings.redis_keep_s == 604800
    assert url not in str(settings) + str(settings.describe())


@pytest.mark.parametrize("name", ["api_key", "jwt_client_secret"])
@pytest.mark.parametrize(
    "value", [f"{KEY} {KEY}", f"{KEY}\r\nX-Evil: 1", f"{KEY}ß", 12345678901234, KEY.encode()]
)
def test_a_key_that_is_not_one_is_refused_without_being_shown(name: str, value: Any) -> None:
    """Blanks, line ends and odd letters do not reach a header, and the error shows no part of it."""
    with pytest.raises(ConfigError, match=name) as caught:
        Settings(**{name: value})
    assert "canary" not in str(caught.value)
    assert "1234567" not in str(caught.value)


def test_secrets_are_masked_wherever_settings_are_seen() -> None:
    """repr, str and describe show the mask only."""
    settings = load_settings(environ=OFF, api_key=KEY, jwt_client_secret=KEY)
    for seen in (repr(settings), str(settings), str(settings.describe()), f"{settings}"):
        assert "canary" not in seen
        assert "****cdef" in seen


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("90 sec", 90),
        ("30min", 1800),
        ("12h", 43200),
        ("7d", 604800),
        ("2w", 1209600),
        ("1h 30min", 5400),
        ("1h30min", 5400),
        ("0.5h", 1800),
        (" 45 ", 45),
        (45, 45),
        (0.25, 0.25),
        ("0", 0),
    ],
)
def test_durations_are_seconds_or_a_number_with_its_unit(text: str | float, seconds: float) -> None:
    """Seconds, minutes, hours, days and weeks, alone or together."""
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "30m", "7 months", "-5min", "-5", "min", "1h and 5min", "nan", "inf", None, True),
        *(10**400, "9" * 400 + "d"),
    ],
)
def test_what_is_no_duration_is_refused(text: Any) -> None:
    """Units that could mean two things, negative and endless times are errors that say what is taken."""
    with pytest.raises(ConfigError, match=r"is not a duration.*'30min'"):
        parse_duration_s(text)


def test_the_start_is_never_above_the_most() -> None:
    """Lowering ``concurrency_max`` is enough."""
    assert Settings(concurrency_max=8).concurrency_start == 8


def test_a_home_folder_is_found() -> None:
    """``~`` is the user's home, and the folder is absolute."""
    assert Settings(data_dir="~/answers").data_dir == Path.home() / "answers"  # type: ignore[arg-type]
    assert Settings(data_dir="answers").data_dir == Path.cwd() / "answers"  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", ["~nobody-of-that-name/answers", "a\0b"])
def test_a_folder_that_there_cannot_be_is_refused(folder: str) -> None:
    with pytest.raises(ConfigError, match=r"data_dir .*It has to be the path of a folder"):
        Settings(data_dir=folder)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="there is no such file"):
        load_settings(environ={"DEEPSEEK_NB_PYPROJECT": folder})


def test_a_current_folder_that_was_deleted_has_no_file(tmp_path: Path, monkeypatch: Any) -> None:
    """A kernel whose folder was renamed or deleted goes on."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert load_settings(environ={}).priority == 3
    with pytest.raises(ConfigError, match="data_dir"):
        load_settings(environ={}, data_dir="answers")


# --- addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kept", "route"),
    [
        ("https://api.deepseek.com/", "https://api.deepseek.com", "api.deepseek.com"),
        ("https://API.deepseek.com:443/v1/", "https://api.deepseek.com/v1", "api.deepseek.com"),
        ("https://gateway.example:8443", "https://gateway.example:8443", "gateway.example:8443"),
        ("https://my_gateway/v1", "https://my_gateway/v1", "my_gateway"),
        ("https://10.0.0.5", "https://10.0.0.5", "10.0.0.5"),
        ("https://xn--pi-6kc.example", "https://xn--pi-6kc.example", "xn--pi-6kc.example"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1", "localhost:8000"),
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434", "127.0.0.1:11434"),
        ("http://[::1]:8000", "http://[::1]:8000", "[::1]:8000"),
        ("https://127.0.0.1.evil.com", "https://127.0.0.1.evil.com", "127.0.0.1.evil.com"),
    ],
)
def test_an_address_is_kept_in_its_plain_form(url: str, kept: str, route: str) -> None:
    """Case, default port and trailing slash do not matter, a path stays; the route is host and port."""
    settings = Settings(base_url=url)
    assert settings.base_url == kept
    assert settings.route_name == route
    assert Settings(base_url=kept) == settings


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://api.deepseek.com", "use https for api.deepseek.com"),
        ("http://127.0.0.1.evil.com", "use https for 127.0.0.1.evil.com"),
        ("http://localhost.evil.com", "use https"),
        ("http://localhost@evil.com", "user name or password"),
        ("https://api.deepseek.com@evil.com", "user name or password"),
        (f"https://user:{KEY}@api.deepseek.com", "user name or password"),
        ("https://api.deepseek.com\\@evil.com", "backslash"),
        ("https://api.deepseek.com/\n", "control character"),
        (" https://api.deepseek.com", "blank"),
        ("https://api.deepseek.com?key=1", "query or a fragment"),
        ("https://api.deepseek.com/#", "query or a fragment"),
        ("ftp://api.deepseek.com", "not an address"),
        ("file:///etc/passwd", "not an address"),
        ("api.deepseek.com", "not an address"),
        ("https://", "not an address"),
        ("https://host:0", "not an address"),
        ("https://host:99999", "not an address"),
        ("https://[::1", "not an address"),
        ("https://%61pi.deepseek.com", "not a host name"),
        ("https://-host", "not a host name"),
        ("https://2130706433", "hides an IP address"),
        ("http://2130706433:8000", "hides an IP address"),
        ("https://0x7f.1", "hides an IP address"),
        ("https://0x7f000001", "hides an IP address"),
        ("https://0177.0.0.1", "hides an IP address"),
        ("https://127.1", "hides an IP address"),
        ("https://169.254.169.254.", "hides an IP address"),
        ("https://169.254.169.254", "link-local, metadata"),
        ("http://169.254.169.254/latest", "link-local, metadata"),
        ("https://[fe80::1]", "link-local, metadata"),
        ("https://[fe80::1%25eth0]", "link-local, metadata"),
        ("https://[::ffff:169.254.169.254]", "link-local, metadata"),
        ("https://[64:ff9b::a9fe:a9fe]", "link-local, metadata"),
        ("https://[2002:a9fe:a9fe::]", "link-local, metadata"),
        ("https://[fd00:ec2::254]", "hand out credentials"),
        ("https://100.100.100.200", "hand out credentials"),
        ("https://[::ffff:100.100.100.200]", "link-local, metadata"),
        ("https://0.0.0.0", "link-local, metadata"),
        ("https://[::]", "link-local, metadata"),
        ("https://Metadata.Google.Internal./", "hand out credentials"),
        ("https://\u0430pi.deepseek.com", "xn--pi-6kc.deepseek.com"),
        ("https://api.deep\u0455eek.com", "letters that may only look like others"),
        (f"https://{'ä' * 70}.com", "its punycode form"),
    ],
)
def test_a_hostile_address_is_refused(url: str, why: str) -> None:
    """The key goes to a host that is what it looks like, over https, and to nothing in a cloud machine."""
    with pytest.raises(ConfigError, match=r"^base_url \(from elsewhere\) is not taken") as caught:
        Settings(base_url=url, sources={"base_url": "elsewhere"})
    assert why in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_named_route_goes_before_the_host() -> None:
    """What a simulation answers is kept under its own name."""
    assert Settings(base_url="http://127.0.0.1:8000", route="sandbox").route_name == "sandbox"


# --- credentials and copies ------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"api_key": KEY}, {"jwt_client_id": "notebook", "jwt_client_secret": KEY}])
def test_a_key_or_a_client_id_with_its_secret_is_enough(given: dict[str, Any]) -> None:
    """Either way of authenticating will do."""
    Settings(**given).require_credentials()


def test_without_a_key_the_three_ways_are_named() -> None:
    """The environment, an argument, or the sandbox that needs none."""
    with pytest.raises(ConfigError, match=r"DEEPSEEK_API_KEY.*api_key=.*use_sandbox\(\)"):
        Settings().require_credentials()


@pytest.mark.parametrize(
    ("given", "lacking"),
    [({"jwt_client_id": "notebook"}, "jwt_client_secret"), ({"jwt_client_secret": KEY}, "jwt_client_id")],
)
def test_half_a_pair_names_the_other_half(given: dict[str, Any], lacking: str) -> None:
    """A client id without its secret is a slip, not a missing key."""
    with pytest.raises(ConfigError, match=f"{lacking} is not given"):
        Settings(**given).require_credentials()


def test_a_copy_keeps_the_rest_and_is_checked() -> None:
    """``replace`` changes what is named, remembers the sources, and refuses what is not a setting."""
    settings = load_settings(environ={**OFF, "DEEPSEEK_API_KEY": KEY}, ttl_s="7d")
    changed = settings.replace(priority=5, budget_usd=2)
    assert (changed.priority, changed.budget_usd, changed.ttl_s) == (5, 2.0, 604800.0)
    assert changed.api_key == Secret(KEY)
    assert changed.sources["api_key"] == "DEEPSEEK_API_KEY"
    assert settings.priority == 3
    with pytest.raises(ConfigError, match="Did you mean priority"):
        settings.replace(priorty=5)


def test_settings_are_frozen() -> None:
    """Nothing changes under a running job."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().priority = 5  # type: ignore[misc]


def test_a_key_stays_with_the_server_it_was_given_for():
    """Another host or port leaves it behind, another path does not; a key that is given along is taken."""
    settings = Settings(api_key="sk-0123456789abcdef", base_url="https://api.deepseek.com")
    assert settings.replace(base_url="https://api.deepseek.com/beta").api_key is not None
    for other in ("https://api.deepseek.com:8443", "https://other.example", "http://127.0.0.1:80"):
        assert settings.replace(base_url=other).api_key is None
    assert settings.replace(base_url="https://other.example", api_key="k" * 20).api_key == Secret("k" * 20)
    token = Settings(jwt_client_id="desk", jwt_client_secret="s" * 40)
    assert token.replace(base_url="https://other.example").jwt_client_secret is None
