"""On a GPU a model reads and learns as on the CPU."""

import pytest
import torch
from test_contracts import converted, read
from tiny import tokens

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", ["delta", "lora", "prime"])
def test_reading_in_calls_on_a_gpu_gives_the_logits_and_losses_of_the_cpu(kind):
    ids = tokens(2, 29)
    logits, cache = read(converted("llama", fast_weights=kind, rank=4), ids)
    model = converted("llama", fast_weights=kind, rank=4).to("cuda")
    there, moved = read(model, ids.to("cuda"), 7)
    torch.testing.assert_close(there.cpu(), logits, atol=1e-3, rtol=1e-3)
    for ours, theirs in zip(cache.losses, moved.losses, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
