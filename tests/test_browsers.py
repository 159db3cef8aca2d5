"""A server that asks for no key, as a page of somebody else would use it from a browser on the same machine."""

import httpx
import pytest
from served import HELLO, NAME, quick, served


@pytest.fixture(scope="module")
def model():
    return quick()


def test_pages_of_other_origins_say_and_erase_nothing(model, tmp_path):
    body = {"model": NAME, "messages": HELLO, "user": "ines", "max_tokens": 1}
    with served(tmp_path, model) as (url, service):
        chat, ines = f"{url}/v1/chat/completions", f"{url}/v1/memories/ines"
        assert httpx.post(chat, json=body).status_code == 200  # of a program, which names no origin
        foreign = [{"Origin": origin} for origin in ("http://localhost:9", "https://evil.example", "null", f"{url}0")]
        foreign += [{"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"} for site in ("cross-site", "same-site")]
        for headers in foreign:
            for reply in (
                httpx.post(chat, json=body, headers=headers),
                httpx.get(ines, headers=headers),
                httpx.delete(ines, headers=headers),
                httpx.options(ines, headers=headers | {"Access-Control-Request-Method": "DELETE"}),
            ):
                assert reply.status_code == 403 and "may only ask" in reply.json()["error"]["message"]
                assert not any(name.startswith("access-control") for name in reply.headers)
        assert service.users.get("ines").waiting == 2
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert httpx.get(ines, headers=link).status_code == 200
        assert httpx.delete(ines, headers=link).status_code == 403
        own = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
        assert httpx.post(chat, json=body, headers=own).status_code == 200
        assert httpx.delete(ines, headers=own).status_code == 200


def test_whoever_has_the_key_is_served_whatever_its_origin(model, tmp_path):
    with served(tmp_path, model, key="key") as (url, _):
        headers = {"Authorization": "Bearer key", "Origin": "https://chat.example", "Host": "api.example"}
        assert httpx.get(f"{url}/v1/memories", headers=headers).json() == {"object": "list", "data": []}
        assert httpx.get(f"{url}/v1/memories", headers={"Origin": url}).status_code == 401
