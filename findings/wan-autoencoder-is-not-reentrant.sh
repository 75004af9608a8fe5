#!/usr/bin/env bash
# diffusers 0.42.1: AutoencoderKLWan keeps the features of the frames before on the module while it decodes. A second
# decoding that begins before the first one has ended (another thread; here, without luck, a hook in the middle of the
# first) changes the first one's pixels. Nothing is raised. AutoencoderKLHunyuanVideo, without such a cache, is right.
#
# The guess before running: a frozen module under no_grad in eval mode is a pure function, so calls may overlap.
#
# Seen:
#   torch 2.13.0, diffusers 0.42.1
#   expected: the same pixels whether or not another decoding happens in between
#   AutoencoderKLWan: another latent's decoding in between changes the pixels, no exception
#   AutoencoderKLHunyuanVideo: the same pixels
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 numpy==2.3.5
"$place/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLWan

print(f"torch {torch.__version__.partition('+')[0]}, diffusers {diffusers.__version__}")
print("expected: the same pixels whether or not another decoding happens in between")
torch.manual_seed(0)
torch.set_num_threads(1)
wan = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
hunyuan = AutoencoderKLHunyuanVideo(
    latent_channels=4, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
).eval()


@torch.no_grad()
def decode_around(vae, one, other):
    """The pixels of `one`, with `other` decoded once, in the middle."""
    calls = 0

    def interrupt(module, given, out):
        nonlocal calls
        calls += 1
        if calls == (2 if vae is wan else 1):  # Wan's decoder is called once for each latent frame
            vae.decode(other)

    hook = vae.decoder.mid_block.register_forward_hook(interrupt)
    try:
        return vae.decode(one).sample
    finally:
        hook.remove()


one, other = torch.randn(2, 1, 4, 3, 4, 4).unbind()
for vae in (wan, hunyuan):
    with torch.no_grad():
        alone = vae.decode(one).sample
    same = torch.equal(decode_around(vae, one, other), alone)
    said = "the same pixels" if same else "another latent's decoding in between changes the pixels, no exception"
    print(f"{type(vae).__name__}: {said}")
    assert same == (vae is hunyuan)
PYTHON
