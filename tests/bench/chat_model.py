"""A chat model of LangChain's that asks the Messages API by Anthropic's SDK, and does no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

if TYPE_CHECKING:
    from anthropic import Anthropic, AsyncAnthropic
    from anthropic.types import Message
    from langchain_core.messages import BaseMessage

_MODEL = "claude-sonnet-5-5"


class SdkChatModel(BaseChatModel):
    """For one text as the prompt."""

    _asynchronous: AsyncAnthropic = PrivateAttr()
    _synchronous: Anthropic = PrivateAttr()

    def __init__(self, asynchronous: AsyncAnthropic, synchronous: Anthropic, **fields: Any) -> None:
        super().__init__(**fields)
        self._asynchronous = asynchronous
        self._synchronous = synchronous

    @property
    def _llm_type(self) -> str:
        return "of the benchmark"

    def _generate(self, messages: list[BaseMessage], *_: Any, **_options: Any) -> ChatResult:
        return _result(self._synchronous.messages.create(**_arguments(messages)))

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **_options: Any) -> ChatResult:
        return _result(await self._asynchronous.messages.create(**_arguments(messages)))


def _arguments(messages: list[BaseMessage]) -> dict[str, Any]:
    content = [{"role": "user", "content": message.text} for message in messages]
    return {"model": _MODEL, "max_tokens": 500, "messages": content}


def _result(answer: Message) -> ChatResult:
    message = AIMessage(
        "".join(block.text for block in answer.content if block.type == "text"),
        response_metadata={"model_name": answer.model, "stop_reason": answer.stop_reason},
    )
    return ChatResult(generations=[ChatGeneration(message=message)])
