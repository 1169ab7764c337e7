"""OpenAI's image API, or any compatible server (``pip install 'charloom[openai]'``): edits of the reference."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from charloom.core.errors import UserError
from charloom.dataset.sources import web
from charloom.dataset.sources.generated import inputs, make, problems, settings
from charloom.dataset.sources.orders import Order, Refused, Wrong

if TYPE_CHECKING:
    from charloom.config.character import Character

__all__ = ["inputs", "make", "open", "picture", "problems", "settings"]

WHERE = "images.openai"
REFUSALS = ("moderation_blocked", "content_policy_violation", "safety")
"""Words in the code or message of an error that mean a refusal."""


def picture(character: Character) -> dict[str, Any]:
    """Model, size, quality, and how closely the reference is kept."""
    assert character.generation is not None
    return {key: character.generation.settings[key] for key in ("model", "size", "quality", "input_fidelity")}


def open(how: dict[str, Any]) -> OpenAI:
    """Open the API with the key from the environment; a server on this machine may do without.

    Raises:
        UserError: the package or the key is missing.
    """
    return OpenAI(how)


class OpenAI:
    """Edits pictures one by one; ``how`` has ``key_from``, ``base_url``, ``timeout`` and ``local``."""

    def __init__(self, how: dict[str, Any]) -> None:
        try:
            import openai
        except ImportError:
            raise UserError(f"{WHERE}: needs a package; pip install 'charloom[openai]'") from None
        self.secret = web.Secret(how["key_from"], needed=not how["local"])
        self.how, self.openai = how, openai
        self._http = web.client(how["timeout"])
        self._client = openai.OpenAI(
            api_key=self.secret.value,
            base_url=how["base_url"],
            timeout=how["timeout"],
            max_retries=0,
            http_client=self._http,
        )

    def fresh(self) -> None:
        pass  # requests are independent

    def draw(self, order: Order) -> bytes:
        given = {
            key: order.settings[key]
            for key in ("model", "size", "quality", *(["input_fidelity"] if order.reference else []))
            if order.settings[key] != "omit"
        }
        images = self._client.images
        try:
            if order.reference:
                file = ("reference.png", order.reference.read_bytes(), "image/png")
                answer = images.edit(image=file, prompt=order.prompt, n=1, **given)
            else:
                answer = images.generate(prompt=order.prompt, n=1, **given)
        except self.openai.APIStatusError as error:
            words = f"{error.code or ''} {error.message}".strip()
            if error.status_code in (400, 403, 422) and any(sign in words.lower() for sign in REFUSALS):
                raise Refused(self.secret.hide(words)) from None
            wait = error.response.headers.get("retry-after")
            raise web.refusal_of(error.status_code, words, self.secret, WHERE, wait) from None
        except Exception as error:  # whatever the client and its HTTP library make of an answer
            raise web.judged(error, self.secret, WHERE, self.how["timeout"]) from None
        return self._picture(answer)

    def _picture(self, answer: Any) -> bytes:
        data = getattr(answer, "data", None)  # the client returns a str if the answer was not JSON
        first = data[0] if isinstance(data, list) and data else None
        packed, address = getattr(first, "b64_json", None), getattr(first, "url", None)
        if isinstance(packed, str) and packed:
            try:
                return base64.b64decode(packed.rpartition(",")[2], validate=True)
            except (binascii.Error, ValueError):
                raise Wrong("the picture in the answer is not base64") from None
        if isinstance(address, str) and address.startswith(("http://", "https://")):
            return self._fetched(address)
        raise Wrong("the answer contains no picture")

    def _fetched(self, address: str) -> bytes:
        """Download the picture at an address, without sending the key."""
        try:
            answer = self._http.get(address)
        except Exception as error:  # as above
            raise web.judged(error, self.secret, WHERE, self.how["timeout"]) from None
        if answer.status_code != 200:
            raise Wrong(f"the picture's address answers {answer.status_code}")
        return bytes(answer.content)
