"""What embeds time and modulates computes in float32 under autocast: its numbers are those without."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from opensama.models.icve import IcveTransformer3DModel
from opensama.models.sama import SamaTransformer3DModel
from tests.models.sizes import ICVE_SIZES, SIZES

TIMES = torch.tensor([1.0, 437.3, 999.0])


def autocast(on: bool = True) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=on)


def watch(model: nn.Module, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """What modules with such names last gave."""
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if name.endswith(names):
            module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    return seen


@pytest.mark.parametrize("text_type", [torch.float32, torch.bfloat16])
def test_samas_time_embedding_and_modulation(text_type):
    torch.manual_seed(0)
    model, text = SamaTransformer3DModel(**SIZES), torch.randn(3, 6, 16).to(text_type)
    with torch.no_grad():
        wanted = model.embed_conditions(TIMES, text.float())[:2]
        with autocast():
            found = model.embed_conditions(TIMES, text)[:2]
            rounded = nn.functional.linear(wanted[0], model.condition_embedder.time_proj.weight)
    assert rounded.dtype == torch.bfloat16, "autocast is on"
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_samas_norms_and_tables():
    torch.manual_seed(0)
    model = SamaTransformer3DModel(**SIZES)
    seen = watch(model, ("norm1", "norm2", "norm3", "norm_q", "norm_k", "norm_out"))
    x = torch.randn(1, 4, 2, 4, 4)
    with torch.no_grad(), autocast():
        model(x, torch.tensor([500.0]), torch.randn(1, 3, 16), x, torch.randn(1, 5, 12))
    assert len(seen) == 2 * (3 + 4) + 1
    assert {out.dtype for out in seen.values()} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_icves_time_embedding_and_modulation():
    torch.manual_seed(0)
    model = IcveTransformer3DModel(**ICVE_SIZES)
    given = {
        "hidden_states": torch.randn(3, 4, 2, 4, 4), "timestep": TIMES, "encoder_hidden_states": torch.randn(3, 5, 16),
        "source_hidden_states": torch.randn(3, 4, 2, 4, 4), "pooled_projections": torch.randn(3, 10),
    }  # fmt: skip
    seen = watch(model, ("time_text_embed", "norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear"))
    with torch.no_grad():
        model(**given)
        wanted = dict(seen)
        with autocast():
            model(**given)
    assert len(seen) == 2 + 2 * 2 + 2 + 1 + 1  # model and refiner; two blocks; two single ones; the refiner's; the last
    for name, out in seen.items():
        theirs = wanted[name]
        ours, theirs = (x[0] if isinstance(x, tuple) else x for x in (out, theirs))
        assert ours.dtype == torch.float32, name
        if "refiner" not in name and "context_embedder" not in name:  # these also read the text's mean
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, msg=name)
