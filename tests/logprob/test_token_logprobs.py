"""Log-probabilities, entropies and gradients against numpy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rlvr.logprob import token_logprobs
from support.precision import assert_close_where

TEMPERATURES = [1.0, 0.7, 1.9]
Array = np.ndarray[Any, Any]


def make_inputs(num_tokens: int = 13, width: int = 7, vocabulary: int = 41) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(3)
    hidden = rng.normal(size=(num_tokens, width))
    head = rng.normal(size=(vocabulary, width))
    return hidden, head, rng.integers(vocabulary, size=num_tokens)


def log_softmax(hidden: Array, head: Array, temperature: float) -> Array:
    logits = hidden @ head.T / temperature
    logits = logits - logits.max(-1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_values(temperature: float) -> None:
    hidden, head, target = make_inputs()
    logp = log_softmax(hidden, head, temperature)
    found, entropy = token_logprobs(*map(torch.tensor, (hidden, head, target)), temperature=temperature)
    assert_close_where(found, torch.tensor(logp[np.arange(len(target)), target]), 1e-13)
    assert_close_where(entropy, torch.tensor(-(np.exp(logp) * logp).sum(-1)), 1e-13)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradients(temperature: float) -> None:
    """d logp / d logits = (onehot - p) / temperature."""
    hidden, head, target = make_inputs()
    upstream = np.cos(np.arange(len(target)))
    d_logits = (np.eye(len(head))[target] - np.exp(log_softmax(hidden, head, temperature))) / temperature
    d_logits *= upstream[:, None]
    h, w = (torch.tensor(x, requires_grad=True) for x in (hidden, head))
    logp_T, _ = token_logprobs(h, w, torch.tensor(target), temperature=temperature)
    d_hidden, d_head = torch.autograd.grad(logp_T, (h, w), torch.tensor(upstream))
    assert_close_where(d_hidden, torch.tensor(d_logits @ head), 1e-12)
    assert_close_where(d_head, torch.tensor(d_logits.T @ hidden), 1e-12)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_entropy_carries_a_gradient_when_asked(temperature: float) -> None:
    """dH / d logits = -p·(log p + H) / temperature; the log-probabilities keep theirs."""
    hidden, head, target = make_inputs()
    logp = log_softmax(hidden, head, temperature)
    p, upstream, of_logp = np.exp(logp), np.cos(np.arange(len(target))), np.sin(np.arange(len(target)))
    d_logits = -p * (logp - (p * logp).sum(-1, keepdims=True)) / temperature * upstream[:, None]
    d_logits += (np.eye(len(head))[target] - p) / temperature * of_logp[:, None]
    h, w = (torch.tensor(x, requires_grad=True) for x in (hidden, head))
    found = token_logprobs(h, w, torch.tensor(target), temperature=temperature, entropy_gradient=True)
    d_hidden, d_head = torch.autograd.grad(found, (h, w), (torch.tensor(of_logp), torch.tensor(upstream)))
    assert_close_where(d_hidden, torch.tensor(d_logits @ head), 1e-12)
    assert_close_where(d_head, torch.tensor(d_logits.T @ hidden), 1e-12)


def test_the_entropy_carries_no_gradient_unless_asked() -> None:
    hidden, head, target = map(torch.tensor, make_inputs())
    logp_T, entropy_T = token_logprobs(hidden.requires_grad_(), head, target, temperature=1.0)
    assert logp_T.requires_grad and not entropy_T.requires_grad


def test_entropy_of_a_uniform_and_of_a_sure_distribution() -> None:
    hidden = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    head = torch.tensor([[800.0], [0.0], [0.0], [0.0]], dtype=torch.float64)
    logp_T, entropy_T = token_logprobs(hidden, head, torch.tensor([1, 0]), temperature=1.0)
    assert logp_T.tolist() == pytest.approx([-np.log(4), 0.0])
    assert entropy_T.tolist() == pytest.approx([np.log(4), 0.0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_inputs_are_summed_in_float32(dtype: torch.dtype) -> None:
    """Neither the logits nor what follows is rounded to the input's type."""
    hidden, head, target = make_inputs(vocabulary=4096)
    h, w = (torch.tensor(x).to(dtype) for x in (hidden, head))
    logp_T, entropy_T = token_logprobs(h, w, torch.tensor(target), temperature=1.0)
    logits_TV = h.double() @ w.double().T
    expected = logits_TV.log_softmax(-1)
    assert logp_T.dtype == entropy_T.dtype == torch.float32
    assert_close_where(logp_T, expected[torch.arange(len(target)), target], 1e-5, case="logp")
    assert_close_where(entropy_T, -(expected.exp() * expected).sum(-1), 1e-4, case="entropy")
