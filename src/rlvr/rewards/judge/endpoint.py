"""Ask an OpenAI-compatible /chat/completions, with a time limit, retries and a cost cap. No message shows the key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from rlvr.rewards.judge import ledger
from rlvr.rewards.judge.options import LONGEST_WAIT_SECONDS, Options, find_key

FIRST_WAIT_SECONDS = 0.5
REPLY_BYTES = 2**16  # a longer reply is not read
SHOWN = 300  # characters of a refusal in a message
MORE_TOKENS = 100  # at most that many are added to a request by a chat template

Ask = Callable[[dict[str, Any]], Awaitable[str]]


class EndpointError(Exception):
    """No reply, and trying again is useless. The message does not contain the key."""


@dataclass(eq=False)
class _Failure(Exception):
    """One request failed. `wait_seconds` is the wait that the server asks for; `is_billed` if it may be billed."""

    message: str
    is_final: bool
    is_billed: bool
    wait_seconds: float | None = None


@asynccontextmanager
async def connect(options: Options, key: str, account: ledger.Account) -> AsyncIterator[Ask]:
    """Yield a function from the body of a request to the text of the reply. It raises EndpointError.

    Too many requests, a server error, a timeout and a lost connection are retried `retries` times, after the time given
    by Retry-After or after 0.5 s, 1 s, 2 s and so on.
    """
    headers = {"Accept-Encoding": "identity"}  # a few compressed bytes may hold gigabytes
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    json_mode: dict[str, Any] = {"response_format": {"type": "json_object"}}
    turns = asyncio.Semaphore(options.concurrency)  # of this process: more would only wait for slots
    async with httpx2.AsyncClient(headers=headers, timeout=None) as client:

        async def ask(body: dict[str, Any]) -> str:
            wait, failures = FIRST_WAIT_SECONDS, 0
            while True:
                request = body | json_mode
                try:
                    async with turns:
                        return await _request(client, options, account, request)
                except _Failure as failure:
                    if "response_format" in request and "response_format" in failure.message:
                        json_mode.clear()  # the server does not support it
                        continue
                    failures += 1
                    await asyncio.sleep(_pause(failure, failures, wait, options))
                    wait = min(2 * wait, LONGEST_WAIT_SECONDS)

        yield ask


def _pause(failure: _Failure, failures: int, wait: float, options: Options) -> float:
    """Seconds until the next try. Raises EndpointError if there is none."""
    pause = wait if failure.wait_seconds is None else failure.wait_seconds
    if failure.is_final or failures > options.retries or pause > LONGEST_WAIT_SECONDS:
        wait_note = f" (it asks to wait {pause:g} s)" if pause > LONGEST_WAIT_SECONDS else ""
        raise EndpointError(f"{failure.message}{wait_note}, try {failures} of {options.retries + 1}") from None
    return pause


async def _request(client: httpx2.AsyncClient, options: Options, account: ledger.Account, body: dict[str, Any]) -> str:
    """Send one request under the cost cap. A cost that may be billed stays booked at its upper bound until known."""
    letters = sum(len(message["content"].encode()) for message in body["messages"])  # a token has at least one byte
    bound = _cost(options, letters + MORE_TOKENS, options.max_output_tokens)
    async with ledger.slot(account):
        if not ledger.reserve(account, bound):
            raise EndpointError(
                f"the cost cap is reached: {ledger.spent(account):.4g} of max_cost {options.max_cost:g} are spent, and "
                f"one more request may cost {bound:.2g}; raise max_cost, or delete {account.folder / 'spent.json'}"
            )
        try:
            text, usage = await _post(client, options, body)
        except _Failure as failure:
            if not failure.is_billed:
                ledger.correct(account, -bound)
            raise
        if usage is not None:
            ledger.correct(account, _cost(options, *usage) - bound)
        return text


def _cost(options: Options, input_tokens: int, output_tokens: int) -> float:
    price_in, price_out = options.price_per_million_input, options.price_per_million_output
    return (input_tokens * price_in + output_tokens * price_out) / 1e6


async def _post(
    client: httpx2.AsyncClient, options: Options, body: dict[str, Any]
) -> tuple[str, tuple[int, int] | None]:
    """The text of the reply and its tokens in and out, None if the server does not count. Raises _Failure."""
    url = f"{options.base_url.rstrip('/')}/chat/completions"
    try:
        async with asyncio.timeout(options.seconds):  # for the whole request, even if the reply trickles
            response = await _limited(client, url, body, find_key(options))
    except TimeoutError:
        raise _Failure(f"{url} gave no reply within {options.seconds:g} s", False, is_billed=True) from None
    except httpx2.ConnectError as error:
        raise _Failure(f"{url} cannot be reached ({error})", False, is_billed=False) from None
    except httpx2.HTTPError as error:
        raise _Failure(f"{url} broke off ({type(error).__name__}: {error})", False, is_billed=True) from None
    if response.status_code != 200:
        again = response.status_code in (408, 429) or response.status_code >= 500
        hint = f"; check the key in {options.api_key_env}" if response.status_code in (401, 403) else ""
        message = f"{url} answered {response.status_code}{hint}: {response.text[:SHOWN]}"
        raise _Failure(message, not again, is_billed=False, wait_seconds=_wait(response.headers.get("Retry-After")))
    try:
        reply = response.json()
        text = reply["choices"][0]["message"]["content"] or ""
        usage = reply.get("usage")
        counts = (_count(usage["prompt_tokens"]), _count(usage["completion_tokens"])) if usage else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        message = f"{url} did not answer with a chat completion: {response.text[:SHOWN]!r}"
        raise _Failure(message, False, is_billed=True) from None
    return str(text), counts


async def _limited(client: httpx2.AsyncClient, url: str, body: dict[str, Any], key: str) -> httpx2.Response:
    """The response, of which REPLY_BYTES are read at most, without the key. Raises _Failure for a longer one."""
    async with client.stream("POST", url, json=body) as response:
        content = bytearray()
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > REPLY_BYTES:
                raise _Failure(f"{url} sent more than {REPLY_BYTES:,} bytes", True, is_billed=True)
    shown = bytes(content.replace(key.encode(), b"***") if key else content)
    return httpx2.Response(response.status_code, headers=response.headers, content=shown)


def _count(tokens: Any) -> int:
    """A number of tokens; a negative one would refund what was spent."""
    return max(0, int(tokens))


def _wait(header: str | None) -> float | None:
    """The seconds of a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # TypeError: a date without a zone
        return None
