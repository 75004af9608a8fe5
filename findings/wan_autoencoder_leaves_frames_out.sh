#!/usr/bin/env bash
# diffusers 0.42.1: AutoencoderKLWan never looks at frames beyond the last 4n + 1; AutoencoderKLHunyuanVideo does.
#
# Guess, written down first: a clip of 8 frames is padded to 9, or refused, or its latents at least depend on all 8, as in a
# convolution with stride. Both autoencoders compress time by 4 after a first frame, so both do the same.
#
# Seen: Wan's encodes 5 to 8 frames to the same two latent frames, to the bit, whatever frames 6 to 8 show, without a word.
# HunyuanVideo's makes two latent frames of 8, too, but they depend on frames 6 to 8. Both decode to 5 frames.
#   diffusers 0.42.1
#   expected: latents that depend on every frame of 8, or an error
#   AutoencoderKLWan: 8 frames -> 2 latent frames -> 5 frames; frames 6 to 8 change no latent
#   AutoencoderKLHunyuanVideo: 8 frames -> 2 latent frames -> 5 frames; frames 6 to 8 change latents by up to 0.017
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 numpy==2.3.5
"$place/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLWan

print(f"diffusers {diffusers.__version__}")
print("expected: latents that depend on every frame of 8, or an error")
torch.manual_seed(0)
wan = AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
                       latents_std=[1.0] * 4).eval()
hunyuan = AutoencoderKLHunyuanVideo(
    block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4,
    down_block_types=("HunyuanVideoDownBlock3D",) * 4, up_block_types=("HunyuanVideoUpBlock3D",) * 4).eval()
clip = torch.rand(1, 3, 8, 32, 32) * 2 - 1
other = clip.clone()
other[:, :, 5:] = -clip[:, :, 5:]
for model in (wan, hunyuan):
    with torch.no_grad():
        first, second = (model.encode(frames).latent_dist.mode() for frames in (clip, other))
        decoded = model.decode(first).sample.shape[2]
    same = torch.equal(first, second)
    print(f"{type(model).__name__}: 8 frames -> {first.shape[2]} latent frames -> {decoded} frames; frames 6 to 8 change "
          f"{'no latent' if same else f'latents by up to {float((first - second).abs().max()):.3f}'}")
    assert (first.shape[2], decoded, same) == (2, 5, model is wan)
PYTHON
