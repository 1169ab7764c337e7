"""Google's Gemini API (``pip install 'charloom[gemini]'``): a chat that gets the reference and a prompt per picture.

In long chats about one person the model mistakes them for a public figure and refuses. So each chat makes few pictures,
and a refused prompt is repeated in a fresh one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from charloom.core.errors import UserError
from charloom.dataset.sources import web
from charloom.dataset.sources.generated import inputs, make, problems, settings
from charloom.dataset.sources.orders import Order, Refused, Wrong

if TYPE_CHECKING:
    from charloom.config.character import Character

__all__ = ["inputs", "make", "open", "picture", "problems", "settings"]

WHERE = "images.gemini"
REFUSALS = ("SAFETY", "PROHIBITED", "BLOCKLIST", "RECITATION", "SPII", "NO_IMAGE", "IMAGE_OTHER", "MODEL_ARMOR")
"""Words in the finish reasons by which the API refuses."""


def picture(character: Character) -> dict[str, Any]:
    """Model, size and aspect ratio."""
    assert character.generation is not None
    return {key: character.generation.settings[key] for key in ("model", "size", "aspect_ratio")}


def open(how: dict[str, Any]) -> Gemini:
    """Open the API with the key from the environment.

    Raises:
        UserError: the package or the key is missing.
    """
    return Gemini(how)


class Gemini:
    """Chats with an image model; ``how`` has ``key_from``, ``base_url``, ``timeout`` and ``per_chat``."""

    def __init__(self, how: dict[str, Any]) -> None:
        try:
            from google import genai
            from google.genai import types
        except ImportError:
            raise UserError(f"{WHERE}: needs a package; pip install 'charloom[gemini]'") from None
        self.secret = web.Secret(how["key_from"])
        self.how, self.types = how, types
        self._http = web.client(how["timeout"])
        options = types.HttpOptions(
            base_url=how.get("base_url"), timeout=int(how["timeout"] * 1000), httpx_client=self._http
        )
        # Explicit: otherwise the environment may select another service or key.
        self._client = genai.Client(vertexai=False, api_key=self.secret.value, http_options=options)
        self._chat: Any = None
        self._pictures = 0

    def fresh(self) -> None:
        self._chat, self._pictures = None, 0

    def draw(self, order: Order) -> bytes:
        from google.genai import errors

        if self._pictures >= self.how["per_chat"]:
            self.fresh()
        chat = self._chat or self._client.chats.create(model=order.settings["model"], config=self._config(order))
        parts: list[Any] = [order.prompt]
        if order.reference:
            parts.insert(0, self.types.Part.from_bytes(data=order.reference.read_bytes(), mime_type="image/png"))
        try:
            answer = chat.send_message(parts)
        except errors.APIError as error:
            self.fresh()
            headers = getattr(error.response, "headers", None) or {}
            words = f"{error.status or ''} {error.message or ''}".strip()
            raise web.refusal_of(error.code or 500, words, self.secret, WHERE, headers.get("retry-after")) from None
        except Exception as error:  # whatever the client and its HTTP library make of an answer
            self.fresh()
            raise web.judged(error, self.secret, WHERE, self.how["timeout"]) from None
        self._chat = chat
        self._pictures += 1
        return self._picture(answer)

    def _config(self, order: Order) -> Any:
        size = order.settings["size"]
        shape = {"aspect_ratio": order.settings["aspect_ratio"], **({} if size == "own" else {"image_size": size})}
        return self.types.GenerateContentConfig(
            response_modalities=["TEXT", "IMAGE"],
            image_config=self.types.ImageConfig(**shape),
            automatic_function_calling=self.types.AutomaticFunctionCallingConfig(disable=True),
        )

    def _picture(self, answer: Any) -> bytes:
        """The last picture of an answer; those that a thinking model drew before are drafts."""
        candidates = getattr(answer, "candidates", None) or []
        content = getattr(candidates[0], "content", None) if candidates else None
        parts = [part for part in (getattr(content, "parts", None) or []) if not part.thought]
        found = [part.inline_data.data for part in parts if part.inline_data and part.inline_data.data]
        if found:
            return bytes(found[-1])
        said = " ".join(part.text for part in parts if part.text)
        feedback = getattr(answer, "prompt_feedback", None)
        reasons = [getattr(candidates[0], "finish_reason", None)] if candidates else []
        reasons.append(getattr(feedback, "block_reason", None))
        named = [str(getattr(reason, "value", reason)) for reason in reasons if reason]
        if said or any(sign in name for name in named for sign in REFUSALS) or (feedback and named):
            raise Refused(self.secret.hide(said or ", ".join(named)))
        raise Wrong("the answer contains no picture")
