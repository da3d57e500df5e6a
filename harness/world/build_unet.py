"""The miniature denoiser: a UNet2DConditionModel on cached latents, and the folder that StableDiffusionPipeline loads.

v-prediction (Salimans & Ho 2022, section 4) with min-SNR weights (Hang et al. 2023, equation 9 in its v-prediction form),
one caption in ten left empty for classifier-free guidance (Ho & Salimans 2022).
"""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from harness.world.build_clip import CONTEXT, WIDTH, captions, text_encoder
from harness.world.build_vae import SHAPE as VAE_SHAPE
from harness.world.training import Schedule, device, fit

if TYPE_CHECKING:
    import torch

SHAPE = {"sample_size": 16, "in_channels": VAE_SHAPE["latent_channels"], "out_channels": VAE_SHAPE["latent_channels"],
         "block_out_channels": (96, 144, 192), "layers_per_block": 1, "cross_attention_dim": WIDTH, "attention_head_dim": 4, "norm_num_groups": 16,
         "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
         "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")}
NOISE = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "v_prediction"}
SCHEDULE = Schedule(steps=3200, batch=64, learning_rate=8e-4, ema=0.9985)
SNR_GAMMA = 5.0
EMPTY = 0.1
"""share of captions left empty"""


def build(folder: Path, images: "torch.Tensor", table: Any, vae: Any, clip: Any, progress: Callable[[dict], None],
          how: Schedule = SCHEDULE) -> Any:
    """Train on uint8 images (n, 3, 64, 64) and their truth table and save the pipeline `folder/pipeline`; returns (pipeline, curve).

    `vae` is the miniature AutoencoderKL, `clip` the miniature open_clip model whose text tower conditions the denoiser.
    """
    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel

    mean, std = latents(vae, images, progress)
    encoder, tokenizer = text_encoder(clip).to(device()), clip_tokenizer(folder / "tokenizer")
    torch.manual_seed(how.seed)
    unet = UNet2DConditionModel(**SHAPE).to(device())
    noise, truth = DDPMScheduler(**NOISE), table.to_dict("records")

    def loss(generator: "torch.Generator", step: int) -> "torch.Tensor":
        index = torch.randint(len(mean), (how.batch,), generator=generator)
        words = _some_empty(captions([truth[i] for i in index.tolist()], _rng(generator)), generator)
        with torch.no_grad():
            context = encoder(tokenizer(words, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device()))[0]
        z = mean[index].float() + std[index].float() * torch.randn(mean[index].shape, generator=generator)
        return _v_loss(unet, noise, z, context, generator)

    curve = fit(unet, loss, how, folder, progress, "unet")
    pipeline = assemble(vae, encoder, tokenizer, unet)
    save(pipeline, folder / "pipeline")
    return pipeline, curve


def latents(vae: Any, images: "torch.Tensor", progress: Callable[[dict], None]) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Posterior mean and standard deviation of every picture, each a float16 tensor (n, 8, 16, 16)."""
    import torch

    parts = []
    with torch.no_grad(), torch.autocast(device(), dtype=torch.bfloat16):
        for i, batch in enumerate(images.split(256)):
            posterior = vae.encode((batch.float() / 127.5 - 1).to(device())).latent_dist
            parts.append((posterior.mean.half().cpu(), posterior.std.half().cpu()))
            progress({"stage": "encode", "step": min((i + 1) * 256, len(images)), "of": len(images)})
    return torch.cat([m for m, _ in parts]), torch.cat([s for _, s in parts])


def _rng(generator: "torch.Generator") -> random.Random:
    import torch

    return random.Random(int(torch.randint(2**31, (1,), generator=generator)))


def _some_empty(words: list[str], generator: "torch.Generator") -> list[str]:
    import torch

    keep = torch.rand(len(words), generator=generator) >= EMPTY
    return [w if k else "" for w, k in zip(words, keep.tolist())]


def _v_loss(unet: Any, noise: Any, z: "torch.Tensor", context: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
    """Mean squared error of the velocity, each sample weighted by min(SNR, gamma) / (SNR + 1)."""
    import torch

    epsilon = torch.randn(z.shape, generator=generator)
    t = torch.randint(noise.config.num_train_timesteps, (len(z),), generator=generator)
    noisy, target = noise.add_noise(z, epsilon, t), noise.get_velocity(z, epsilon, t)
    alpha = noise.alphas_cumprod[t]
    snr = alpha / (1 - alpha)
    said = unet(noisy.to(device()), t.to(device()), context).sample.float()
    error = (said - target.to(device())).square().mean((1, 2, 3))
    return (error * (snr.clamp(max=SNR_GAMMA) / (snr + 1)).to(device())).mean() * 4


def clip_tokenizer(folder: Path) -> Any:
    """CLIP's own BPE, from the vocabulary that open_clip ships, as a transformers CLIPTokenizer padded like open_clip's (id 0)."""
    import open_clip.tokenizer as source
    from transformers import CLIPTokenizer

    with gzip.open(source.default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(source.bytes_to_unicode().values())
    words = [*letters, *(c + "</w>" for c in letters), *("".join(m.split()) for m in merges), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token="!", model_max_length=CONTEXT)


def assemble(vae: Any, encoder: Any, tokenizer: Any, unet: Any) -> Any:
    """An ordinary StableDiffusionPipeline of the four parts, with DPM-Solver++ (2M) as its scheduler and no safety checker."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(vae=vae, text_encoder=encoder, tokenizer=tokenizer, unet=unet, scheduler=DPMSolverMultistepScheduler(**NOISE, steps_offset=1),
                                   safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def save(pipeline: Any, folder: Path) -> None:
    """Save a pipeline in half precision as safetensors; every config says float32, so plain loading on a CPU just works."""
    import torch

    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for part, extra in (("text_encoder", {"dtype": "float32"}), ("vae", {})):
        config = folder / part / "config.json"
        said = {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"}  # where it was trained is nobody's business
        config.write_text(json.dumps({**said, **extra}, indent=2, sort_keys=True) + "\n")
    pipeline.to(torch.float32)
