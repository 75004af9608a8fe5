"""The embedded models' autoencoder, trained to rebuild our drawings and photograph-like textures.

    loss = mean (x' - x)^2 + 0.25 * mean w (grad x' - grad x)^2,   x' = decode(encode(x) + noise)

The noise on the codes, up to `NOISE` of their spread, teaches the decoder what to do where a transformer's answer is
off: each cell's code is off by itself, so pictures fall into cells. w counts the steps between cells `BORDER` times.
The code is principal components (`PatchAutoencoder.start_from_components`) and stays so; trained is the decoder's part
that is no linear map. So it can be trained on, before an editor is trained or after. Where an editor is there, what it
answers to drawn edits is decoded, too, and held to the right answers' pixels: noise is off everywhere alike, an editor
where it is unsure.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from opensama.data.prefetch import one_core
from opensama.models.tiny import PatchAutoencoder
from opensama.pipeline.sama import SamaPipeline
from opensama.runtime import autocast
from opensama.training.drawing import DRAWS, DrawSettings, draw_footage, join_drawn
from opensama.training.footage import footage
from opensama.training.stage import Batch, BatchLoader, ReadySource, TrainingStage
from opensama.training.textures import dead_leaves, moving_crops
from opensama.world import plan_edit, render_styled

CUTS = 4  # drawing costs more than cutting
NOISE, BORDER = 0.4, 4.0


def drawn_clips(n: int, first: int, t: int = 5, side: int = 128, device: str = "cpu") -> Tensor:
    """[n 3 t side side] in -1..1 from the world's train split: sources and answers in equal parts."""
    plans = [plan_edit(first + i) for i in range(n)]
    looks = [p.source if i % 2 else p.target for i, p in enumerate(plans)]
    return render_styled(looks, t, side, side, device).transpose(1, 2) * 2 - 1


class EditorAnswers:
    """Codes of an editor's answers to drawn edits and styled footage of 5x128x128, and the right answers' pixels."""

    def __init__(self, editor: SamaPipeline, count: int, seed: int = 0):
        self.editor, self.count, self.seed = editor, count, seed
        editor.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def __call__(self, index: int) -> Batch:
        """`codes` [b c 2 8 8] and `answers` [b 3 5 128 128] in [-1, 1]; a quarter are of footage."""
        names = [f"decoder/{self.seed}/{index}/{i}" for i in range(self.count)]
        filmed, how = -(-self.count // 4), DrawSettings(frames=5, device=self.editor.device)
        parts = [draw_footage(names[:filmed], how)]
        if names[filmed:]:
            parts.append(DRAWS["full" if index % 2 else "core"](names[filmed:], how))
        drawn = join_drawn(parts)
        source, target = (x.transpose(1, 2) * 2 - 1 for x in (drawn.pictures.source, drawn.pictures.target))
        latents, _ = self.editor(source, drawn.texts, seed=index, output_type="latent", return_dict=False)
        assert isinstance(latents, Tensor)
        return {"codes": self.editor.denormalise(latents), "answers": target}


class Drawings(ReadySource):
    """`clips` [b 3 5 side side] in [-1, 1]: a sixth textures, a sixth such as a camera would have taken them, the rest
    cuts of 128x128 drawings, `CUTS` a clip. With `answers` what these give comes along."""

    def __init__(self, *, batch: int, pictures: int, side: int, seed: int, answers: EditorAnswers | None = None):
        super().__init__()
        self.answers = answers
        self.batch_size, self.side, self.seed = batch, side, seed
        self.textures = batch - 2 * batch // 3 // CUTS * CUTS
        self.pictures = torch.cat([dead_leaves(8, seed=seed + i) for i in range(max(1, pictures // 8))])

    def read(self, index: int) -> Batch:
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        taken = [f"autoencoder/{self.seed}/{index}/{i}" for i in range(self.textures // 2)]
        films = [footage(name, 5, self.side, self.side).transpose(0, 1)[None] * 2 - 1 for name in taken]
        textures = moving_crops(self.pictures, self.textures - len(films), 5, self.side, generator=g)
        drawn = (self.batch_size - self.textures) // CUTS
        whole = drawn_clips(drawn, index * drawn)
        corners = torch.randint(0, 128 - self.side + 1, (CUTS, 2), generator=g).tolist()
        cuts = (whole[..., y : y + self.side, x : x + self.side] for y, x in corners)
        return {"clips": torch.cat((textures, *films, *cuts))} | (self.answers(index) if self.answers else {})


class AutoencoderStage(TrainingStage):
    """Trains the decoder's non-linear part; the losses say how well textures and drawings come back, apart."""

    loader: BatchLoader

    def __init__(
        self,
        vae: PatchAutoencoder,
        *,
        name: str = "autoencoder",
        batch: int = 24,
        pictures: int = 256,
        side: int = 64,
        seed: int = 0,
        answers: EditorAnswers | None = None,
    ):
        if answers:
            batch //= 2
        self.vae, self.drawings = vae, Drawings(batch=batch, pictures=pictures, side=side, seed=seed, answers=answers)
        super().__init__(name, BatchLoader(self.drawings, next(vae.parameters()).device))
        vae.requires_grad_(True)
        vae.linear_in.requires_grad_(False)

    def start(self, drawings: int = 640) -> None:
        """Principal components of a mixed batch: that many drawings, in lots of 16, and a fifth as many textures."""
        g = torch.Generator().manual_seed(self.drawings.seed)
        textures = moving_crops(self.drawings.pictures, drawings // 5, 5, 96, generator=g)
        with ThreadPoolExecutor(torch.get_num_threads(), initializer=one_core) as threads:
            drawn = list(threads.map(lambda i: drawn_clips(16, 16 * i)[..., :96, :96], range(drawings // 16)))
        self.vae.start_from_components(torch.cat((textures, *drawn)).to(next(self.vae.parameters()).device))

    def modules(self) -> Mapping[str, nn.Module]:
        return {"vae": self.vae}

    def step(self, index: int) -> dict[str, Tensor]:
        batch = self.loader(index)
        x = batch["clips"]
        with autocast(x.device):
            z = self.vae.encode(x).latent_dist.mode()
            spread = z.detach().float().std((0, 2, 3, 4), keepdim=True)
            level = NOISE * torch.rand(len(z), 1, 1, 1, 1, device=z.device)
            out = self.vae.decode(z + level * spread * torch.randn_like(z)).sample.float()
        errors, textures = [out - x], self.drawings.textures
        parts = {"textures": errors[0][:textures], "drawings": errors[0][textures:]}
        if "codes" in batch:
            with autocast(x.device):
                out = self.vae.decode(batch["codes"]).sample.float()
            errors.append(out - batch["answers"])
            parts["answers"] = errors[-1]
        loss = torch.stack([self._loss(error) for error in errors]).mean()
        return {"loss": loss} | {f"psnr_{name}": _psnr(error.detach()) for name, error in parts.items()}

    def _loss(self, error: Tensor) -> Tensor:
        between = torch.arange(1, error.shape[-1], device=error.device) % self.vae.config["scale_factor_spatial"] == 0
        weight = torch.where(between, BORDER, 1.0)
        slopes = [(error.transpose(-1, axis).diff(dim=-1).square() * weight).mean() for axis in (-1, -2)]
        return error.square().mean() + 0.25 * sum(slopes) / 2


def _psnr(error: Tensor) -> Tensor:
    """Of pixels in [-1, 1], in dB."""
    return -10 * torch.log10(error.square().mean() / 4)


@torch.no_grad()
def set_latent_statistics(vae: PatchAutoencoder, clips: Tensor) -> None:
    """Writes `latents_mean` and `latents_std` into the config, measured on `clips` [b 3 t h w].

    The divisor is the geometric mean of a channel's own spread and that of all channels together: strong channels stay
    a little stronger, so that the loss minds them more, as the eye does.
    """
    z = vae.encode(clips).latent_dist.mode().float()
    mean, std = z.mean((0, 2, 3, 4)), z.std((0, 2, 3, 4))
    common = std.square().mean().sqrt()
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=(std * common).sqrt().tolist())
