"""Who is let in: tokens of ours and of the tenant's own making, and all that is none."""

from __future__ import annotations

import base64
import hmac
import json
import time

import httpx
import jwt
import pytest

from deepseek_nb.adapters.auth import JWTBearer
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import AuthError
from deepseek_nb.gateway.config import parse_config
from deepseek_nb.gateway.refusals import ApiError
from deepseek_nb.gateway.tokens import Doorkeeper

from .people import NEXT, SECRETS, chat_body


def signed(secret: str = SECRETS["desk"], algorithm: str = "HS256", **claims) -> str:
    now = int(time.time())
    told = {"iss": "desk", "exp": now + 60, "iat": now, "scope": "compute"} | claims
    return jwt.encode({k: v for k, v in told.items() if v is not None}, secret, algorithm=algorithm)


@pytest.fixture
def call(gateway):
    """GET /models with that Authorization header."""

    def get(authorization: str | None) -> httpx.Response:
        headers = {} if authorization is None else {"authorization": authorization}
        return httpx.get(f"{gateway.base_url}/models", headers=headers, trust_env=False)

    return get


def token_of(gateway, form: dict[str, str], **options) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/oauth/token", data=form, trust_env=False, **options)


def form(**more: str) -> dict[str, str]:
    told = {"grant_type": "client_credentials", "client_id": "desk", "client_secret": SECRETS["desk"]}
    return told | more


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic ZGVzazp4", "desk"])
def test_without_a_token_it_is_401(call, authorization):
    reply = call(authorization)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"].startswith("Bearer ")
    assert reply.json()["error"]["type"] == "authentication_error"


def coded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def none_token() -> str:
    claims = {"iss": "desk", "exp": int(time.time()) + 60, "scope": "compute"}
    return ".".join([coded(b'{"alg":"none","typ":"JWT"}'), coded(json.dumps(claims).encode()), ""])


def raw_token(claims: object) -> str:
    """Signed well, whatever it holds."""
    head = ".".join([coded(b'{"alg":"HS256","typ":"JWT"}'), coded(json.dumps(claims).encode())])
    return f"{head}.{coded(hmac.digest(SECRETS['desk'].encode(), head.encode(), 'sha256'))}"


BAD = {
    "alg=none": none_token,
    "HS512": lambda: signed(SECRETS["desk"] * 2, algorithm="HS512"),
    "expired": lambda: signed(exp=int(time.time()) - 60),
    "no exp": lambda: signed(exp=None),
    "not yet": lambda: signed(nbf=int(time.time()) + 120),
    "from the future": lambda: signed(iat=int(time.time()) + 120),
    "unknown tenant": lambda: signed(iss="nobody"),
    "no tenant": lambda: signed(iss=None),
    "a list for a tenant": lambda: raw_token({"iss": ["desk"], "exp": int(time.time()) + 60}),
    "no claims": lambda: raw_token(["desk"]),
    "a day and more": lambda: signed(exp=int(time.time()) + 90_000),
    "another tenant's name": lambda: signed(iss="lab"),
    "another tenant's secret": lambda: signed(SECRETS["lab"]),
    "an audience nobody has": lambda: signed(aud="elsewhere"),
    "words": lambda: "not-a-token",
    "dots": lambda: "...",
    "long": lambda: "a" * 9000,
    "cut": lambda: signed()[:-3],
    "odd dates": lambda: signed(exp="tomorrow"),
    "dates as text": lambda: raw_token({"iss": "desk", "exp": str(10**12)}),
    "huge dates": lambda: signed(exp=10**400),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_token_is_403(call, kind):
    reply = call(f"Bearer {BAD[kind]()}")
    assert reply.status_code == 403, reply.text
    assert "invalid_token" in reply.headers["www-authenticate"]
    assert reply.json()["error"]["code"] == "invalid_token"


def test_good_tokens_are_taken_also_while_a_secret_is_replaced(call):
    assert call(f"Bearer {signed()}").status_code == 200
    assert call(f"bearer {signed(NEXT)}").status_code == 200
    assert call(f"Bearer {signed(exp=int(time.time()) - 10)}").status_code == 200, "clocks may differ"


def test_a_token_that_was_good_is_not_good_for_ever():
    """What was checked is remembered until it expires, not longer."""
    file = {
        "upstream": [{"name": "a", "base_url": "http://127.0.0.1:1", "key_env": "K"}],
        "tenant": {"desk": {"secret_env": "S"}},
        "gateway": {"clock_skew": 0},
    }
    now = [time.time()]
    config = parse_config(file, {"K": "k" * 20, "S": SECRETS["desk"]})
    keeper = Doorkeeper(config, lambda: now[0])
    token = f"Bearer {signed(exp=int(now[0]) + 2)}"
    assert keeper.admit(token).tenant.name == "desk"
    assert keeper.admit(token) is keeper.admit(token)
    now[0] += 1.0
    assert keeper.admit(token).tenant.name == "desk"
    time.sleep(3)  # pyjwt has the clock of the machine
    now[0] = time.time()
    with pytest.raises(ApiError, match="expired"):
        keeper.admit(token)


def test_a_token_is_given_for_a_secret(gateway, call):
    """RFC 6749: by form and by Basic, never to be cached; it asks like one that the tenant signed."""
    by_form = token_of(gateway, form())
    by_header = token_of(gateway, {"grant_type": "client_credentials"}, auth=("desk", NEXT))
    for reply in (by_form, by_header):
        told = reply.json()
        assert (reply.status_code, reply.headers["cache-control"]) == (200, "no-store")
        assert (told["token_type"], told["expires_in"], told["scope"]) == ("Bearer", 3600, "compute")
        assert call(f"Bearer {told['access_token']}").status_code == 200
        assert SECRETS["desk"] not in reply.text
    assert token_of(gateway, form(scope="compute")).json()["scope"] == "compute"


@pytest.mark.parametrize("sent", ["a+b%2F/c=", "a%2Bb%252F%2Fc%3D"])
def test_any_secret_may_stand_in_the_header(sent):
    """As curl -u sends it, and as RFC 6749 wants it: a secret of ``openssl rand -base64`` has a + or /."""
    ending = "a+b%2F/c="
    told = {
        "upstream": [{"name": "up", "base_url": "http://127.0.0.1:1", "key_env": "K"}],
        "tenant": {"desk": {"secret_env": "S"}},
    }
    keeper = Doorkeeper(parse_config(told, {"K": "sk-0123456789", "S": "0" * 32 + ending}))
    basic = base64.b64encode(f"desk:{'0' * 32}{sent}".encode()).decode()
    body = b"grant_type=client_credentials"
    assert (
        keeper.admit(f"Bearer {keeper.issue(body, f'Basic {basic}')['access_token']}").tenant.name == "desk"
    )
    with pytest.raises(ApiError, match="wrong secret"):
        keeper.issue(body, "Basic " + base64.b64encode(f"desk:{'0' * 32}{ending}0".encode()).decode())


@pytest.mark.parametrize(
    ("told", "options", "status", "code"),
    [
        (form(client_secret="wrong" * 10), {}, 401, "invalid_client"),
        (form(client_id="nobody"), {}, 401, "invalid_client"),
        (form(client_id="lab"), {}, 401, "invalid_client"),
        ({"grant_type": "client_credentials"}, {}, 401, "invalid_client"),
        ({"grant_type": "client_credentials"}, {"auth": ("desk", "x")}, 401, "invalid_client"),
        ({}, {"headers": {"authorization": "Basic %%%"}}, 401, "invalid_client"),
        (form(), {"auth": ("desk", SECRETS["desk"])}, 400, "invalid_request"),
        (form(grant_type="password"), {}, 400, "unsupported_grant_type"),
        (form(grant_type=""), {}, 400, "invalid_request"),
        (form(scope="compute admin"), {}, 400, "invalid_scope"),
    ],
)
def test_what_gets_no_token(gateway, told, options, status, code):
    reply = token_of(gateway, told, **options)
    assert (reply.status_code, reply.json()["error"]) == (status, code)
    if status == 401:
        assert reply.headers["www-authenticate"].startswith("Basic ")


def test_scopes_are_no_more_than_the_tenant_has(gateway, as_tenant):
    """A tenant that signs ``admin`` into its own token is still no admin."""
    assert as_tenant("desk", scope="admin metrics").get("/metrics").status_code == 403
    reply = as_tenant("desk", scope="metrics").post("/v1/chat/completions", json=chat_body())
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_scope")
    assert as_tenant("boss", scope="metrics").get("/metrics").status_code == 200


def test_an_audience_is_checked_where_there_is_one(serve):
    gateway = serve(audience="gateway-1")
    token = token_of(gateway, form()).json()["access_token"]
    get = lambda t: httpx.get(f"{gateway.base_url}/models", headers={"authorization": f"Bearer {t}"})  # noqa: E731
    assert get(token).status_code == 200
    assert get(signed(aud="gateway-2")).status_code == 403


@pytest.mark.parametrize("off_s", [-600, 600])
def test_a_clock_that_is_wrong_is_put_right_by_the_servers_date(gateway, off_s):
    """JWTBearer: the token of a clock ten minutes off is refused once, the next one is taken."""
    auth = JWTBearer("desk", SECRETS["desk"], clock=lambda: time.time() + off_s)
    with httpx.Client(auth=auth, base_url=gateway.base_url, trust_env=False) as client:
        assert client.get("/models").status_code == 200
        assert client.get("/models").status_code == 200
    assert auth.tokens_made == 2


def test_our_own_client_asks_through_it(gateway, upstream, tmp_path):
    """``base_url`` and the tenant's secret are all it needs; the key is the gateway's."""
    settings = {"base_url": gateway.base_url, "jwt_client_id": "desk", "data_dir": tmp_path / "mine"}
    with Client(**settings, jwt_client_secret=SECRETS["desk"], thinking=False) as client:
        answer = client.ask("Return exactly: blue")
        assert answer.text == "blue"
        assert [model["id"] for model in client.models()] == ["deepseek-flash", "deepseek-v4-pro"]
        assert client.balance()["is_available"] is True
        assert client.ask("The sky is blue. Is it?", schema={"colour": str}).value.colour
    with Client(**settings, jwt_client_secret=SECRETS["lab"]) as client, pytest.raises(AuthError):
        client.ask("Return exactly: white")
    assert {record.user_id for record in upstream.log.chats} == {"desk"}
